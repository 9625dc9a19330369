"""Blocks as Markdown, records as CSV. Pure: strings in, strings out, all of them printable."""

import io
from collections.abc import Iterable, Sequence
from typing import Any

from lora_profiler._common.messages import printable
from lora_profiler.report.blocks import Bars, Block, Paragraph, Table, VerdictLine, parts_table
from lora_profiler.report.terminal import SIGNS


def markdown(blocks: Sequence[Block]) -> str:
    """GitHub's Markdown: headings, paragraphs, pipe tables."""
    return "\n\n".join(map(_markdown_block, blocks)) + "\n"


def _markdown_block(block: Block) -> str:
    if isinstance(block, VerdictLine):
        words = f"{SIGNS[block.sign]} {printable(block.words)}".strip()
        return f"**{words}**{printable(block.rest)}"
    if isinstance(block, Bars):
        return _markdown_table(parts_table(block))
    return _markdown_table(block) if isinstance(block, Table) else _markdown_paragraph(block)


def _markdown_paragraph(block: Paragraph) -> str:
    if block.kind == "heading":
        return "## " + " ".join(map(printable, block.lines))
    sign = "→ " if block.kind == "advice" else ""
    return "  \n".join(f"{sign}{printable(line).strip()}" for line in block.lines)


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
