"""Text, tables and cards as HTML. All of it is escaped: no name, path or message is markup,
whatever it contains."""

import re
from collections.abc import Iterable, Sequence
from html import escape as html_escape

from lora_profiler._printable import printable
from lora_profiler.dashboard.headline import Headline
from lora_profiler.report.blocks import Block, Paragraph, Row, Table


def escape(text: str, *, quote: bool = True) -> str:
    """`text` as HTML shows it, word for word: no markup, nothing that hides or turns it."""
    return html_escape(printable(text), quote=quote)


def html_of(blocks: Iterable[Block]) -> str:
    """Paragraphs, and tables that scroll in themselves where the window is narrow."""
    return "".join(_table(b) if isinstance(b, Table) else _paragraph(b) for b in blocks)


def _paragraph(block: Paragraph) -> str:
    if block.heading:
        return section(" ".join(block.lines))
    return f'<div class="lp">{paragraphs(block.lines)}</div>'


def paragraphs(lines: Sequence[str]) -> str:
    return "".join(f"<p>{escape(line)}</p>" for line in lines)


def _table(table: Table) -> str:
    caption = f"<caption>{escape(table.title)}</caption>" if table.title else ""
    head = ""
    if any(table.columns):
        cells = (
            _head_cell(text, left=place < table.left) for place, text in enumerate(table.columns)
        )
        head = f"<thead><tr>{''.join(cells)}</tr></thead>"
    body = "".join(_row(row, table) for row in table.rows)
    label = escape(
        table.title
        or f"table of {', '.join(filter(None, table.columns)) or table.rows[0].cells[0]}"
    )
    inner = f'<table class="lp-table">{caption}{head}<tbody>{body}</tbody></table>'
    return (
        f'<div class="lp lp-scroll" role="region" aria-label="{label}" tabindex="0">{inner}</div>'
    )


def _head_cell(text: str, *, left: bool) -> str:
    style = ' class="lp-left"' if left else ""
    return f'<th scope="col"{style}>{escape(text)}</th>' if text else f"<td{style}></td>"


def _row(row: Row, table: Table) -> str:
    if row.kind == "section" and len(row.cells) == 1:
        wide = f'<th scope="rowgroup" colspan="{len(table.columns)}" class="lp-left">'
        return f'<tr class="lp-section">{wide}{escape(row.cells[0])}</th></tr>'
    cells = [*row.cells, *[""] * (len(table.columns) - len(row.cells))]
    first = f'<th scope="row" class="lp-indent-{row.indent}">{escape(cells[0])}</th>'
    rest = (
        f"<td{' class=lp-left' if place < table.left else ''}>{escape(text)}</td>"
        for place, text in enumerate(cells[1:], 1)
    )
    kind = "" if row.kind == "plain" else f' class="lp-{row.kind}"'
    return f"<tr{kind}>{first}{''.join(rest)}</tr>"


def note(kind: str, lines: Sequence[str], title: str = "") -> str:
    """A box beside the text: kind is problem, caution or note; screen readers are told of a problem
    at once."""
    role = "alert" if kind == "problem" else "status"
    strong = f"<p><strong>{escape(title)}</strong></p>" if title else ""
    return f'<div class="lp lp-note lp-{kind}" role="{role}">{strong}{paragraphs(lines)}</div>'


def title(text: str, lines: Sequence[str] = ()) -> str:
    """The head of a page and what stands under it."""
    return (
        f'<div class="lp"><h1>{escape(text)}</h1><div'
        f' class="lp-quiet">{paragraphs(lines)}</div></div>'
    )


def section(text: str) -> str:
    return f'<div class="lp"><h2>{escape(text)}</h2></div>'


def small(lines: Sequence[str]) -> str:
    return f'<div class="lp lp-small lp-quiet">{paragraphs(lines)}</div>'


def cards(found: Sequence[Headline]) -> str:
    """The headlines side by side, as many in a row as there is room for."""
    return f'<div class="lp lp-cards">{"".join(map(_card, found))}</div>'


def _card(found: Headline) -> str:
    filled = [
        place
        for place in range(1, max(map(len, found.rows)))
        if any(row[place] for row in found.rows)
    ]
    head = ""
    if found.columns:
        cells = (
            (
                f'<th scope="col">{escape(found.columns[place])}</th>'
                if found.columns[place]
                else "<td></td>"
            )
            for place in filled
        )
        head = f"<thead><tr><td></td>{''.join(cells)}</tr></thead>"
    rows = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(
            f'<td class="{"lp-value" if place == 1 else "lp-beside"}">{escape(row[place])}</td>'
            for place in filled
        )
        + "</tr>"
        for row in found.rows
    )
    table = f'<table style="--lp-columns: {len(filled)}">{head}<tbody>{rows}</tbody></table>'
    wide = " lp-wide" if found.columns else ""
    return (
        f'<section class="lp-card{wide}"><h2>{escape(found.label)}</h2>{table}'
        f"<p>{escape(found.note)}</p></section>"
    )


def plain_name(text: str) -> str:
    """A file name out of any text."""
    return re.sub(r"[^\w.-]+", "-", text)[:80].strip(".-") or "model"
