"""Rows of bars under the headings of their groups: where each stands, and how high all of them
are."""

from collections.abc import Sequence

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
