"""Text inside a figure: what plotly would read as markup is read the same way."""

from collections.abc import Mapping
from html import escape, unescape
from typing import Any, Literal

from lora_profiler._common.printable import printable
from lora_profiler.report.palette import BODY_PX, FAINT_INK
from lora_profiler.report.svg.marks import fill


def lines_of(text: str) -> list[str]:
    """The lines of a text of `charts.labels`, whose tags are `<br>` and `<b>` alone, as plain
    text."""
    parts = text.replace("<b>", "").replace("</b>", "").split("<br>")
    return [printable(unescape(part)) for part in parts]


def plain(text: str) -> str:
    """The same in one line."""
    return ", ".join(lines_of(text))


def tooltip(text: str) -> str:
    """What a browser shows when it is pointed at."""
    return f"<title>{escape(chr(10).join(lines_of(text)), quote=False)}</title>"


def number(value: float) -> str:
    """A coordinate in few digits."""
    return f"{value:.1f}".removesuffix(".0").replace("-0.", "-.").removeprefix("0") or "0"


def percent(share: float) -> str:
    """A share of the figure's width: SVG takes per cent where it takes a length."""
    return f"{100 * share:.2f}".rstrip("0").rstrip(".") + "%"


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
