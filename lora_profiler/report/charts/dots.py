"""Dots: errors in strips, predicted against measured, and the runs of a plan by hours and money."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import Any, get_args

from lora_profiler.question.workload import Method
from lora_profiler.report.charts import plot
from lora_profiler.report.charts.plot import Figure
from lora_profiler.report.labels import METHOD_LABELS
from lora_profiler.report.palette import FAINT_INK, INK
from lora_profiler.units import bytes_text, count_text, error_text

_ROW_PX = 40
_SPREAD = 0.62
"""Height of the band in which a strip's dots lie, in strips."""
_GOLDEN = 0.618034
"""Multiples of it, without their whole part, spread evenly however many there are."""
_LEAST_PERCENT = 0.1
"""The axis reaches at least so far to either side: where all is exact, dots stand on one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorDot:
    """One error: 0.01 is predicted 1 % above what was measured. `label` is shown when pointed at,
    with the error.

    `not_counted` is why it counts for no error that is stated, "" where it does: then it is hollow.
    """

    group: str
    label: str
    error: float
    method: Method
    record_id: str = ""
    not_counted: str = ""


def error_strip(dots: Sequence[ErrorDot]) -> Figure:
    """A strip for each group in order of appearance: its dots around zero, the median as a bar, how
    many they are by its name.

    The `customdata` of every dot is its record id. Within a strip the height of a dot means
    nothing.
    """
    groups = list(dict.fromkeys(dot.group for dot in dots))
    place = {group: float(number) for number, group in enumerate(groups)}
    members = {group: [dot for dot in dots if dot.group == group] for group in groups}
    reach = 1.1 * max([_LEAST_PERCENT, *(100 * abs(dot.error) for dot in dots)])
    labels = [
        plot.lines(plot.label(group, 32), f"n = {count_text(len(group_dots))}")
        for group, group_dots in members.items()
    ]
    numbers: dict[str, int] = {}
    heights = []
    for dot in dots:
        number = numbers[dot.group] = numbers.get(dot.group, -1) + 1
        heights.append(place[dot.group] + _SPREAD * ((number * _GOLDEN) % 1 - 0.5))
    hover = [plot.lines(plot.label(d.label, 80), error_text(d.error), _why(d)) for d in dots]
    shown = _by_method(dots, [100 * dot.error for dot in dots], heights, hover, 8)
    middles = {group: median(dot.error for dot in dots) for group, dots in members.items()}
    edge = {"width": 2.5, "color": INK.light}
    medians = plot.scatter(
        "median",
        [100 * middle for middle in middles.values()],
        [place[group] for group in middles],
        [plot.lines(plot.label(group), f"median {error_text(m)}") for group, m in middles.items()],
        marker={"symbol": "line-ns", "size": 22, "color": INK.light, "line": edge},
    )
    return plot.figure(
        [*shown, medians],
        height=_ROW_PX * len(groups) + _ROW_PX // 5,
        x=plot.values(
            "error, % of what was measured (left: predicted too little)",
            range=[-reach, reach],
            **plot.ticks(-reach, reach, lambda place: f"{round(place, 9):,g} %"),
        ),
        y=plot.rows(labels, list(place.values())),
        shapes=[plot.below(plot.upright(0, FAINT_INK))],
    )


def _by_method(
    dots: "Sequence[ErrorDot | ScatterPoint]",
    x: Sequence[float],
    y: Sequence[float],
    hover: Sequence[str],
    size: int,
) -> Iterator[dict[str, Any]]:
    """A trace for each method and whether its dots are counted."""
    for method, counted in product(get_args(Method), (True, False)):
        shown = [
            n for n, d in enumerate(dots) if d.method == method and (not d.not_counted) == counted
        ]
        if shown:
            yield plot.scatter(
                METHOD_LABELS[method] + ("" if counted else ", not counted"),
                [x[n] for n in shown],
                [y[n] for n in shown],
                [hover[n] for n in shown],
                customdata=[dots[n].record_id for n in shown],
                marker=plot.dot_mark(method, size, counted=counted),
            )


def _why(dot: "ErrorDot | ScatterPoint") -> str:
    return plot.label(f"not counted: {dot.not_counted}", 120) if dot.not_counted else ""


_SCATTER_PX, _DOT_PX = 380, 9


@dataclass(frozen=True, slots=True, kw_only=True)
class ScatterPoint:
    """One record: bytes above 0 on both sides. `label` is shown when pointed at.

    `not_counted` is why it counts for no error that is stated, "" where it does: then it is hollow,
    and `name` stands beside one of those that have it, where there is room.
    """

    label: str
    method: Method
    predicted_bytes: int
    measured_bytes: int
    record_id: str = ""
    not_counted: str = ""
    name: str = ""

    @property
    def error(self) -> float:
        return (self.predicted_bytes - self.measured_bytes) / self.measured_bytes


def identity_scatter(points: Sequence[ScatterPoint], word: str = "measured") -> Figure:
    """Measured from left to right, predicted from bottom to top, both in the same range of a log
    scale; a trace for each method. `word` is "measured", or "rehearsed".

    The `customdata` of every point is its record id.
    """
    measured = [point.measured_bytes for point in points]
    predicted = [point.predicted_bytes for point in points]
    sizes = [*measured, *predicted] or [1]
    smallest, largest = min(sizes), max(sizes)
    ends, look = [smallest / 8, largest * 8], {"color": FAINT_INK.light, "width": 1, "dash": "dash"}
    line = plot.scatter(f"predicted = {word}", ends, ends, mode="lines", line=look)
    x = plot.log_bytes_axis(smallest, largest, f"{word} peak")
    y = plot.log_bytes_axis(smallest, largest, "predicted peak")
    hover = [
        plot.lines(
            plot.label(point.label, 80),
            f"predicted {bytes_text(p)}, {word} {bytes_text(m)}",
            f"error {error_text(point.error)}",
            _why(point),
        )
        for point, p, m in zip(points, predicted, measured, strict=True)
    ]
    dots = _by_method(points, measured, predicted, hover, _DOT_PX)
    nearest_first = sorted(points, key=lambda point: abs(point.error))
    furthest = {p.name: p for p in nearest_first if p.not_counted and p.name}
    names = [
        plot.point_label(point.name, point.measured_bytes, point.predicted_bytes, _DOT_PX)
        for point in nearest_first
        if point is furthest.get(point.name)
    ]
    return plot.figure([*dots, line], height=_SCATTER_PX, x=x, y=y, annotations=names)


_FRONT_PX = 280
_RUN_PX, _RING_PX = 10, 20
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
    dots = []
    for method in get_args(Method):
        here = [point for point in points if point.method == method]
        trace = plot.scatter(
            METHOD_LABELS[method],
            [point.hours for point in here],
            [point.cost for point in here],
            [plot.lines(plot.label(p.name), plot.label(p.said, 120)) for p in here],
            marker=plot.dot_mark(method, _RUN_PX, counted=True),
        )
        dots += [trace] if here else []
    best = [point for point in points if point.is_recommended]
    look = {"symbol": "circle-open", "size": _RING_PX, "color": INK.light, "line": {"width": 2}}
    ring = plot.scatter("recommended", [p.hours for p in best], [p.cost for p in best], marker=look)
    named = sorted((p for p in points if p.is_named), key=lambda point: point.is_recommended)
    names = [
        plot.point_label(p.name, p.hours, p.cost, _RING_PX if p.is_recommended else _RUN_PX)
        for p in named
    ]
    return plot.figure(
        [*([ring] if best else []), *dots],
        height=_FRONT_PX,
        annotations=names,
        x=_log_axis("hours", hours, lambda hours: f"{hours:g} h"),
        y=_log_axis(f"cost, {currency}" if currency else "cost", cost, lambda cost: f"{cost:,g}"),
    )


def _span(numbers: Sequence[float]) -> tuple[float, float]:
    return min(numbers, default=1.0) / _AROUND, max(numbers, default=1.0) * _AROUND


def _log_axis(what: str, span: tuple[float, float], text: Callable[[float], str]) -> dict[str, Any]:
    """With ticks at round numbers, more of them where they are near each other."""
    low, high = span
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    round_ones = (1, 2, 5) if high > 10 * low else (1, 1.5, 2, 3, 4, 5, 7)
    places = [n * 10.0**power for power in powers for n in round_ones]
    shown = [place for place in places if low <= place <= high]
    return plot.values(
        what,
        type="log",
        range=[math.log10(low), math.log10(high)],
        **plot.ticks_at(shown, map(text, shown)),
    )
