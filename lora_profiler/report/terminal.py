"""Blocks drawn by rich on a terminal: columns that fold to its width, and colour where it is
wanted."""

from collections.abc import Sequence

from lora_profiler._common.printable import printable
from lora_profiler.report.blocks import Block, Paragraph, Table

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
