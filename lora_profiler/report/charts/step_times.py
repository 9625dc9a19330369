"""The raw times of a run's steps, with their median."""

from lora_profiler.record import Measurement
from lora_profiler.report.charts.figure import Figure
from lora_profiler.report.palette import Theme


def step_times(measurement: Measurement, *, theme: Theme = "light") -> Figure:
    """A dot a step in order: warm-up hollow, timed filled, the median with its 95 % interval across. Empty where nothing was timed."""
    raise NotImplementedError
