"""Methods side by side: parameters, bytes that stay, activations, moments, the peak and FLOPs; two
answers with only what differs; and what lengths of samples say: the batches of an epoch, the worst
one's memory, the average one's time."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

from lora_profiler.memory.prediction import CATEGORIES, MOMENTS, Category, Moment
from lora_profiler.planning.answers import Answer
from lora_profiler.report import labels
from lora_profiler.report.blocks import RowKind, Rows, Table
from lora_profiler.report.labels import UNKNOWN, adapter_label, capital, method_label, way_label
from lora_profiler.units import (
    byte_unit,
    count_text,
    flops_text,
    percent_text,
    seconds_text,
    short_count_text,
    short_in_unit,
)

if TYPE_CHECKING:
    from lora_profiler.planning.over_data import BatchPeak, OverData
    from lora_profiler.question.batching.batches import Batching

N = TypeVar("N", int, float)


def comparison_table(answers: Sequence[Answer]) -> Table:
    """Parameters, persistent bytes, activations, moments, peak and FLOPs, one column a method.

    With full fine-tuning first a column more for each other method gives it as a share of full.
    """
    predictions = [a.prediction for a in answers]
    builder = MethodRows(answers, with_share=True)
    builder.section("parameters")
    parameters = [p.parameters for p in predictions]
    builder.numbers("model", [p.base for p in parameters], count_text, share=False)
    if any(p.adapter for p in parameters):
        builder.numbers("adapters", [p.adapter for p in parameters], count_text)
    builder.numbers("trained", [p.trainable for p in parameters], count_text, kind="total")
    builder.texts(
        "fewer trained than in full",
        [percent_text(p.reduction_vs_full) if p.trainable < p.base else "" for p in parameters],
    )

    totals = [sum(p.persistent_bytes.values()) for p in predictions]
    builder.section("persistent", totals)
    for key, label in labels.PERSISTENT_LABELS.items():
        parts = [p.persistent_bytes.get(key, 0) for p in predictions]
        if any(parts):
            builder.numbers(label, parts)
    builder.numbers("sum", totals, kind="total")

    hosted = [p.host_bytes for p in predictions]
    if any(hosted):
        ranks = predictions[0].workload.setup.world_size
        totals = [sum(host.values()) for host in hosted]
        together = [size * ranks for size in totals]
        builder.section("in the host's memory", together)
        builder.categories(hosted)
        builder.numbers("sum", totals, kind="total", share=False)
        if ranks > 1:  # what all of one machine keep together
            builder.numbers(f"of {ranks} ranks on one machine", together, share=False)

    saved = [p.saved_activation_bytes for p in predictions]
    if any(s is not None for s in saved):
        builder.section("saved for backward", [s or 0 for s in saved])
        builder.numbers("activations and loss", saved)

    steady = [{m.moment: m for m in p.moments if m.step == "steady"} for p in predictions]
    peaks = [p.peak for p in predictions]
    builder.section("memory at each moment", (p.total_bytes for p in peaks))
    for moment in MOMENTS:
        if any(moment in s for s in steady):
            at = [s.get(moment) for s in steady]
            builder.moments(labels.MOMENT_LABELS[moment], at, peaks)
    known = all(p.is_whole for p in predictions)
    sizes = [p.total_bytes for p in peaks]
    builder.numbers("peak" if known else "peak without activations", sizes, kind="peak")

    builder.section("what the peak is made of", sizes)
    # the methods' peaks may be different moments: a share of one part would say nothing
    builder.categories([p.bytes for p in peaks])
    builder.numbers("sum", sizes, kind="total")

    flops = [p.flops for p in predictions]
    if any(f is not None for f in flops):
        builder.section("compute per micro-batch")
        for name in ("forward", "backward", "recompute", "total", "per_token"):
            counts = [getattr(f, name) if f else None for f in flops]
            if name != "recompute" or any(counts):
                label = "sum" if name == "total" else name.replace("_", " ")
                builder.numbers(label, counts, flops_text, "total" if name == "total" else "plain")
    return builder.of_methods()


class MethodRows(Rows):
    """Rows with a column a method; `with_share`, where full fine-tuning stands first, each other
    one as a share of full at the end."""

    def __init__(self, answers: Sequence[Answer], *, with_share: bool = False) -> None:
        super().__init__()
        setups = [answer.prediction.workload.setup for answer in answers]
        self.names = [way_label(setup) for setup in setups]
        has_share = with_share and bool(setups) and setups[0].method == "full"
        others = setups[1:] if has_share else []
        self.shares = [f"{adapter_label(setup)} / full" for setup in others]

    def of_methods(self, title: str = "", unit: str = "") -> Table:
        table = self.table(unit, *self.names, *self.shares, title=title)
        return table._replace(spare=tuple(self.shares if len(self.shares) > 1 else ()))

    def texts(
        self, label: str, texts: Sequence[str], shares: Sequence[str] = (), kind: RowKind = "plain"
    ) -> None:
        if any(texts):
            self.add(label, *texts, *(shares or [""] * len(self.shares)), kind=kind)

    def numbers(
        self,
        label: str,
        values: Sequence[N | None],
        text: Callable[[N], str] | None = None,
        kind: RowKind = "plain",
        *,
        share: bool = True,
    ) -> None:
        """Sizes in the unit of the section where there is no `text`."""
        told = [UNKNOWN if v is None else text(v) if text else self.text(int(v)) for v in values]
        self.texts(label, told, self._shares(values) if share else (), kind)

    def categories(self, found: Sequence[Mapping[Category, int]]) -> None:
        for category in CATEGORIES:
            held = [each.get(category, 0) for each in found]
            if any(held):
                self.numbers(labels.CATEGORY_LABELS[category], held, share=False)

    def moments(self, label: str, at: Sequence[Moment | None], peaks: Sequence[Moment]) -> None:
        totals = [m.total_bytes if m else None for m in at]
        marked = [
            UNKNOWN if m is None else "* " * (m.moment == peak.moment) + self.text(m.total_bytes)
            for m, peak in zip(at, peaks, strict=True)
        ]
        self.texts(label, marked, self._shares(totals))

    def _shares(self, values: Sequence[float | None]) -> list[str]:
        if not self.shares:
            return []
        full, *others = values
        is_known = (full and other is not None and other != full for other in others)
        pairs = zip(others, is_known, strict=True)
        return [percent_text(other / full) if known else "" for other, known in pairs]  # type: ignore[operator]


# --- what lengths of samples say ------------------------------------------------------------------

_MADE: "Mapping[Batching, str]" = {
    "random": "drawn at random and padded to their longest",
    "grouped": "grouped by length as LengthGroupedSampler does and padded to their longest",
    "packed": "packed by TRL's bfd, a batch one row",
    "packed-split": "packed by TRL's bfd_split, a batch one row",
    "packed-wrapped": "packed by TRL's wrapped",
    "packed-axolotl": "packed by axolotl's multipack, a batch one row",
}


def data_lines(answer: Answer) -> list[str]:
    """How long the samples are, what batches are made of them, and what was assumed."""
    epoch = answer.over_data
    assert epoch is not None
    data, batches, setup = epoch.data, epoch.batches, answer.prediction.workload.setup
    lengths = data.lengths
    sizes = (
        f"{count_text(lengths.num_samples)} samples, mean {lengths.mean:,.0f}, median"
        f" {count_text(lengths.quantile(0.5))}, 95 % up to {count_text(lengths.quantile(0.95))},"
        f" longest {count_text(lengths.longest)} tokens ({lengths.source})"
    )
    pad = data.pad_to_multiple_of
    multiple = f" to a multiple of {count_text(pad)}" if pad else ""
    made = f"Batches {_MADE[data.batching]}{multiple}: {_epoch_words(epoch)}"
    worst = f"Memory is that of the worst batch, {_shape_text(epoch.worst)}: {_rarity(epoch)}"
    lines = [f"{sizes}.", f"{made}.", f"{worst}."]
    if batches.cut_samples:
        cut = percent_text(batches.cut_samples / batches.num_samples)
        and_cut = "and cut"
        if batches.batching == "packed-axolotl":
            and_cut = "than the row allows and left out, as axolotl does"
        lines.append(f"{count_text(batches.cut_samples)} samples ({cut}) are longer {and_cut}.")
    if batches.packed is not None and not setup.is_flattened and setup.is_packed:
        lines.append(
            "TRL and axolotl pack for FlashAttention; --attention flash answers for that, and this"
            " answer has SDPA's mask over the whole row."
        )
    return [*lines, *lengths.notes]


def _epoch_words(epoch: "OverData") -> str:
    """'2,500 batches in 2,500 steps an epoch, of 12.00 M tokens for 6.00 M of the data (2.00 times,
    49.99 % padding)'."""
    batches = epoch.batches
    factor = batches.padding_factor
    words = (
        f"{count_text(batches.num_batches)} batches in {count_text(epoch.steps_per_epoch)} steps an"
        f" epoch, of {short_count_text(round(batches.processed_tokens))} tokens"
    )
    if not batches.has_padding:
        return f"{words}, none of them padding"
    return (
        f"{words} for {short_count_text(batches.num_tokens)} of the data ({factor:.2f} times,"
        f" {percent_text(1 - 1 / factor)} padding)"
    )


def _shape_text(batch: "BatchPeak") -> str:
    return f"{count_text(batch.batch_size)} x {count_text(batch.seq_len)} tokens"


def _rarity(epoch: "OverData") -> str:
    """'about 37 of 2,500 batches'."""
    expected, total = epoch.worst.expected_per_epoch, epoch.batches.num_batches
    if expected >= total - 0.5:
        return "every batch"
    if expected >= 0.95:
        return f"about {count_text(round(expected))} of {count_text(total)} batches"
    return f"expected {expected:.2g} times in {count_text(total)} batches"


def short_lines(answers: Sequence[Answer]) -> list[str]:
    """The epoch in a few lines: samples and padding, the longest batch, how long it takes."""
    epochs = [answer.over_data for answer in answers if answer.over_data is not None]
    first = epochs[0]
    lengths, batches = first.data.lengths, first.batches
    added = round(100 * (batches.padding_factor - 1))
    padding = f"; padding adds {added} % tokens" if batches.has_padding and added else ""
    lines = [
        f"{count_text(lengths.num_samples)} {'sample' if lengths.num_samples == 1 else 'samples'}"
        f" of {lengths.mean:,.0f} tokens on average,"
        f" {first.data.batching} batches{padding}.",
        f"The longest batch sets the peak: {_shape_text(first.worst)}, {_rarity(first)}.",
    ]
    names = [method_label(answer.prediction) for answer in answers]
    unit, size = byte_unit(max(epoch.median.peak_bytes or 0 for epoch in epochs))
    peaks = [(name, epoch.median.peak_bytes) for name, epoch in zip(names, epochs, strict=True)]
    held = [f"{name} {short_in_unit(peak, size)}" for name, peak in peaks if peak is not None]
    if held:
        lines.append(f"The median batch, {_shape_text(first.median)}: {', '.join(held)} {unit}.")
    timed = [answer for answer in answers if answer.step]
    for span, steps in _spans(first) if timed else ():
        of = [method_label(a.prediction) for a in timed]
        times = [f"{t} ({n})" for t, n in zip(_times_text(timed, steps), of, strict=True)]
        verb = "takes" if steps == first.steps_per_epoch else "take"
        lines.append(f"{capital(span)} {verb} {', '.join(times)}.")
    return lines


def epoch_table(answers: Sequence[Answer]) -> Table:
    epochs = [answer.over_data for answer in answers if answer.over_data is not None]
    worst, median = [epoch.worst for epoch in epochs], [epoch.median for epoch in epochs]
    rows = MethodRows(answers)
    rows.section("peak", (batch.peak_bytes or 0 for batch in worst))

    peaks = [batch.peak_bytes for batch in worst]
    rows.numbers(f"worst batch, {_shape_text(worst[0])}", peaks, kind="peak")
    peaks = [batch.peak_bytes for batch in median]
    rows.numbers(f"median batch, {_shape_text(median[0])}", peaks)
    if any(answer.step for answer in answers):
        rows.section("time")
        for label, steps in [("a step, on average", 1.0), *_spans(epochs[0])]:
            rows.add(label, *_times_text(answers, steps))
    return rows.of_methods("An epoch of the data")


def _spans(epoch: "OverData") -> list[tuple[str, float]]:
    """(an epoch, or so many, and its steps)."""
    steps, number = epoch.steps_per_epoch, epoch.data.epochs
    more = [] if number is None or number == 1 else [(f"{number:g} epochs", number * steps)]
    return [("an epoch", float(steps)), *more]


def _times_text(answers: Sequence[Answer], steps: float) -> list[str]:
    seconds = [
        max(a.step.time.seconds, a.sending_seconds) * steps if a.step else None for a in answers
    ]
    longest = max((s for s in seconds if s is not None), default=0.0)
    return [UNKNOWN if s is None else seconds_text(s, longest) for s in seconds]
