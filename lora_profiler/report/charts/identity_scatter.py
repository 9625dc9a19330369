"""Predicted against measured, with the line on which both are equal."""

from collections.abc import Sequence
from dataclasses import dataclass

from lora_profiler.report.charts.figure import Figure
from lora_profiler.report.palette import Theme
from lora_profiler.workload import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class ScatterPoint:
    """One record: bytes above 0 on both sides. `label` is shown when pointed at."""

    label: str
    method: Method
    predicted_bytes: int
    measured_bytes: int
    record_id: str = ""


def identity_scatter(points: Sequence[ScatterPoint], *, theme: Theme = "light") -> Figure:
    """Measured from left to right, predicted from bottom to top, both in the same range of a log scale; a trace for each method.

    The `customdata` of every point is its record id.
    """
    raise NotImplementedError
