"""Signed relative errors, one dot a record, in a strip for each group."""

from collections.abc import Sequence
from dataclasses import dataclass

from lora_profiler.report.charts.figure import Figure
from lora_profiler.report.palette import Theme
from lora_profiler.workload import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDot:
    """One error: 0.01 is predicted 1 % above what was measured. `label` is shown when pointed at, with the error."""

    group: str
    label: str
    error: float
    method: Method
    record_id: str = ""


def error_strip(dots: Sequence[ErrorDot], *, theme: Theme = "light") -> Figure:
    """A strip for each group in order of appearance: its dots around zero, the median as a bar, n and the worst at the end.

    The `customdata` of every dot is its record id.
    """
    raise NotImplementedError
