"""Blocks to text: plain, Markdown, CSV, and styled for a terminal. Pure: strings in, strings out,
all of them printable."""

import io
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lora_profiler._common.printable import printable
from lora_profiler.report.blocks import Block, Paragraph, Row, Table

Style = Callable[[str, str], str]
"""(text, what it is: 'heading' | 'section' | 'total' | 'peak' | 'columns') -> the text, perhaps
with colour codes."""


def no_style(text: str, kind: str) -> str:
    return text


def plain(blocks: Sequence[Block], width: int = 100, style: Style = no_style) -> str:
    """Text for a terminal or a pipe. Paragraphs wrap at `width`; tables keep their columns, however
    wide."""
    parts = [
        _plain_table(b, style) if isinstance(b, Table) else _plain_paragraph(b, width, style)
        for b in blocks
    ]
    return "\n\n".join(parts) + "\n"


def _plain_paragraph(block: Paragraph, width: int, style: Style) -> str:
    lines: list[str] = []
    for line in map(printable, block.lines):
        indent = " " * (len(line) - len(line.lstrip()))
        lines += textwrap.wrap(
            line,
            width,
            subsequent_indent=indent + "  ",
            break_long_words=False,
            break_on_hyphens=False,
        ) or [""]
    text = "\n".join(lines)
    return style(text, "heading") if block.heading else text


def _plain_table(table: Table, style: Style) -> str:
    count = len(table.columns)
    texts = [(row, _padded(row, count)) for row in table.rows]
    wide = [cells for row, cells in texts if row.kind != "section" or len(row.cells) > 1]
    widths = [max(map(len, column)) for column in zip(table.columns, *wide, strict=True)]
    lines = [style(printable(table.title), "heading")] if table.title else []
    if any(table.columns):
        lines.append(style(_line(list(table.columns), widths, table.left), "columns"))
    for number, (row, cells) in enumerate(texts):
        if row.kind == "section" and number:
            lines.append("")
        lines.append(style(_line(cells, widths, table.left), row.kind))
    return "\n".join(lines)


def _padded(row: Row, count: int) -> list[str]:
    cells = [*map(printable, row.cells)] + [""] * (count - len(row.cells))
    cells[0] = "  " * row.indent + cells[0]
    return cells


def _line(cells: list[str], widths: list[int], left: int) -> str:
    return "  ".join(
        c.ljust(w) if i < left else c.rjust(w)
        for i, (c, w) in enumerate(zip(cells, widths, strict=True))
    ).rstrip()


def markdown(blocks: Sequence[Block]) -> str:
    """GitHub's Markdown: headings, paragraphs, pipe tables."""
    texts = (_markdown_table(b) if isinstance(b, Table) else _markdown_paragraph(b) for b in blocks)
    return "\n\n".join(texts) + "\n"


def _markdown_paragraph(block: Paragraph) -> str:
    if block.heading:
        return "## " + " ".join(map(printable, block.lines))
    return "  \n".join(printable(line).strip() for line in block.lines)


def _markdown_table(table: Table) -> str:
    rule = ["---" if i < table.left else "---:" for i in range(len(table.columns))]
    lines = [f"### {printable(table.title)}\n"] if table.title else []
    lines += [_markdown_row(table.columns), _markdown_row(rule)]
    for row in table.rows:
        cells = [printable(c).replace("|", "\\|") for c in row.cells]
        cells += [""] * (len(table.columns) - len(row.cells))
        cells[0] = "&emsp;" * row.indent + cells[0]
        if row.kind != "plain":
            cells = [f"**{c}**" if c else c for c in cells]
        lines.append(_markdown_row(cells))
    return "\n".join(lines)


def _markdown_row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def csv_text(records: Sequence[dict[str, Any]]) -> str:
    """CSV with a header line, as RFC 4180 has it but with plain newlines; None is an empty field,
    and every text is printable."""
    import csv

    if not records:
        return ""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    for record in records:
        values = record.items()
        writer.writerow({k: printable(v) if isinstance(v, str) else v for k, v in values})
    return out.getvalue()


_STYLES = {"plain": "", "section": "bold", "total": "bold", "peak": "bold cyan"}


def show(blocks: Sequence[Block]) -> None:
    """Prints to stdout. NO_COLOR and the terminal's own abilities are rich's to honour."""
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=False)
    for number, block in enumerate(blocks):
        if number:
            console.print()
        if isinstance(block, Paragraph):
            for line in map(printable, block.lines):
                console.print(Text(line, style="bold" if block.heading else ""))
        else:
            if block.title:
                console.print(Text(printable(block.title), style="bold"))
            console.print(_table(block))


def _table(block: Table) -> object:
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(
        box=None,
        padding=(0, 2, 0, 0),
        pad_edge=False,
        header_style="dim",
        show_header=any(block.columns),
    )
    for index, label in enumerate(block.columns):
        is_name = index < block.left
        table.add_column(
            Text(label),
            justify="left" if is_name else "right",
            no_wrap=not is_name,
            overflow="fold" if is_name else "ellipsis",
        )
    for number, row in enumerate(block.rows):
        if row.kind == "section" and number:
            table.add_row()
        first, *rest = map(printable, row.cells)
        cells = ["  " * row.indent + first, *rest]
        table.add_row(*(Text(cell) for cell in cells), style=_STYLES[row.kind])
    return table
