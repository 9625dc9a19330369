"""Symbols, hatches and colours: plotly's names as paths and classes, and the style sheet of all
figures on a page, which has the colours of the palette by name; text, in which what plotly would
read as markup is read the same way; and pictures, in which the role of each colour is named."""

import math
from collections.abc import Mapping
from functools import cache
from html import escape, unescape
from importlib.resources import files
from typing import Any, Final, Literal

from lora_profiler._common.printable import printable
from lora_profiler.report import palette
from lora_profiler.report.palette import BODY_PX, FAINT_INK, Colour, Theme

_HATCHES: Final[Mapping[str, str]] = {
    "/": "M-1,8L8,-1M-1,1L1,-1M6,8L8,6",
    "\\": "M-1,-1L8,8M6,-1L8,1M-1,6L1,8",
    "x": "M-1,8L8,-1M-1,-1L8,8",
    "-": "M0,3.5H7",
    "|": "M3.5,0V7",
    "+": "M0,3.5H7M3.5,0V7",
    ".": "M2.5,3.5a1,1 0 1,0 2,0a1,1 0 1,0 -2,0",
}
"""Strokes in a square of 7 pixels that is laid side by side."""


def fill(colour: str) -> str:
    """The class that fills with a colour of the palette, in the reader's theme."""
    return f"f{colour.removeprefix('#')}"


def stroke(colour: str) -> str:
    return f"s{colour.removeprefix('#')}"


def symbol_path(symbol: str, size: float) -> str:
    """A symbol of plotly's around the origin, `size` pixels across; `-open` has the same path."""
    r = size / 2
    name = symbol.removesuffix("-open")
    if name == "circle":
        return f"M{-r:g},0a{r:g},{r:g} 0 1,0 {2 * r:g},0a{r:g},{r:g} 0 1,0 {-2 * r:g},0Z"
    if name == "line-ns":
        return f"M0,{-r:g}V{r:g}"
    if name == "cross":
        a = r / 2.5
        return (
            f"M{r:.3g},{a:.3g}H{a:.3g}V{r:.3g}H{-a:.3g}V{a:.3g}H{-r:.3g}V{-a:.3g}H{-a:.3g}"
            f"V{-r:.3g}H{a:.3g}V{-a:.3g}H{r:.3g}Z"
        )
    return "M" + "L".join(f"{x:.3g},{y:.3g}" for x, y in _corners(name, r)) + "Z"


def _corners(name: str, r: float) -> list[tuple[float, float]]:
    if name == "square":
        return [(-r, -r), (r, -r), (r, r), (-r, r)]
    count, reach, start = {
        "diamond": (4, 1.3 * r, 90),
        "triangle-up": (3, 1.15 * r, 90),
        "triangle-down": (3, 1.15 * r, 270),
        "hexagon": (6, r, 90),
        "star": (10, 1.4 * r, 90),
    }[name]
    radii = [reach, reach * 0.382] if name == "star" else [reach]
    return [
        (radii[n % len(radii)] * math.cos(angle), -radii[n % len(radii)] * math.sin(angle))
        for n in range(count)
        for angle in [math.radians(start + 360 * n / count)]
    ]


class Definitions:
    """What a figure defines once and refers to by ids that begin with its own."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._ids: dict[str, str] = {}

    def _id(self, content: str) -> str:
        """The id of `content`, in which {id} stands for it."""
        return self._ids.setdefault(content, f"{self._name}-{len(self._ids)}")

    def paint(self, colour: str, pattern: Mapping[str, Any] | None, *names: str) -> str:
        """Attributes that fill with a colour, or with plotly's `pattern` of it, and with more
        classes."""
        if not pattern:
            return f'class="{" ".join((fill(colour), *names))}"'
        content = (
            '<pattern id="{id}" width="7" height="7" patternUnits="userSpaceOnUse">'
            f'<rect width="7" height="7" class="{fill(pattern["bgcolor"])}"/><path'
            f' d="{_HATCHES[pattern["shape"]]}" class="{stroke(pattern["fgcolor"])}" fill="none"/>'
            "</pattern>"
        )
        hatched = f'fill="url(#{self._id(content)})"'
        return f'class="{" ".join(names)}" {hatched}' if names else hatched

    def symbol(self, symbol: str, size: float) -> str:
        """The id of a path around the origin."""
        return self._id(f'<path id="{{id}}" d="{symbol_path(symbol, size)}"/>')

    def clip(self, path: str, width: float, height: float) -> str:
        """A value of `clip-path` for what fills the figure: `path` is in a box of these sizes."""
        return "url(#{})".format(
            self._id(
                '<clipPath id="{id}" clipPathUnits="objectBoundingBox">'
                f'<path transform="scale({1 / width:.6g} {1 / height:.6g})" d="{path}"/></clipPath>'
            )
        )

    def svg(self) -> str:
        made = "".join(content.replace("{id}", name) for content, name in self._ids.items())
        return f"<defs>{made}</defs>" if made else ""


def edge(marker: Mapping[str, Any]) -> str:
    """Attributes of the outline of a marker: its class and width, apart from those of its fill."""
    line = marker.get("line", {})
    return f'stroke-width="{line.get("width", 1):g}"'


def marker_classes(marker: Mapping[str, Any]) -> str:
    """Fill and outline of plotly's marker: an open one has no fill, `line-ns` is all outline."""
    symbol, colour = marker.get("symbol", "circle"), marker["color"]
    line = marker.get("line", {})
    if symbol.endswith("-open") or symbol == "line-ns":
        return f"n {stroke(colour)}"
    outline = f" {stroke(line.get('color', palette.PAPER.light))}" if line else ""
    return fill(colour) + outline


@cache
def figure_style(theme: Theme | None = None) -> str:
    """Stands once on a page; without `theme` light, dark where the reader asks for it."""
    scale = (palette.CELL_PX, palette.SMALL_PX, palette.BODY_PX, palette.HEAD_PX)
    sizes = "".join(f".lp-plane .t{px}{{font-size:{px}px}}" for px in scale)
    names = dict.fromkeys(_name(of.light) for of in palette.all_colours())
    classes = "".join(f".f{n}{{fill:var(--c{n})}}.s{n}{{stroke:var(--c{n})}}" for n in names)
    own = files("lora_profiler.report.svg").joinpath("figures.css").read_text("utf-8")
    dark = f"@media screen and (prefers-color-scheme:dark){{:root{{{_colours('dark')}}}}}\n"
    return (
        f":root{{{_colours(theme or 'light')}--lp-around:var(--c{_name(palette.PAPER.light)})}}\n"
        f"{'' if theme else dark}.lp-drawing{{font-family:{palette.FONT}}}\n"
        f"{classes}\n{sizes}\n{own}"
    )


def _colours(theme: Theme) -> str:
    """Each under the name of what it is in the light."""
    found = {_name(of.light): palette.colour(of, theme) for of in palette.all_colours()}
    return "".join(f"--c{name}:{value};" for name, value in found.items())


def _name(light: str) -> str:
    return light.removeprefix("#")


def lines_of(text: str) -> list[str]:
    """Lines, as plain text, of a figure's text, whose tags are `<br>` and `<b>` alone."""
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
    return "".join(
        f'<text x="{x}" y="{number(baseline + n * _LINE * size)}" class="{shown}"{anchor}{shift}>'
        f"{escape(line, quote=False)}</text>"
        for n, line in enumerate(lines)
        if line
    )


# --- pictures, in which the role of each colour is named ------------------------------------------

_FILLS: dict[str, Colour] = {
    "ink": palette.INK,
    "faint": palette.FAINT_INK,
    "panel": palette.PANEL,
    "paper": palette.PAPER,
    "accent": palette.ACCENT,
    "warning": palette.WARNING,
    "full": palette.METHOD_MARKS["full"].colour,
    "lora": palette.METHOD_MARKS["lora"].colour,
}
_STROKES: dict[str, Colour] = {
    "line": palette.FAINT_INK,
    "edge": palette.LINE,
    "frame": palette.INK,
    "accent-line": palette.ACCENT,
    "warning-line": palette.WARNING,
    "full-line": _FILLS["full"],
    "lora-line": _FILLS["lora"],
}


def picture(
    width: int, height: int, parts: list[str], *, says: str, theme: Theme | None = None
) -> str:
    """The whole SVG, read out as `says`; without `theme` in the reader's, light on paper."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="lpd" viewBox="0 0 {width} {height}"'
        f' width="{width}" height="{height}" role="img"'
        f' aria-label="{escape(says)}"><style>{style(theme)}</style>{"".join(parts)}</svg>'
    )


def style(theme: Theme | None) -> str:
    """The rules of every role and size."""
    sizes = ".lpd .small{font-size:12px}.lpd .big{font-size:17px}.lpd .mid{text-anchor:middle}"
    common = f".lpd text{{font:13px {palette.FONT}}}{sizes}"
    if theme is not None:
        return common + _rules(theme)
    return (
        f"{common}{_rules('light')}@media screen and (prefers-color-scheme:"
        f" dark){{{_rules('dark')}}}"
    )


def _rules(theme: Theme) -> str:
    fills = "".join(
        f".lpd .{name}{{fill:{palette.colour(of, theme)}}}" for name, of in _FILLS.items()
    )
    return fills + "".join(
        f".lpd .{name}{{stroke:{palette.colour(of, theme)}}}" for name, of in _STROKES.items()
    )


def text(x: float, y: float, words: str, names: str = "ink mid", *, look: str = "") -> str:
    """One line of text with its baseline at y; `names` are roles and sizes, `look` is CSS."""
    style = f' style="{look}"' if look else ""
    return f'<text x="{x:g}" y="{y:g}" class="{names}"{style}>{escape(printable(words))}</text>'


def behind(first: str, words: str, names: str, *, look: str, gap: float) -> str:
    """The line of text `first` with more of it in another look, wherever it ends."""
    head = first.removesuffix("</text>")
    return (
        f'{head}<tspan dx="{gap:g}" class="{names}" style="{look}">{escape(printable(words))}'
        "</tspan></text>"
    )


def box(x: float, y: float, width: float, height: float, names: str) -> str:
    return (
        f'<rect x="{x:.6g}" y="{y:.6g}" width="{width:.6g}" height="{height:.6g}" class="{names}"'
        ' shape-rendering="crispEdges"/>'
    )
