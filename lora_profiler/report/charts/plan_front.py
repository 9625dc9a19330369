"""The runs of a plan: how long each takes, and what it costs."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from lora_profiler.report.charts.figure import Figure, figure, values
from lora_profiler.report.charts.labels import label, lines
from lora_profiler.report.charts.marks import dot_mark
from lora_profiler.report.charts.point_names import Spot, name_places
from lora_profiler.report.labels import METHOD_LABELS
from lora_profiler.report.palette import INK, SMALL_PX
from lora_profiler.workload import Method

_HEIGHT_PX = 360
_DOT_PX, _RING_PX = 10, 20
_AROUND = 1.6
"""How far a log axis goes beyond its ends, as a factor: some ticks are always on it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPoint:
    """One run: its name stands beside it where `is_named` and there is room for it; `said` is shown
    when pointed at."""

    name: str
    said: str
    method: Method
    hours: float
    cost: float
    is_named: bool = False
    is_recommended: bool = False


def plan_front(points: Sequence[FrontPoint], currency: str) -> Figure:
    """Hours from left to right, money from bottom to top, both on a log scale; a trace for each
    method, and a ring around the run to take."""
    hours, cost = _span([p.hours for p in points]), _span([p.cost for p in points])
    spots = [
        Spot(
            x=_share(point.hours, hours),
            y=_share(point.cost, cost),
            radius_px=0.4 * (_RING_PX if point.is_recommended else _DOT_PX),
        )
        for point in points
    ]
    named = [n for n, point in enumerate(points) if point.is_named]
    named.sort(key=lambda n: not points[n].is_recommended)
    places = name_places(spots, {n: points[n].name for n in named})
    return figure(
        [*_ring(points), *_dots(points, places)],
        height=_HEIGHT_PX,
        x=_log_axis("hours", hours, lambda hours: f"{hours:g} h"),
        y=_log_axis(f"cost, {currency}" if currency else "cost", cost, lambda cost: f"{cost:,g}"),
    )


def _dots(points: Sequence[FrontPoint], places: Mapping[int, str]) -> Iterator[dict[str, Any]]:
    for method in get_args(Method):
        shown = [(n, point) for n, point in enumerate(points) if point.method == method]
        if shown:
            yield {
                "type": "scatter",
                "mode": "markers+text",
                "name": METHOD_LABELS[method],
                "x": [point.hours for _, point in shown],
                "y": [point.cost for _, point in shown],
                "text": [label(point.name) if n in places else "" for n, point in shown],
                "textposition": [places.get(n, "top right") for n, _ in shown],
                "textfont": {"size": SMALL_PX, "color": INK.light},
                "hovertext": [
                    lines(label(point.name), label(point.said, 120)) for _, point in shown
                ],
                "hoverinfo": "text",
                "marker": dot_mark(method, _DOT_PX, counted=True),
            }


def _ring(points: Sequence[FrontPoint]) -> Iterator[dict[str, Any]]:
    found = [point for point in points if point.is_recommended]
    if found:
        yield {
            "type": "scatter",
            "mode": "markers",
            "name": "recommended",
            "x": [point.hours for point in found],
            "y": [point.cost for point in found],
            "hoverinfo": "skip",
            "marker": {
                "symbol": "circle-open",
                "size": _RING_PX,
                "color": INK.light,
                "line": {"width": 2},
            },
        }


def _span(numbers: Sequence[float]) -> tuple[float, float]:
    """The ends of an axis around numbers above 0."""
    return min(numbers, default=1.0) / _AROUND, max(numbers, default=1.0) * _AROUND


def _share(number: float, span: tuple[float, float]) -> float:
    """How far along a log axis it lies, from 0 to 1."""
    low, high = map(math.log, span)
    return (math.log(number) - low) / (high - low)


def _log_axis(what: str, span: tuple[float, float], text: Callable[[float], str]) -> dict[str, Any]:
    """With ticks at round numbers, more of them where they are near each other."""
    low, high = span
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    round_ones = (1, 2, 5) if high > 10 * low else (1, 1.5, 2, 3, 4, 5, 7)
    places = [n * 10.0**power for power in powers for n in round_ones]
    shown = [place for place in places if low <= place <= high]
    return values(
        what,
        type="log",
        range=[math.log10(low), math.log10(high)],
        tickmode="array",
        tickvals=shown,
        ticktext=[text(place) for place in shown],
    )
