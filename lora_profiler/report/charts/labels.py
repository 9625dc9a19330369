"""Text from outside, made safe to stand in a figure: plotly would read tags and entities in it, and a name can be any length."""

import unicodedata

LONGEST = 44
"""Characters of a label; longer ones lose their middle."""
_ELLIPSIS = "…"


def label(text: str, longest: int = LONGEST) -> str:
    """`text` as plotly shows it word for word: one line, nothing that is a tag or turns the direction, at most `longest` long."""
    return escaped(shortened(cleaned(text), longest))


def cleaned(text: str) -> str:
    """Without controls and format characters, such as marks that turn the direction of writing; line breaks become spaces."""
    return "".join(" " if c in "\t\r\n" else c for c in text if c in "\t\r\n" or unicodedata.category(c) not in _INVISIBLE)


_INVISIBLE = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")


def shortened(text: str, longest: int = LONGEST) -> str:
    """Beginning and end of a text that is too long, since names often differ at their end."""
    if len(text) <= longest:
        return text
    end = (longest - 1) // 2
    return text[: longest - 1 - end] + _ELLIPSIS + text[len(text) - end :]


def escaped(text: str) -> str:
    """Where plotly reads pseudo-HTML, `<b>` and `&amp;` stand for themselves."""
    return text.replace("&", "&amp;").replace("<", "&lt;")


def lines(*parts: str) -> str:
    """Texts that are safe already, under each other."""
    return "<br>".join(part for part in parts if part)
