"""A figure of `report.charts` as HTML and SVG.

The plane is an `svg` as wide as its place less two margins, with what stands outside shown too.
Across, everything is placed in per cent; lines and areas lie in a box that is stretched. So the
words keep their size however wide the figure is.
"""

from collections.abc import Mapping
from html import escape
from typing import Any

from lora_profiler.report.charts.figure import Figure
from lora_profiler.report.palette import BODY_PX, HEAD_PX, SMALL_PX, Theme, all_colours, colour
from lora_profiler.report.svg.axis import Axis, axis_of
from lora_profiler.report.svg.frame import (
    NARROW_PX,
    below,
    beside,
    grid,
    legend,
    note,
    paper,
    shape,
)
from lora_profiler.report.svg.marks import Definitions, stroke
from lora_profiler.report.svg.text import plain, width_px
from lora_profiler.report.svg.traces import Canvas, drawn

_AROUND_PX, _LEGEND_PX, _LEGEND_COLUMNS = 84, 19, 3
"""What a figure's height has for its axis and its legend, which stand outside of the plane here."""
_LEAST_PX = 60
_ABOVE_GAP_PX = 14
"""Between bars, for a line of words."""
_CELL_PX = 64
"""A cell with words in it is no narrower: then its figure scrolls."""
_RIGHT_PX, _TOP_PX = 16, 8


def figure_html(figure: Figure, name: str, says: str) -> str:
    """The figure with its legend. `name` begins the ids in it; `says` is what a screen reader is
    told in place of the picture.

    Raises KeyError for what a chart asks of plotly and this does not draw.
    """
    data, layout = figure["data"], figure["layout"]
    entries = sum(bool(t.get("name")) and t.get("showlegend", True) for t in data)
    around = _AROUND_PX + _LEGEND_PX * -(-entries // _LEGEND_COLUMNS)
    canvas = Canvas(
        x=_axis(layout["xaxis"], data, "x"),
        y=_axis(layout["yaxis"], data, "y"),
        height=max(layout["height"] - around, _LEAST_PX),
        definitions=Definitions(name),
    )
    ticks, below_px = below(canvas, layout["xaxis"].get("tickangle", 0))
    labels, left, narrow_left = beside(
        canvas, layout["yaxis"], above=_has_room(data, layout, canvas)
    )
    right, narrow_right = _right(data, canvas)
    shapes = layout.get("shapes", [])
    parts = [
        *(shape(s, canvas) for s in shapes if s.get("layer") == "below"),
        grid(canvas),
        *(part for trace in data for part in drawn(trace, canvas, layout)),
        *(shape(s, canvas) for s in shapes if s.get("layer") != "below"),
        ticks,
        labels,
        *(part for n in layout.get("annotations", []) for part in note(n, canvas, narrow_left)),
    ]
    keys = legend(data, canvas.definitions)
    margins = {"l": left, "r": right, "ln": narrow_left, "rn": narrow_right, "b": below_px}
    style = "".join(f"--{key}:{round(px)}px;" for key, px in margins.items())
    least = _CELL_PX * len(data[0]["x"]) if data and data[0]["type"] == "heatmap" else 0
    style += f"min-width:{least}px;" if least else ""
    scrolls = f' class="lp-scroll" role="region" tabindex="0" aria-label="{escape(says)}"'
    return (
        f'<div class="lp-drawing">{keys}<div{scrolls if least else ""}>'
        f'<svg class="lp-plane" role="img" aria-label="{escape(says)}" height="{canvas.height:g}"'
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


def _right(data: list[Mapping[str, Any]], canvas: Canvas) -> tuple[float, float]:
    """Pixels right of the plane for words that run out of it, where it is wide and where it is
    narrow."""
    wide, narrow = float(_RIGHT_PX), float(_RIGHT_PX)
    for trace in data:
        if trace["type"] != "scatter" or "text" not in trace["mode"]:
            continue
        if trace["textposition"] != "middle right":
            continue
        for x, text in zip(trace["x"], trace["text"], strict=True):
            taken = width_px(plain(text), BODY_PX) + 8
            share = canvas.x.share(x)
            narrow = max(narrow, taken - (1 - share) * NARROW_PX)
            wide = max(wide, taken - (1 - share) * 2 * NARROW_PX)
    return wide, narrow


def colour_classes() -> str:
    """A class for every colour of the palette, which fills, and one which draws."""
    names = dict.fromkeys(of.light.removeprefix("#") for of in all_colours())
    return "".join(f".f{n}{{fill:var(--c{n})}}.s{n}{{stroke:var(--c{n})}}" for n in names)


def colours(theme: Theme) -> str:
    return "".join(
        f"--c{light}:{value};"
        for light, value in {
            of.light.removeprefix("#"): colour(of, theme) for of in all_colours()
        }.items()
    )


def figure_style() -> str:
    """The style sheet of all figures on a page, which stands once: light, and dark where the reader
    asks for it on a screen."""
    return (
        f":root{{{colours('light')}}}\n"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{colours('dark')}}}}}\n"
        f".lp-plane :is(.t1){{font-size:{SMALL_PX}px}}.lp-plane .t2{{font-size:{BODY_PX}px}}"
        f".lp-plane .t3{{font-size:{HEAD_PX}px}}\n"
        ".lp-drawing .n{fill:none}.lp-plane .l{fill:none;vector-effect:non-scaling-stroke}"
        f".lp-plane .over{{paint-order:stroke;stroke:var(--c{paper().removeprefix('#')});"
        "stroke-width:5px;stroke-linejoin:round}"
        f".lp-plane .cell{{stroke:var(--c{paper().removeprefix('#')});stroke-width:2px}}\n"
        f"{colour_classes()}"
    )


__all__ = ["figure_html", "figure_style", "stroke"]
