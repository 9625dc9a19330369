"""Text, tables and cards as HTML, by the report's own templates: each function is a macro of
`blocks.html.j2`."""

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from lora_profiler.report.blocks import Block
from lora_profiler.report.page.markup import environment
from lora_profiler.report.page.parts import Card


@cache
def _macros() -> Any:
    return environment().get_template("blocks.html.j2").module


def html_of(blocks: Iterable[Block]) -> str:
    """Paragraphs, and tables that scroll in themselves where the window is narrow."""
    return str(_macros().blocks(blocks))


def note(kind: str, lines: Sequence[str], title: str = "") -> str:
    """A box beside the text: kind is problem, caution or note; screen readers are told of a problem
    at once."""
    return str(_macros().note(kind, lines, title))


def title(text: str, lines: Sequence[str] = ()) -> str:
    """The head of a page and what stands under it."""
    return str(_macros().title(text, lines))


def section(text: str) -> str:
    return str(_macros().section(text))


def small(lines: Sequence[str]) -> str:
    return str(_macros().small(lines))


def cards(items: Sequence[Card]) -> str:
    """The headlines side by side, as many in a row as there is room for."""
    return f'<div class="lp">{_macros().cards(items, 2)}</div>'


def picture(source: str, says: str) -> str:
    """An image, which says in words what is seen."""
    return str(_macros().picture(source, says))


def plain_name(text: str) -> str:
    """A file name out of any text."""
    return re.sub(r"[^\w.-]+", "-", text)[:80].strip(".-") or "model"
