"""Memory over one step: live bytes stacked by category, its phases, and the peak."""

from collections.abc import Sequence

from lora_profiler.prediction import CurvePoint
from lora_profiler.report.charts.figure import Figure, Limit
from lora_profiler.report.palette import Theme


def memory_curve(points: Sequence[CurvePoint], *, limit: Limit | None = None, theme: Theme = "light") -> Figure:
    """Areas from the first to the last of `points`, which are in order of time and not of equal lengths of it.

    Phases are shaded in turn and named; the largest point is marked with its bytes and what ran.
    """
    raise NotImplementedError
