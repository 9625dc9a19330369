"""What would lower the peak, and by how much."""

from collections.abc import Sequence

from lora_profiler.planning.levers import Lever
from lora_profiler.report.charts.figure import Figure
from lora_profiler.report.palette import Theme


def lever_bars(levers: Sequence[Lever], *, theme: Theme = "light") -> Figure:
    """One bar a lever of one workload, in the order given: the peak that is left, and hatched what it saves, in bytes and percent.

    All levers of a workload begin at the same peak.
    """
    raise NotImplementedError
