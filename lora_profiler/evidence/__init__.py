"""Public measurements that predictions are held to, of memory and of step time; and those that are nearest to a question."""

from lora_profiler.evidence.memory import Interval, MeasuredMemory, SourceShare, interval, measured_memory, nearest_peak
from lora_profiler.evidence.steps import LeftOut, MeasuredStep, measured_steps, nearest_step
from lora_profiler.evidence.unexpressed import Unexpressed, unexpressed

__all__ = [
    "Interval", "LeftOut", "MeasuredMemory", "MeasuredStep", "SourceShare", "Unexpressed", "interval", "measured_memory",
    "measured_steps", "nearest_peak", "nearest_step", "unexpressed",
]  # fmt: skip
