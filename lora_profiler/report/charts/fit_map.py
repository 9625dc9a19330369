"""Which batches and lengths fit a card: the peak in every cell, with its verdict in colour, sign and words."""

from collections.abc import Sequence
from dataclasses import dataclass

from lora_profiler.planning.fit import Verdict
from lora_profiler.report.charts.figure import Figure
from lora_profiler.report.palette import Theme


@dataclass(frozen=True, slots=True, kw_only=True)
class FitCell:
    """One size; `peak_bytes` None where nothing answers. `is_asked` marks the cell of the question itself."""

    batch_size: int
    seq_len: int
    peak_bytes: int | None
    verdict: Verdict | None
    is_asked: bool = False


def fit_map(cells: Sequence[FitCell], *, theme: Theme = "light") -> Figure:
    """Sequence lengths from left to right, batch sizes from bottom to top, in every cell the peak and a sign of its verdict."""
    raise NotImplementedError
