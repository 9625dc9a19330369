"""How a dot of a method looks: filled where it is counted, hollow where it is shown and not
counted."""

from typing import Any

from lora_profiler.report.labels import METHOD_LABELS
from lora_profiler.report.palette import METHOD_MARKS, PAPER
from lora_profiler.workload import Method


def dot_name(method: Method, *, counted: bool) -> str:
    """For the legend."""
    return METHOD_LABELS[method] if counted else f"{METHOD_LABELS[method]}, not counted"


def dot_mark(method: Method, size: int, *, counted: bool) -> dict[str, Any]:
    mark = METHOD_MARKS[method]
    if not counted:
        return {
            "color": mark.colour.light,
            "symbol": f"{mark.symbol}-open",
            "size": size,
            "line": {"width": 1.5},
        }
    edge = {"width": 0.5, "color": PAPER.light}
    return {
        "color": mark.colour.light,
        "symbol": mark.symbol,
        "size": size,
        "opacity": 0.8,
        "line": edge,
    }
