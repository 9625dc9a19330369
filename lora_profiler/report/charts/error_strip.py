"""Signed relative errors, one dot a record, in a strip for each group."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import median
from typing import Any, get_args

from lora_profiler.report.charts.axes import ticks
from lora_profiler.report.charts.figure import Figure, figure, rows, values
from lora_profiler.report.charts.labels import label, lines
from lora_profiler.report.charts.marks import dot_mark, dot_name
from lora_profiler.report.palette import FAINT_INK, INK
from lora_profiler.units import count_text, error_text
from lora_profiler.workload import Method

_ROW_PX, _AROUND_PX = 40, 110
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
    zero = {
        "type": "line",
        "x0": 0,
        "x1": 0,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "line": {"color": FAINT_INK.light, "width": 1},
    }
    labels = [
        lines(label(group, 32), f"n = {count_text(len(group_dots))}")
        for group, group_dots in members.items()
    ]
    return figure(
        [*_dots(dots, place), _medians(members, place)],
        height=_AROUND_PX + _ROW_PX * len(groups),
        x=values(
            "error, % of what was measured (left: predicted too little)",
            range=[-reach, reach],
            **ticks(-reach, reach, _percent),
        ),
        y=rows(labels, list(place.values())),
        shapes=[{**zero, "layer": "below"}],
    )


def _percent(place: float) -> str:
    """'-20 %', '0.05 %'."""
    return f"{round(place, 9):,g} %"


def _dots(dots: Sequence[ErrorDot], place: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    numbers: dict[str, int] = {}
    heights = []
    for dot in dots:
        number = numbers[dot.group] = numbers.get(dot.group, -1) + 1
        heights.append(place[dot.group] + _SPREAD * ((number * _GOLDEN) % 1 - 0.5))
    for method, counted in product(get_args(Method), (True, False)):
        placed = zip(dots, heights, strict=True)
        placed_dots = [
            (dot, y)
            for dot, y in placed
            if dot.method == method and (not dot.not_counted) == counted
        ]
        if placed_dots:
            yield {
                "type": "scatter",
                "mode": "markers",
                "name": dot_name(method, counted=counted),
                "x": [100 * dot.error for dot, _ in placed_dots],
                "y": [y for _, y in placed_dots],
                "customdata": [dot.record_id for dot, _ in placed_dots],
                "hovertext": [_hover(dot) for dot, _ in placed_dots],
                "hoverinfo": "text",
                "marker": dot_mark(method, 8, counted=counted),
            }


def _hover(dot: ErrorDot) -> str:
    why = [label(f"not counted: {dot.not_counted}", 120)] if dot.not_counted else []
    return lines(label(dot.label, 80), error_text(dot.error), *why)


def _medians(
    members: Mapping[str, Sequence[ErrorDot]], place: Mapping[str, float]
) -> dict[str, Any]:
    middles = {
        group: median(dot.error for dot in group_dots) for group, group_dots in members.items()
    }
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "median",
        "x": [100 * middle for middle in middles.values()],
        "y": [place[group] for group in middles],
        "hovertext": [
            lines(label(group), f"median {error_text(middle)}") for group, middle in middles.items()
        ],
        "hoverinfo": "text",
        "marker": {
            "symbol": "line-ns",
            "size": 22,
            "color": INK.light,
            "line": {"width": 2.5, "color": INK.light},
        },
    }
