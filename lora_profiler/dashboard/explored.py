"""A figure to look into, the points of many runs: drawn by plotly, which zooms and tells of the
point that is nearest."""

from collections.abc import Mapping
from typing import Any, Final

import streamlit as st

from lora_profiler.dashboard import widgets
from lora_profiler.report.charts import Figure
from lora_profiler.report.palette import (
    BODY_PX,
    FAINT_INK,
    FONT,
    INK,
    LINE,
    PANEL,
    PAPER,
    SMALL_PX,
    Theme,
    all_colours,
    colour,
)

_CONFIG: Final[dict[str, Any]] = {
    "displaylogo": False,
    "responsive": True,
    "modeBarButtons": [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
}
_LEGEND_PX = 24
"""Of one entry, each on a line of its own, so that no window is too narrow for them."""


def explored(drawn: Figure, key: str, says: str) -> None:
    """A figure of `report.charts`. `says` is what a screen reader is told."""
    shown = dressed(drawn, widgets.theme())
    st.plotly_chart(shown, theme=None, key=key, width="stretch", config=_CONFIG, alt=says)


def dressed(drawn: Figure, theme: Theme) -> Figure:
    """The same figure for plotly, in the paper, ink and type that the style sheet gives the SVG."""
    ink, paper, faint, line = (colour(of, theme) for of in (INK, PAPER, FAINT_INK, LINE))
    small = {"size": SMALL_PX, "color": faint}
    axis = {
        "automargin": True,
        "gridcolor": line,
        "zeroline": False,
        "tickfont": small,
        "title": {"font": small, "standoff": 8},
    }
    entries = sum(bool(trace.get("name")) for trace in drawn["data"])
    look = {
        "font": {"family": FONT, "size": BODY_PX, "color": ink},
        "paper_bgcolor": paper,
        "plot_bgcolor": paper,
        "margin": {"l": 8, "r": 16, "t": 12 + _LEGEND_PX * entries, "b": 8},
        "hovermode": "closest",
        "hoverlabel": {
            "bgcolor": colour(PANEL, theme),
            "bordercolor": line,
            "align": "left",
            "font": {"family": FONT, "size": BODY_PX, "color": ink},
        },
        "legend": {"x": 0, "y": 1, "yref": "container", "yanchor": "top", "font": small},
        "modebar": {"bgcolor": paper, "color": faint, "activecolor": ink},
        "xaxis": axis,
        "yaxis": axis,
    }
    dark = {} if theme == "light" else {of.light: of.dark for of in all_colours()}
    layout = _repainted(drawn["layout"], dark, is_colour=False)
    return {
        "data": _repainted(drawn["data"], dark, is_colour=False),
        "layout": layout
        | {
            "template": {"layout": look},
            "height": drawn["layout"]["height"] + _LEGEND_PX * entries,
        },
    }


def _repainted(value: Any, dark: Mapping[str, str], *, is_colour: bool) -> Any:
    """With another colour in place of each. Text stays, even where it spells one."""
    if isinstance(value, Mapping):
        return {
            name: _repainted(part, dark, is_colour=name.endswith(("color", "colorscale")))
            for name, part in value.items()
        }
    if isinstance(value, list | tuple):
        return [_repainted(part, dark, is_colour=is_colour) for part in value]
    return dark.get(value, value) if is_colour and isinstance(value, str) else value
