"""Predicted against measured, with the line on which both are equal."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, get_args

from lora_profiler.report.charts.axes import log_bytes_axis
from lora_profiler.report.charts.figure import Figure, figure
from lora_profiler.report.charts.labels import label, lines
from lora_profiler.report.charts.marks import dot_mark, dot_name
from lora_profiler.report.charts.point_names import Spot, name_places
from lora_profiler.report.palette import FAINT_INK, INK, SMALL_PX
from lora_profiler.units import bytes_text, error_text
from lora_profiler.workload import Method

_HEIGHT_PX, _DOT_PX = 460, 9


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
    sizes = [
        size for point in points for size in (point.predicted_bytes, point.measured_bytes)
    ] or [1, 1]
    smallest, largest = min(sizes), max(sizes)
    line = {
        "type": "scatter",
        "mode": "lines",
        "name": f"predicted = {word}",
        "x": [smallest / 8, largest * 8],
        "y": [smallest / 8, largest * 8],
        "line": {"color": FAINT_INK.light, "width": 1, "dash": "dash"},
        "hoverinfo": "skip",
    }
    x = log_bytes_axis(smallest, largest, f"{word} peak")
    y = log_bytes_axis(smallest, largest, "predicted peak")
    places = _names(points, x["range"])
    return figure([*_points(points, places, word), line], height=_HEIGHT_PX, x=x, y=y)


def _names(points: Sequence[ScatterPoint], ends: Sequence[float]) -> dict[ScatterPoint, str]:
    """Where names stand, each at the furthest of its points that has room; `ends` are those of both
    axes, as powers of ten."""
    low, high = ends

    def share(size: int) -> float:
        return (math.log10(size) - low) / (high - low)

    spots = [
        Spot(share(point.measured_bytes), share(point.predicted_bytes), _DOT_PX / 2)
        for point in points
    ]
    hollow = (n for n, point in enumerate(points) if point.not_counted)
    furthest_first = sorted(hollow, key=lambda n: -abs(points[n].error))
    found = name_places(spots, {n: points[n].name for n in furthest_first})
    return {points[n]: place for n, place in found.items()}


def _points(
    points: Sequence[ScatterPoint], places: Mapping[ScatterPoint, str], word: str
) -> Iterator[dict[str, Any]]:
    for method, counted in product(get_args(Method), (True, False)):
        shown = [
            point
            for point in points
            if point.method == method and (not point.not_counted) == counted
        ]
        if shown:
            yield {
                "type": "scatter",
                "mode": "markers" if counted else "markers+text",
                "name": dot_name(method, counted=counted),
                "x": [point.measured_bytes for point in shown],
                "y": [point.predicted_bytes for point in shown],
                "text": [label(point.name) if point in places else "" for point in shown],
                "textposition": [places.get(point, "top right") for point in shown],
                "textfont": {"size": SMALL_PX, "color": INK.light},
                "customdata": [point.record_id for point in shown],
                "hovertext": [_hover(point, word) for point in shown],
                "hoverinfo": "text",
                "marker": dot_mark(method, _DOT_PX, counted=counted),
            }


def _hover(point: ScatterPoint, word: str) -> str:
    return lines(
        label(point.label, 80),
        f"predicted {bytes_text(point.predicted_bytes)}, {word} {bytes_text(point.measured_bytes)}",
        f"error {error_text(point.error)}",
        *([label(f"not counted: {point.not_counted}", 120)] if point.not_counted else []),
    )
