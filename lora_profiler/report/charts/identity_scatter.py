"""Predicted against measured, with the line on which both are equal."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from lora_profiler.report.charts.bytes_axis import log_bytes_axis
from lora_profiler.report.charts.figure import Figure, figure
from lora_profiler.report.charts.labels import label, lines
from lora_profiler.report.metrics import METHOD_LABELS
from lora_profiler.report.palette import FAINT_INK, METHOD_MARKS, PAPER, Theme
from lora_profiler.units import bytes_text, error_text
from lora_profiler.workload import Method

_HEIGHT_PX = 460


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
    sizes = [size for point in points for size in (point.predicted_bytes, point.measured_bytes)] or [1, 1]
    smallest, largest = min(sizes), max(sizes)
    line = {
        "type": "scatter",
        "mode": "lines",
        "name": "predicted = measured",
        "x": [smallest / 8, largest * 8],
        "y": [smallest / 8, largest * 8],
        "line": {"color": FAINT_INK.light, "width": 1, "dash": "dash"},
        "hoverinfo": "skip",
    }
    return figure(
        [*_points(points), line],
        height=_HEIGHT_PX,
        x=log_bytes_axis(smallest, largest, "measured peak"),
        y=log_bytes_axis(smallest, largest, "predicted peak"),
        theme=theme,
    )


def _points(points: Sequence[ScatterPoint]) -> Iterator[dict[str, Any]]:
    for method in get_args(Method):
        found = [point for point in points if point.method == method]
        if found:
            mark = METHOD_MARKS[method]
            yield {
                "type": "scatter",
                "mode": "markers",
                "name": METHOD_LABELS[method],
                "x": [point.measured_bytes for point in found],
                "y": [point.predicted_bytes for point in found],
                "customdata": [point.record_id for point in found],
                "hovertext": [_hover(point) for point in found],
                "hoverinfo": "text",
                "marker": {
                    "color": mark.colour.light, "symbol": mark.symbol, "size": 9, "opacity": 0.8,
                    "line": {"width": 0.5, "color": PAPER.light},
                },
            }  # fmt: skip


def _hover(point: ScatterPoint) -> str:
    error = error_text((point.predicted_bytes - point.measured_bytes) / point.measured_bytes)
    return lines(
        label(point.label, 80),
        f"predicted {bytes_text(point.predicted_bytes)}, measured {bytes_text(point.measured_bytes)}",
        f"error {error}",
    )
