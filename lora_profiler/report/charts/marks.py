"""How what is drawn is told apart: bars by colour and hatch, dots by colour and symbol, filled
where they are counted and hollow where they are shown and not counted."""

from collections.abc import Mapping
from typing import Any

from lora_profiler.report.labels import METHOD_LABELS
from lora_profiler.report.palette import METHOD_MARKS, PAPER, Paint
from lora_profiler.workload import Method


def hatched(paint: Paint) -> dict[str, Any]:
    """The marker of bars: colour and hatch, thinly parted from their neighbours."""
    marker: dict[str, Any] = {
        "color": paint.colour.light,
        "line": {"width": 1, "color": PAPER.light},
    }
    return {**marker, "pattern": hatch(paint)} if paint.hatch else marker


def hatch(paint: Paint) -> dict[str, Any]:
    """Thin strokes of paper over a colour."""
    return {
        "shape": paint.hatch,
        "fillmode": "replace",
        "bgcolor": paint.colour.light,
        "fgcolor": PAPER.light,
        "size": 7,
        "solidity": 0.25,
    }


def key(name: str, marker: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of the legend that belongs to no trace."""
    nowhere = {"type": "scatter", "mode": "markers", "x": [None], "y": [None], "hoverinfo": "skip"}
    return {**nowhere, "name": name, "marker": dict(marker)}


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
