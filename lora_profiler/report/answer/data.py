"""What lengths of samples say, in words: the batches of an epoch, the worst one's memory, the
average one's time."""

from collections.abc import Mapping, Sequence

from lora_profiler.batching.batches import Batching
from lora_profiler.planning.answers import Answer
from lora_profiler.planning.over_data import BatchPeak, OverData
from lora_profiler.report.answer.comparison_table import MethodRows
from lora_profiler.report.blocks import Table
from lora_profiler.report.labels import UNKNOWN
from lora_profiler.units import (
    byte_unit,
    count_text,
    in_unit,
    percent_text,
    seconds_text,
    short_count_text,
)

_MADE: Mapping[Batching, str] = {
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


def _epoch_words(epoch: OverData) -> str:
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


def _shape_text(batch: BatchPeak) -> str:
    return f"{count_text(batch.batch_size)} x {count_text(batch.seq_len)} tokens"


def _rarity(epoch: OverData) -> str:
    """'about 37 of 2,500 batches are as long'."""
    expected, total = epoch.worst.expected_per_epoch, epoch.batches.num_batches
    if expected >= total - 0.5:
        return "every batch is as long"
    of = f"of {count_text(total)} batches an epoch"
    if expected >= 0.95:
        are = "are" if round(expected) > 1 else "is"
        return f"about {count_text(round(expected))} {of} {are} as long"
    return f"less than one {of} is expected to be as long ({expected:.2g})"


def short_lines(answers: Sequence[Answer]) -> list[str]:
    """The epoch in a few lines: samples and padding, the median batch, how long it takes."""
    epochs = [answer.over_data for answer in answers if answer.over_data is not None]
    first = epochs[0]
    lengths, batches = first.data.lengths, first.batches
    padding = f", {batches.padding_factor:.2f} x the tokens" if batches.has_padding else ""
    lines = [
        f"{count_text(lengths.num_samples)} samples, {lengths.mean:,.0f} tokens on average;"
        f" {first.data.batching} batches{padding}",
        f"worst batch: {_rarity(first)}",
    ]
    unit, size = byte_unit(max(epoch.median.peak_bytes or 0 for epoch in epochs))
    peaks = (epoch.median.peak_bytes for epoch in epochs)
    held = (UNKNOWN if peak is None else in_unit(peak, size) for peak in peaks)
    lines.append(f"median batch, {_shape_text(first.median)}: {', '.join(held)} {unit}")
    if any(answer.step for answer in answers):
        times = (f"{name} {', '.join(_times_text(answers, n))}" for name, n in _spans(first))
        lines.append("; ".join(times))
    return lines


def epoch_table(answers: Sequence[Answer]) -> Table:
    """Peaks of the worst and the median batch, and how long an epoch takes, a column a method."""
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


def _spans(epoch: OverData) -> list[tuple[str, float]]:
    """(an epoch, or so many, and its steps)."""
    steps, number = epoch.steps_per_epoch, epoch.data.epochs
    more = [] if number is None or number == 1 else [(f"{number:g} epochs", number * steps)]
    return [("an epoch", float(steps)), *more]


def _times_text(answers: Sequence[Answer], steps: float) -> list[str]:
    seconds = [a.step.time.seconds * steps if a.step else None for a in answers]
    longest = max((s for s in seconds if s is not None), default=0.0)
    return [UNKNOWN if s is None else seconds_text(s, longest) for s in seconds]
