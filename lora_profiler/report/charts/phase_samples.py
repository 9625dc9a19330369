"""The counters that a memory pass read, phase by phase."""

from collections.abc import Sequence

from lora_profiler.record import PhaseSample
from lora_profiler.report.charts.figure import Figure
from lora_profiler.report.palette import Theme


def phase_samples(samples: Sequence[PhaseSample], *, theme: Theme = "light") -> Figure:
    """A record's `measurement.phases` in their order: peak within each phase and bytes at its end, requested, and where they were
    read allocated and reserved. Steps are shaded in turn and named."""
    raise NotImplementedError
