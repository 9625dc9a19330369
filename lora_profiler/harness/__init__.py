"""Real training runs, one process each: `measure(workload)` returns a `Record`. Nothing here
imports torch in the parent."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lora_profiler.harness.case import Case, make_case
    from lora_profiler.harness.preflight import MeasurementError
    from lora_profiler.harness.runner import (
        Heartbeat,
        MeasurementInterrupted,
        environment_of,
        measure,
        measure_case,
    )

_HOMES = {
    "Case": "case",
    "make_case": "case",
    "MeasurementError": "preflight",
    "Heartbeat": "runner",
    "MeasurementInterrupted": "runner",
    "environment_of": "runner",
    "measure": "runner",
    "measure_case": "runner",
}
__all__ = [
    "Case",
    "Heartbeat",
    "MeasurementError",
    "MeasurementInterrupted",
    "environment_of",
    "make_case",
    "measure",
    "measure_case",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
