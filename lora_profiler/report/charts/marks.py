"""How what is drawn is told apart: bars by colour and hatch, dots by colour and symbol, filled
where they are counted and hollow where they are shown and not counted; and what stands at a bar's
end."""

from collections.abc import Mapping, Sequence
from typing import Any

from lora_profiler.report.labels import METHOD_LABELS
from lora_profiler.report.palette import BODY_PX, FAINT_INK, INK, METHOD_MARKS, PAPER, Colour, Paint
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


def segments(
    name: str, x: Sequence[float], y: Sequence[float], hover: Sequence[str], paint: Paint
) -> dict[str, Any]:
    """One part of each of several stacked bars."""
    return {
        "type": "bar",
        "orientation": "h",
        "name": name,
        "x": list(x),
        "y": list(y),
        "hovertext": list(hover),
        "hoverinfo": "text",
        "marker": hatched(paint),
    }


def at_the_end(
    x: Sequence[float], y: Sequence[float], texts: Sequence[str], ink: Colour = INK
) -> dict[str, Any]:
    """What is written behind the end of each bar."""
    return {
        "type": "scatter",
        "mode": "text",
        "x": list(x),
        "y": list(y),
        "text": list(texts),
        "textposition": "middle right",
        "textfont": {"size": BODY_PX, "color": ink.light},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def whisker(below: Sequence[float], above: Sequence[float]) -> dict[str, Any]:
    """How far an interval reaches to both sides of each value."""
    return {
        "type": "data",
        "symmetric": False,
        "thickness": 1.2,
        "width": 4,
        "color": FAINT_INK.light,
        "array": list(above),
        "arrayminus": list(below),
    }
