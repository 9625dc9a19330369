"""Text inside a figure: what plotly would read as markup is read the same way."""

from html import escape, unescape

from lora_profiler._common.printable import printable


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
