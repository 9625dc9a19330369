"""Predicted against measured, with the line on which both are equal."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, get_args

from lora_profiler.report.charts.axes import log_bytes_axis
from lora_profiler.report.charts.figure import Figure, figure
from lora_profiler.report.charts.labels import label, lines
from lora_profiler.report.charts.marks import dot_mark, dot_name
from lora_profiler.report.palette import FAINT_INK
from lora_profiler.units import bytes_text, error_text
from lora_profiler.workload import Method

_HEIGHT_PX = 460


@dataclass(frozen=True, slots=True, kw_only=True)
class ScatterPoint:
    """One record: bytes above 0 on both sides. `label` is shown when pointed at.

    `not_counted` is why it counts for no error that is stated, "" where it does: then it is hollow,
    and `name` stands beside the furthest of that name.
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
    return figure(
        [*_points(points, word), line],
        height=_HEIGHT_PX,
        x=log_bytes_axis(smallest, largest, f"{word} peak"),
        y=log_bytes_axis(smallest, largest, "predicted peak"),
    )


def _points(points: Sequence[ScatterPoint], word: str) -> Iterator[dict[str, Any]]:
    hollow = [point for point in points if point.not_counted]
    furthest = {point.name: point for point in sorted(hollow, key=lambda point: abs(point.error))}
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
                "text": [
                    "" if counted or furthest[point.name] is not point else label(point.name)
                    for point in shown
                ],
                "textposition": [
                    "bottom center" if point.error < 0 else "top center" for point in shown
                ],  # away from the line
                "customdata": [point.record_id for point in shown],
                "hovertext": [_hover(point, word) for point in shown],
                "hoverinfo": "text",
                "marker": dot_mark(method, 9, counted=counted),
            }


def _hover(point: ScatterPoint, word: str) -> str:
    return lines(
        label(point.label, 80),
        f"predicted {bytes_text(point.predicted_bytes)}, {word} {bytes_text(point.measured_bytes)}",
        f"error {error_text(point.error)}",
        *([label(f"not counted: {point.not_counted}", 120)] if point.not_counted else []),
    )
