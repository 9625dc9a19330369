"""One axis of a figure: where a value lies on it, and its ticks."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lora_profiler.report.charts.plot import round_places

_PADDING = 0.05
"""Of the span, at either end of an axis whose range is not given."""
_FORMATS: Mapping[str, str] = {"~g": ",g", ".0%": ".0%", ".1~%": ".1%", "": ",.10g"}
"""The formats of plotly (d3) that the charts ask for, as Python's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """`first` is the value at its beginning (left, bottom), `last` at its end; of a log axis their
    powers of ten."""

    first: float
    last: float
    is_log: bool
    ticks: tuple[tuple[float, str], ...]
    title: str
    has_grid: bool

    def share(self, value: float) -> float:
        """How far along the axis it lies: 0 at the beginning, 1 at the end, any number outside."""
        place = math.log10(value) if self.is_log else value
        return (place - self.first) / (self.last - self.first)

    def holds(self, value: float) -> bool:
        return -1e-6 <= self.share(value) <= 1 + 1e-6


def axis_of(options: Mapping[str, Any], values: Iterable[float]) -> Axis:
    """The axis that plotly makes of the options of a layout's axis; `values` are those drawn, for a
    range that is not given."""
    is_log = options.get("type") == "log"
    first, last = options.get("range") or _range(options, list(values), is_log=is_log)
    if first == last:  # nothing to show
        last = first + 1
    return Axis(
        first=first,
        last=last,
        is_log=is_log,
        ticks=tuple(_ticks(options, first, last, is_log=is_log)),
        title=options.get("title", {}).get("text", ""),
        has_grid=bool(options.get("showgrid")),
    )


def _range(options: Mapping[str, Any], values: list[float], *, is_log: bool) -> tuple[float, float]:
    places = [math.log10(v) for v in values if v > 0] if is_log else values
    low, high = min(places, default=0.0), max(places, default=1.0)
    if options.get("rangemode") == "tozero":
        low = min(low, 0.0)
    room = _PADDING * (high - low) or 0.5
    return (low if low == 0 and options.get("rangemode") == "tozero" else low - room), high + room


def _ticks(
    options: Mapping[str, Any], first: float, last: float, *, is_log: bool
) -> list[tuple[float, str]]:
    if options.get("showticklabels") is False:
        return []
    if options.get("tickmode") == "array":
        found = zip(options["tickvals"], options["ticktext"], strict=True)
        return [(value, text) for value, text in found]
    low, high = min(first, last), max(first, last)
    places = _powers(low, high) if is_log else round_places(low, high, options.get("nticks", 6))
    return [(place, _written(place, options.get("tickformat", ""))) for place in places]


def _powers(low: float, high: float) -> list[float]:
    """Powers of ten between two powers of ten; with 2 and 5 times them where they are few."""
    factors = (1, 2, 5) if high - low < 2 else (1,)
    every = 1 if high - low < 10 else math.ceil((high - low) / 10)
    return [
        factor * 10.0**power
        for power in range(math.floor(low), math.ceil(high) + 1, every)
        for factor in factors
        if low - 1e-9 <= power + math.log10(factor) <= high + 1e-9
    ]


def _written(value: float, form: str) -> str:
    text = format(value, _FORMATS[form])
    return text.replace(".0%", "%") if form == ".1~%" else text
