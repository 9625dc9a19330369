"""What a report is made of before any face draws it: paragraphs, and tables whose cells are text
already."""

import textwrap
from dataclasses import dataclass, replace
from typing import Literal

RowKind = Literal["plain", "section", "total", "peak"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Cells from left to right; a row may be shorter than the table. `indent` shifts the first
    cell's text."""

    cells: tuple[str, ...]
    kind: RowKind = "plain"
    indent: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows under column labels. The first `left` columns hold names (left aligned), the others
    numbers (right aligned)."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    title: str = ""
    left: int = 1


def filled(table: Table) -> Table:
    """The table, whose rows are all as long, without the columns that none of them fills."""
    used = [n for n in range(len(table.columns)) if any(row.cells[n] for row in table.rows)]
    return replace(
        table,
        columns=tuple(table.columns[n] for n in used),
        rows=tuple(replace(row, cells=tuple(row.cells[n] for n in used)) for row in table.rows),
        left=sum(n < table.left for n in used),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Paragraph:
    """One piece of running text. `heading` ones name what follows; `lines` are kept apart and never
    joined."""

    lines: tuple[str, ...]
    heading: bool = False


Block = Table | Paragraph


def heading(text: str) -> Paragraph:
    return Paragraph(lines=(text,), heading=True)


def paragraph(*lines: str) -> Paragraph:
    return Paragraph(lines=lines)


def wrapped(*texts: str, width: int) -> Paragraph:
    """Each text in lines of at most `width` columns; those that go on are indented."""
    lines = [
        line
        for text in texts
        for line in textwrap.wrap(
            text,
            width,
            subsequent_indent=" " * (len(text) - len(text.lstrip()) + 2),
            break_long_words=False,
            break_on_hyphens=False,
        )
    ]
    return paragraph(*lines)
