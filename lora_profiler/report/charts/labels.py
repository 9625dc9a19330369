"""Text from outside, made safe to stand in a figure: plotly would read tags and entities in it, and
a name can be any length; and how much room it takes."""

from lora_profiler._common.printable import printable

LONGEST = 44
"""Characters of a label; longer ones lose their middle."""
_ELLIPSIS = "…"
_NARROW, _WIDE = frozenset("iljtfrI.,:;'|!()[]/ -"), frozenset("mwMW@%≥×")
_EM_NARROW, _EM_WIDE, _EM_LARGE, _EM = 0.38, 0.95, 0.7, 0.63
"""Widths of letters in font sizes, a little above those of common sans-serifs: room for each."""


def label(text: str, longest: int = LONGEST) -> str:
    """`text` as plotly shows it word for word: one line, nothing that is a tag or turns the
    direction, at most `longest` long."""
    return _escaped(shortened(printable(text), longest))


def lines(*parts: str) -> str:
    """Texts that are safe already, under each other."""
    return "<br>".join(part for part in parts if part)


def shortened(text: str, longest: int = LONGEST) -> str:
    """Beginning and end of a text that is too long, since names often differ at their end."""
    if len(text) <= longest:
        return text
    end = (longest - 1) // 2
    return text[: longest - 1 - end] + _ELLIPSIS + text[len(text) - end :]


def _escaped(text: str) -> str:
    """Where plotly reads pseudo-HTML, `<b>` and `&amp;` stand for themselves."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def width_px(text: str, font_px: float) -> float:
    """Room for one line of `text`, in pixels."""
    return font_px * sum(
        _EM_NARROW
        if letter in _NARROW
        else _EM_WIDE
        if letter in _WIDE
        else _EM_LARGE
        if letter.isupper()
        else _EM
        for letter in text
    )
