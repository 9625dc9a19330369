"""Methods side by side: parameters, bytes that stay, activations, moments, the peak and FLOPs."""

from collections.abc import Callable, Mapping, Sequence

from lora_profiler.planning.answers import Answer
from lora_profiler.prediction import CATEGORIES, MOMENTS, Category, Moment
from lora_profiler.report import labels
from lora_profiler.report.blocks import RowKind, Rows, Table
from lora_profiler.report.labels import method_label
from lora_profiler.units import count_text, flops_text, percent_text

UNKNOWN = "?"


def comparison_table(answers: Sequence[Answer]) -> Table:
    """Parameters, persistent bytes, activations, moments, peak and FLOPs, one column a method.

    With full fine-tuning first and one other method, a last column gives the other as a share of
    full.
    """
    predictions = [a.prediction for a in answers]
    names = [method_label(p) for p in predictions]
    ratio = len(predictions) == 2 and predictions[0].workload.setup.method == "full"
    other = labels.METHOD_LABELS[predictions[-1].workload.setup.method]
    columns = ("", *names, *([f"{other} / full"] if ratio else []))
    builder = _Rows(ratio)

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
        _host_rows(builder, hosted, predictions[0].workload.setup.world_size)

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
    known = all(p.saved_activation_bytes is not None for p in predictions)
    sizes = [p.total_bytes for p in peaks]
    builder.numbers("peak" if known else "peak without activations", sizes, kind="peak")

    builder.section("what the peak is made of", sizes)
    for category in CATEGORIES:
        held = [p.bytes.get(category, 0) for p in peaks]
        if any(held):
            # the methods' peaks may be different moments: a share of one part would say nothing
            builder.numbers(labels.CATEGORY_LABELS[category], held, share=False)
    builder.numbers("sum", sizes, kind="total")

    flops = [p.flops for p in predictions]
    if any(f is not None for f in flops):
        builder.section("compute per micro-batch")
        for label, name in _FLOPS.items():
            counts = [getattr(f, name) if f else None for f in flops]
            if name != "recompute" or any(counts):
                builder.numbers(label, counts, flops_text, "total" if name == "total" else "plain")
    return Table(columns=columns, rows=tuple(builder.rows))


_FLOPS = {
    "forward": "forward",
    "backward": "backward",
    "recompute": "recompute",
    "sum": "total",
    "per token": "per_token",
}


def _host_rows(builder: "_Rows", hosted: Sequence[Mapping[Category, int]], world_size: int) -> None:
    """A rank's tensors in the host's memory, and what all ranks of one machine keep together."""
    totals = [sum(host.values()) for host in hosted]
    builder.section("in the host's memory", [size * world_size for size in totals])
    for category in CATEGORIES:
        held = [host.get(category, 0) for host in hosted]
        if any(held):
            builder.numbers(labels.CATEGORY_LABELS[category], held, share=False)
    builder.numbers("sum", totals, kind="total", share=False)
    if world_size > 1:
        together = [size * world_size for size in totals]
        builder.numbers(f"of {world_size} ranks on one machine", together, share=False)


class _Rows(Rows):
    """Of one comparison, with the share of full at the end where `ratio`."""

    def __init__(self, ratio: bool) -> None:
        super().__init__()
        self.ratio = ratio

    def texts(
        self, label: str, texts: Sequence[str], share: str = "", kind: RowKind = "plain"
    ) -> None:
        if any(texts):
            self.add(label, *texts, *([share] if self.ratio else []), kind=kind)

    def numbers(
        self,
        label: str,
        values: Sequence[int | None],
        text: Callable[[int], str] | None = None,
        kind: RowKind = "plain",
        *,
        share: bool = True,
    ) -> None:
        """Sizes in the unit of the section where there is no `text`."""
        told = [UNKNOWN if v is None else (text or self.text)(v) for v in values]
        self.texts(label, told, self._share(values) if share else "", kind)

    def moments(self, label: str, at: Sequence[Moment | None], peaks: Sequence[Moment]) -> None:
        totals = [m.total_bytes if m else None for m in at]
        marked = [
            UNKNOWN if m is None else "* " * (m.moment == peak.moment) + self.text(m.total_bytes)
            for m, peak in zip(at, peaks, strict=True)
        ]
        self.texts(label, marked, self._share(totals))

    def _share(self, values: Sequence[int | None]) -> str:
        if not self.ratio:
            return ""
        first, second = values
        is_share = first and second is not None and second != first
        return percent_text(second / first) if is_share else ""  # type: ignore[operator]
