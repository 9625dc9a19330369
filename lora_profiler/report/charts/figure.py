"""What all figures share: paper, ink and type, axes without clutter, and the repaint for the
dark."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from lora_profiler.report.charts.labels import width_px
from lora_profiler.report.palette import (
    BODY_PX,
    DARK_OF,
    FAINT_INK,
    FONT,
    HEAD_PX,
    INK,
    LINE,
    PANEL,
    PAPER,
    SMALL_PX,
)

Figure = dict[str, Any]
"""{"data": [...], "layout": {...}}: JSON's own types, as plotly's `Figure(...)`, `Plotly.newPlot`
and Streamlit take it."""

CONFIG: Final[dict[str, Any]] = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtons": [["toImage"]],
    "toImageButtonOptions": {"format": "png", "scale": 2},
}
"""plotly's configuration beside a figure: one button, which saves it as a picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A line across a figure of bytes: what a card has, say."""

    label: str
    bytes: int


def figure(
    data: Sequence[Mapping[str, Any]],
    *,
    height: int,
    x: Mapping[str, Any],
    y: Mapping[str, Any],
    **layout: Any,
) -> Figure:
    """The finished figure of `height` pixels, as wide as where it stands, in light colours;
    `repainted` makes its dark twin."""
    return {
        "data": list(data),
        "layout": {
            "template": {"layout": {}},  # none of plotly's own
            "font": {"family": FONT, "size": BODY_PX, "color": INK.light},
            "paper_bgcolor": PAPER.light,
            "plot_bgcolor": PAPER.light,
            "margin": {"l": 8, "r": 16, "t": 12, "b": 8},
            "height": height,
            "hovermode": "closest",
            "hoverlabel": {
                "bgcolor": PANEL.light,
                "bordercolor": LINE.light,
                "align": "left",
                "font": {"family": FONT, "size": BODY_PX, "color": INK.light},
            },
            "dragmode": False,
            "modebar": {"bgcolor": PAPER.light, "color": FAINT_INK.light, "activecolor": INK.light},
            "showlegend": True,
            "legend": {
                "orientation": "h",
                "x": 0,
                "xanchor": "left",
                "y": 1,
                "yanchor": "bottom",
                "traceorder": "normal",
                "bgcolor": PAPER.light,
                "font": {"size": SMALL_PX},
                "itemclick": "toggle",
                "itemdoubleclick": False,
            },
            "xaxis": {**_AXIS, **x},
            "yaxis": {**_AXIS, **y},
            **layout,
        },
    }


_AXIS: Final[dict[str, Any]] = {
    "automargin": True,
    "fixedrange": True,
    "showgrid": False,
    "gridcolor": LINE.light,
    "zeroline": False,
    "linecolor": LINE.light,
    "tickcolor": LINE.light,
    "tickfont": {"size": SMALL_PX, "color": FAINT_INK.light},
}


def title(text: str) -> dict[str, Any]:
    """An axis title."""
    return {"text": text, "font": {"size": SMALL_PX, "color": FAINT_INK.light}, "standoff": 8}


def values(axis_title: str, **changes: Any) -> dict[str, Any]:
    """An axis of numbers, with thin lines across and thousands separators."""
    return {
        "title": title(axis_title),
        "showgrid": True,
        "separatethousands": True,
        "nticks": 8,
        **changes,
    }


def rows(
    labels: Sequence[str], positions: Sequence[float], *, below: float = 0.6, **changes: Any
) -> dict[str, Any]:
    """A vertical axis of safe labels at `positions`, from top to bottom. Positions are numbers, so
    that equal labels stay two; the axis goes on `below` the last of them."""
    ends = [max(positions, default=0.0) + below, -0.6]
    return {
        "tickmode": "array",
        "tickvals": list(positions),
        "ticktext": list(labels),
        "range": ends,
        "ticks": "",
        "tickfont": {"size": SMALL_PX, "color": INK.light},
        "ticklabelstandoff": 6,
        **changes,
    }


def row_labels_px(drawn: Figure) -> float:
    """How wide the labels of its `rows` are; 0 of a figure without, and of a map, whose cells need
    the room."""
    axis = drawn["layout"]["yaxis"]
    if "ticklabelstandoff" not in axis or any(t["type"] == "heatmap" for t in drawn["data"]):
        return 0.0
    texts = [line for text in axis["ticktext"] for line in text.split("<br>")]
    return max((width_px(text, SMALL_PX) for text in texts), default=0.0)


def note(text: str, *, x: float, y: float, **changes: Any) -> dict[str, Any]:
    """Safe text at a place of the figure, without an arrow unless `changes` asks for one."""
    faint = {"size": SMALL_PX, "color": FAINT_INK.light}
    return {"text": text, "x": x, "y": y, "showarrow": False, "font": faint, **changes}


def head(text: str, *, y: float) -> dict[str, Any]:
    """The heading of a group of rows, at their left end."""
    font = {"size": HEAD_PX, "color": INK.light}
    return note(text, x=0, y=y, xref="paper", xanchor="left", yanchor="middle", font=font)


# --- rows of bars under the headings of their groups ----------------------------------------------

_ROW_PX, _AROUND_PX, _LEGEND_PX = 28, 84, 19
_LEGEND_COLUMNS = 3
"""Entries of a legend in one line, where the figure is narrow."""
_HEAD_ROWS = 1.15
"""Height of a heading and the space above it, in rows."""
_HEAD_ABOVE = 0.85
"""How far a heading stands above its first bar, in rows."""


def places(groups: Sequence[str]) -> tuple[list[float], list[tuple[str, float]]]:
    """Where each bar stands, from the top, and each heading. `groups` has one name a bar; equal
    neighbours share a heading."""
    positions: list[float] = []
    heads: list[tuple[str, float]] = []
    y, before = 0.0, ""
    for group in groups:
        if group and group != before:
            y += _HEAD_ROWS
            heads.append((group, y - _HEAD_ABOVE))
        before = group
        positions.append(y)
        y += 1
    return positions, heads


def height_px(positions: Sequence[float], entries: int, extra_rows: float = 0.0) -> int:
    """Pixels of a figure with bars at these positions and so many `entries` in its legend, axis
    included."""
    legend = _LEGEND_PX * -(-entries // _LEGEND_COLUMNS)
    return round(_AROUND_PX + legend + _ROW_PX * (max(positions, default=0.0) + 1.2 + extra_rows))


# --- the dark -------------------------------------------------------------------------------------


def repainted(drawn: Figure) -> Figure:
    """The same figure with the dark twin of every colour. Text stays as it is, even where it spells
    a colour."""
    done: Figure = _repainted(drawn, is_colour=False)
    return done


def _repainted(value: Any, *, is_colour: bool) -> Any:
    if isinstance(value, Mapping):
        return {
            name: _repainted(part, is_colour=is_colour_name(name)) for name, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [_repainted(part, is_colour=is_colour) for part in value]
    return DARK_OF.get(value, value) if is_colour and isinstance(value, str) else value


def is_colour_name(name: str) -> bool:
    """Whether plotly's attribute of this name holds colours: `color`, `fillcolor`, `paper_bgcolor`,
    `colorscale`."""
    return name.endswith(("color", "colorscale"))
