"""Blocks to text: plain, Markdown, CSV, styled for a terminal, and the page of a rehearsal. Pure:
strings in, strings out, all of them printable."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any, Literal

from lora_profiler._common.packages import __version__
from lora_profiler._common.printable import printable
from lora_profiler.report.blocks import (
    Block,
    Paragraph,
    Row,
    Table,
    narrowed,
    without_columns,
    wrapped,
)
from lora_profiler.units import bytes_text

if TYPE_CHECKING:
    from rich.console import Console


def plain(blocks: Sequence[Block], width: int = 100) -> str:
    """Text for a terminal or a pipe; paragraphs wrap at `width`, tables never do."""
    parts = (
        _plain_table(block)
        if isinstance(block, Table)
        else "\n".join(wrapped(*map(printable, block.lines), width=width).lines)
        for block in blocks
    )
    return "\n\n".join(parts) + "\n"


def _plain_table(table: Table) -> str:
    count = len(table.columns)
    texts = [(row, _padded(row, count)) for row in table.rows]
    wide = [cells for row, cells in texts if row.kind != "section" or len(row.cells) > 1]
    widths = [max(map(len, column)) for column in zip(table.columns, *wide, strict=True)]
    lines = [printable(table.title)] if table.title else []
    if any(table.columns):
        lines.append(_line(list(table.columns), widths, table.left))
    for number, (row, cells) in enumerate(texts):
        if row.kind == "section" and number:
            lines.append("")
        lines.append(_line(cells, widths, table.left))
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
    """CSV as of RFC 4180 with a header and plain newlines; None is empty, texts are printable."""
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


def show(blocks: Sequence[Block], console: "Console | None" = None) -> None:
    """Prints to stdout, or on `console`. NO_COLOR and the terminal's own abilities are rich's to
    honour."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console(highlight=False, markup=False, emoji=False, soft_wrap=False)
    for number, block in enumerate(blocks):
        if number:
            console.print()
        if isinstance(block, Paragraph):
            for line in map(printable, narrowed(block, console.width).lines):
                console.print(Text(line, style="bold" if block.heading else ""))
        else:
            if block.title:
                console.print(Text(printable(block.title), style="bold"))
            _show_table(block, console)


_GAP = 2
"""Spaces between two columns."""


def _show_table(table: Table, console: "Console") -> None:
    """As wide as the console at most, no word or number broken: headings and text wrap at spaces;
    then columns that can be spared are left out, and named; at last each row is a paragraph."""
    from rich.text import Text

    shown, dropped = table, list[str]()
    while (widths := _widths(shown, console.width)) is None and len(dropped) < len(table.spare):
        dropped.append(table.spare[len(dropped)])
        shown = without_columns(table, dropped)
    if widths is not None:
        console.print(_table(shown, widths))
        if dropped:
            words = f"A wider terminal also shows: {'; '.join(dropped)}."
            for line in wrapped(words, width=console.width).lines:
                console.print(Text(line, style="dim"))
        return
    for row in table.rows:
        lines = _row_lines(table, row, console.width)
        for number, line in enumerate(lines):
            style = _STYLES[row.kind] or ("" if number else "bold")
            console.print(Text(line, style=style), soft_wrap=True)


def _row_lines(table: Table, row: Row, width: int) -> Sequence[str]:
    """'LoRA r16' and beneath it its other cells with their headings."""
    first, *rest = map(printable, row.cells)
    pairs = zip(table.columns[1:], rest, strict=False)
    cells = [" ".join(filter(None, (label, cell))) for label, cell in pairs if cell]
    texts = ["  " * row.indent + first] + (["  " + "; ".join(cells)] if cells else [])
    return wrapped(*texts, width=width).lines


def _widths(table: Table, width: int) -> list[int] | None:
    """Of each column, all together at most `width`; None where words or numbers would break."""
    rows = [_padded(row, len(table.columns)) for row in table.rows]
    columns = list(zip(table.columns, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    least = [
        max(_least(cell, wraps=i < table.left or number == 0) for number, cell in enumerate(column))
        for i, column in enumerate(columns)
    ]
    room = width - _GAP * (len(columns) - 1)
    if sum(least) > room:
        return None
    for _ in range(sum(widths) - room):
        widest = max((w, i) for i, w in enumerate(widths) if w > least[i])[1]
        widths[widest] -= 1
    return widths


def _least(cell: str, *, wraps: bool) -> int:
    """Columns that a cell needs; of one that wraps the longest word, behind its indent."""
    indent = len(cell) - len(cell.lstrip())
    return indent + max(map(len, cell.split()), default=0) if wraps else len(cell)


def _table(block: Table, widths: Sequence[int]) -> object:
    from rich.table import Table as RichTable
    from rich.text import Text

    table = RichTable(
        box=None,
        padding=(0, _GAP, 0, 0),
        pad_edge=False,
        header_style="dim",
        show_header=any(block.columns),
    )
    for index, (label, width) in enumerate(zip(block.columns, widths, strict=True)):
        side: Literal["left", "right"] = "left" if index < block.left else "right"
        table.add_column(Text(label), justify=side, width=width)
    for number, row in enumerate(block.rows):
        if row.kind == "section" and number:
            table.add_row()
        first, *rest = map(printable, row.cells)
        cells = ["  " * row.indent + first, *rest]
        table.add_row(*(Text(cell) for cell in cells), style=_STYLES[row.kind])
    return table


# --- the page of a rehearsal, which loads nothing and runs nothing --------------------------------

_PAGE_STYLE = """
:root{--paper:%s;--ink:%s;--faint:%s;--line:%s;--bar:%s}
@media (prefers-color-scheme:dark){:root{--paper:%s;--ink:%s;--faint:%s;--line:%s;--bar:%s}}
body{max-width:64rem;margin:2rem auto;padding:0 1rem;background:var(--paper);
color:var(--ink);font-family:%s;line-height:1.5}
h1{font-size:1.4rem}h2{font-size:1.1rem}table{border-collapse:collapse;margin:1rem 0;display:block;
overflow-x:auto}th,td{padding:.2rem .8rem .2rem 0;border-bottom:1px solid var(--line);
text-align:left}
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.total td,.peak td{font-weight:bold}
.bar{height:.8rem;background:var(--bar)}.bars{display:table;width:100%%}
.bars td{border:0;padding-bottom:0}.bars td:last-child{width:60%%}
code{overflow-wrap:anywhere}small{color:var(--faint)}
"""


def rehearsal_page(
    blocks: Sequence[Block], categories: Mapping[str, int], command: Sequence[str]
) -> str:
    """`categories`: requested bytes by what holds them at the peak, drawn as bars."""
    from lora_profiler.report import palette  # which no table needs

    colours = (palette.PAPER, palette.INK, palette.FAINT_INK, palette.LINE, palette.ACCENT)
    light, dark = (colour.light for colour in colours), (colour.dark for colour in colours)
    style = _PAGE_STYLE % (*light, *dark, palette.FONT)
    first, *rest = blocks
    title = " ".join(first.lines) if isinstance(first, Paragraph) else "Rehearsal"
    body = "\n".join(
        [
            f"<main>\n<h1>{_html_text(title)}</h1>",
            f"<p><code>{_html_text(' '.join(command))}</code></p>",
            *_html_bars(categories),
            *(_html_block(block) for block in rest),
            f"<small>Rehearsed, not measured: lora-profiler {__version__}.</small>\n</main>",
        ]
    )
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{_html_text(title)}</title>\n<style>{style}</style>\n{body}\n</html>\n"
    )


def _html_text(text: str) -> str:
    return escape(printable(text))


def _html_bars(categories: Mapping[str, int]) -> Iterator[str]:
    largest = max(categories.values(), default=0)
    if not largest:
        return
    yield '<h2>What holds the requested peak</h2>\n<table class="bars">'
    for name, count in categories.items():
        width = f"{100 * count / largest:.1f}%"
        yield (
            f'<tr><td>{_html_text(name)}</td><td class="number">{bytes_text(count)}</td>'
            f'<td><div class="bar" style="width:{width}"></div></td></tr>'
        )
    yield "</table>"


def _html_block(block: Block) -> str:
    if isinstance(block, Table):
        return _html_table(block)
    if block.heading:
        return f"<h2>{_html_text(' '.join(block.lines))}</h2>"
    return "<p>" + "<br>\n".join(_html_text(line) for line in block.lines) + "</p>"


def _html_table(table: Table) -> str:
    def cells(texts: Sequence[str], tag: str) -> str:
        number = f'<{tag} class="number">'
        return "".join(
            f"{f'<{tag}>' if i < table.left else number}{_html_text(text)}</{tag}>"
            for i, text in enumerate(texts)
        )

    title = f"<h2>{_html_text(table.title)}</h2>\n" if table.title else ""
    heads = f"<tr>{cells(table.columns, 'th')}</tr>\n" if any(table.columns) else ""
    rows = "\n".join(f'<tr class="{row.kind}">{cells(row.cells, "td")}</tr>' for row in table.rows)
    return f'{title}<table tabindex="0">\n{heads}{rows}\n</table>'
