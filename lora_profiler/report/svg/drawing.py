"""A figure of `report.charts` as HTML and SVG.

The plane is an `svg` as wide as its place less two margins, with what stands outside shown too.
Across, everything is placed in per cent; lines and areas lie in a box that is stretched. So the
words keep their size however wide the figure is.
"""

from collections.abc import Mapping
from html import escape
from typing import Any

from lora_profiler._common.printable import printable
from lora_profiler.report.charts.plot import Figure, width_px
from lora_profiler.report.palette import BODY_PX, SMALL_PX
from lora_profiler.report.svg import frame
from lora_profiler.report.svg.frame import NARROW_PX, WIDE_PX
from lora_profiler.report.svg.marks import Definitions, plain
from lora_profiler.report.svg.traces import Axis, Canvas, axis_of, drawn

_AROUND_PX, _LEGEND_PX, _LEGEND_COLUMNS = 84, 19, 3
"""What a figure's height has for its axis and its legend, which stand outside of the plane here."""
_LEAST_PX = 60
_ABOVE_GAP_PX = 14
"""Between bars, for a line of words."""
_CELL_PX = 70
"""A cell with words in it is no narrower: then its figure scrolls."""
_RIGHT_PX = 16


def figure_html(figure: Figure, name: str, says: str) -> str:
    """The figure with its legend. `name` begins the ids in it; `says` is what a screen reader is
    told in place of the picture.

    Raises KeyError for what a chart asks of plotly and this does not draw.
    """
    data, layout = figure["data"], figure["layout"]
    told = escape(printable(says))
    entries = sum(bool(t.get("name")) and t.get("showlegend", True) for t in data)
    around = _AROUND_PX + _LEGEND_PX * -(-entries // _LEGEND_COLUMNS)
    canvas = Canvas(
        x=_axis(layout["xaxis"], data, "x"),
        y=_axis(layout["yaxis"], data, "y"),
        height=max(layout["height"] - around, _LEAST_PX),
        definitions=Definitions(name),
    )
    angle = layout["xaxis"].get("tickangle", 0)
    has_room = _has_room(data, layout, canvas)
    labels, left, narrow_left = frame.beside(canvas, layout["yaxis"], above=has_room)
    if angle and canvas.x.ticks:  # the first of them leans to the left
        lean = 0.75 * width_px(plain(canvas.x.ticks[0][1]), SMALL_PX)
        left, narrow_left = max(left, lean), max(narrow_left, lean)
    ticks, below_px = frame.below(canvas, angle, left)
    right, narrow_right = _right(data, canvas, left, narrow_left)
    shapes, words = layout.get("shapes", []), layout.get("annotations", [])
    parts = [
        *(frame.shape(s, canvas) for s in shapes if s.get("layer") == "below"),
        frame.grid(canvas),
        *(part for trace in data for part in drawn(trace, canvas, layout)),
        *(frame.shape(s, canvas) for s in shapes if s.get("layer") != "below"),
        ticks,
        labels,
        *frame.notes(words, canvas, left, narrow_left),
    ]
    keys = frame.legend(data, canvas.definitions)
    margins = {"l": left, "r": right, "ln": narrow_left, "rn": narrow_right, "b": below_px}
    style = "".join(f"--{key}:{round(px)}px;" for key, px in margins.items())
    least = _CELL_PX * len(data[0]["x"]) if data and data[0]["type"] == "cells" else 0
    style += f"--least:{least}px;" if least else ""
    scrolls = f' class="lp-scroll" role="region" tabindex="0" aria-label="{told}"'
    return (
        f'<div class="lp-drawing">{keys}<div{scrolls if least else ""}>'
        f'<svg class="lp-plane" role="img" aria-label="{told}" height="{canvas.height:g}"'
        f' style="{style}">{canvas.definitions.svg()}{"".join(parts)}</svg></div></div>'
    )


def _axis(options: Mapping[str, Any], data: list[Mapping[str, Any]], name: str) -> Axis:
    return axis_of(options, [v for trace in data for v in trace[name] if v is not None])


def _has_room(data: list[Mapping[str, Any]], layout: Mapping[str, Any], canvas: Canvas) -> bool:
    """Whether a label finds room above its bar."""
    if not any(trace["type"] == "bar" for trace in data):
        return False
    row = abs(canvas.height / (canvas.y.last - canvas.y.first))
    return bool(row * layout.get("bargap", 0.2) >= _ABOVE_GAP_PX)


def _right(
    data: list[Mapping[str, Any]], canvas: Canvas, left: float, narrow_left: float
) -> tuple[float, float]:
    """Pixels right of the plane for words that run out of it, where the figure is wide and where it
    is narrow: with less they would run out of the figure."""
    found = [float(_RIGHT_PX), float(_RIGHT_PX)]
    for trace in data:
        if trace["type"] != "scatter" or trace.get("textposition") != "middle right":
            continue
        for x, text in zip(trace["x"], trace["text"], strict=True):
            taken = width_px(plain(text), BODY_PX) + 10
            share = max(canvas.x.share(x), 0.1)
            for n, room in enumerate((WIDE_PX - left, NARROW_PX - narrow_left)):
                # the plane is `room` less the margin, and the words begin at `share` of it
                found[n] = max(found[n], (taken - (1 - share) * room) / share)
    return found[0], found[1]
