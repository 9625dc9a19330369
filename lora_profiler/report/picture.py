"""Pictures as SVG, in which the role of each colour is named: the card to share, and what a layer
of LoRA looks like. Figures of numbers are plotly's; see `report.charts`."""

from html import escape

from lora_profiler._common.printable import printable
from lora_profiler.report import palette
from lora_profiler.report.palette import Colour, Theme

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
