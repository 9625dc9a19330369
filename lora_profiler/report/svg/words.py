"""Words in a figure."""

from collections.abc import Mapping
from html import escape
from typing import Any, Literal

from lora_profiler.report.palette import BODY_PX, FAINT_INK
from lora_profiler.report.svg.marks import fill
from lora_profiler.report.svg.text import lines_of, number

Upright = Literal["t", "m", "b"]
"""Which part of the words lies at the place: top, middle, bottom."""
Across = Literal["start", "middle", "end"]
_SHIFTS: Mapping[Upright, float] = {"t": 0.85, "m": 0.35, "b": -0.25}
"""From there to the baseline, in font sizes."""
_LINE = 1.2


def words(
    text: str,
    x: str,
    y: float,
    upright: Upright,
    across: Across,
    font: Mapping[str, Any] | None = None,
    *,
    dx: float = 0,
    names: str = "",
) -> str:
    """A text of `charts.labels` at a place; `names` are more classes."""
    if not text:
        return ""
    size = (font or {}).get("size", BODY_PX)
    colour = (font or {}).get("color", FAINT_INK.light)
    lines = lines_of(text)
    block = (len(lines) - 1) * _LINE * size
    above = {"t": 0.0, "m": block / 2, "b": block}[upright]
    baseline = y - above + _SHIFTS[upright] * size
    shown = " ".join(filter(None, [f"t{size}", fill(colour), names]))
    anchor = "" if across == "start" else f' text-anchor="{across}"'
    shift = f' dx="{number(dx)}"' if dx else ""
    made = "".join(
        f'<text x="{x}" y="{number(baseline + n * _LINE * size)}" class="{shown}"{anchor}{shift}>'
        f"{escape(line, quote=False)}</text>"
        for n, line in enumerate(lines)
        if line
    )
    return made
