"""Public measurements that predictions are held to, of memory and of step time; and those that are
nearest to a question.

Each kind is imported when first asked for: an answer's peak needs no step times.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora_profiler.evidence.left_out import Unexpressed, unexpressed
    from lora_profiler.evidence.memory import (
        Interval,
        MeasuredMemory,
        SourceShare,
        interval,
        measured_memory,
        nearest_peak,
    )
    from lora_profiler.evidence.steps import LeftOut, MeasuredStep, measured_steps, nearest_step

__all__ = [
    "Interval",
    "LeftOut",
    "MeasuredMemory",
    "MeasuredStep",
    "SourceShare",
    "Unexpressed",
    "interval",
    "measured_memory",
    "measured_steps",
    "nearest_peak",
    "nearest_step",
    "unexpressed",
]

_HOMES = {
    "Interval": "memory",
    "MeasuredMemory": "memory",
    "SourceShare": "memory",
    "interval": "memory",
    "measured_memory": "memory",
    "nearest_peak": "memory",
    "LeftOut": "steps",
    "MeasuredStep": "steps",
    "measured_steps": "steps",
    "nearest_step": "steps",
    "Unexpressed": "left_out",
    "unexpressed": "left_out",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
