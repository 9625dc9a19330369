"""What all figures share: paper, ink, type, axes without clutter, the dark repaint, and text that plotly takes as text."""

from dataclasses import dataclass
from typing import Any, Final

Figure = dict[str, Any]
"""{"data": [...], "layout": {...}}: JSON's own types, as plotly's `Figure(...)`, `Plotly.newPlot` and Streamlit take it."""

CONFIG: Final[dict[str, Any]] = {
    "displaylogo": False, "responsive": True, "modeBarButtons": [["toImage"]], "toImageButtonOptions": {"format": "png", "scale": 2},
}  # fmt: skip
"""plotly's configuration beside a figure: one button, which saves it as a picture."""

BAR_PX, ROW_PX = 22, 30
"""Thickness of a bar, and the height that one row of bars takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A line across a figure of bytes: what a card has, say."""

    label: str
    bytes: int
