"""What all figures share: axes without clutter, rows of bars, and notes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_profiler.report.palette import FAINT_INK, HEAD_PX, INK, SMALL_PX

Figure = dict[str, Any]
"""{"data": [...], "layout": {...}}: JSON's own types, of the attributes of plotly those that
`report.svg` draws."""


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
    """The finished figure of `height` pixels, as wide as where it stands, in light colours, which
    `report.svg` draws in the reader's theme."""
    return {"data": list(data), "layout": {"height": height, "xaxis": x, "yaxis": y, **layout}}


def title(text: str) -> dict[str, Any]:
    """An axis title."""
    return {"text": text}


def values(axis_title: str, **changes: Any) -> dict[str, Any]:
    """An axis of numbers, with thin lines across."""
    return {"title": title(axis_title), "showgrid": True, "nticks": 8, **changes}


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
        "tickfont": {"size": SMALL_PX, "color": INK.light},
        **changes,
    }


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
