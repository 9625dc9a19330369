"""How many tokens a second each run trained."""

from collections.abc import Sequence
from dataclasses import dataclass

from lora_profiler.report.charts.figure import Figure
from lora_profiler.report.palette import Theme
from lora_profiler.workload import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughputBar:
    """Tokens a second in a median step, with the ends of its 95 % interval. Bars of the same `group` stand under one heading."""

    label: str
    method: Method
    tokens_per_second: float
    low: float
    high: float
    group: str = ""
    record_id: str = ""


def throughput_bars(bars: Sequence[ThroughputBar], *, theme: Theme = "light") -> Figure:
    """One horizontal bar for each of `bars`, from top to bottom, its number at the end."""
    raise NotImplementedError
