"""Stacked bars of memory by category, one for each label."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lora_profiler.prediction import Category
from lora_profiler.report.charts.figure import Figure, Limit
from lora_profiler.report.palette import Theme


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryBar:
    """One bar: bytes of one instant by category. Bars that follow each other with the same `group` stand under one heading."""

    label: str
    bytes: Mapping[Category, int]
    group: str = ""
    at_least: bool = False
    """Whether the sum is a lower bound, and is written so."""


def category_bars(bars: Sequence[CategoryBar], *, limit: Limit | None = None, theme: Theme = "light") -> Figure:
    """One horizontal stacked bar for each of `bars`, from top to bottom, its sum at the end. Empty without bars.

    Categories keep their order, colour and hatch; those that no bar has are left out of the legend.
    """
    raise NotImplementedError
