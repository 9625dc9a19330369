"""Blocks as Markdown, records as CSV, and the page of a rehearsal. Pure: strings in, strings out,
all of them printable."""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any

from lora_profiler._common.packages import __version__
from lora_profiler._common.printable import printable
from lora_profiler.report.blocks import Bars, Block, Paragraph, Table, Verdict, parts_table
from lora_profiler.report.terminal import SIGNS
from lora_profiler.units import bytes_text


def markdown(blocks: Sequence[Block]) -> str:
    """GitHub's Markdown: headings, paragraphs, pipe tables."""
    return "\n\n".join(map(_markdown_block, blocks)) + "\n"


def _markdown_block(block: Block) -> str:
    if isinstance(block, Verdict):
        return f"**{_signed(block)}**{printable(block.rest)}"
    if isinstance(block, Bars):
        return _markdown_table(parts_table(block))
    return _markdown_table(block) if isinstance(block, Table) else _markdown_paragraph(block)


def _signed(block: Verdict) -> str:
    return f"{SIGNS[block.sign]} {printable(block.words)}".strip()


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
    if isinstance(block, Verdict):
        return f"<p><b>{_html_text(_signed(block))}</b>{_html_text(block.rest)}</p>"
    if isinstance(block, Table | Bars):
        return _html_table(block if isinstance(block, Table) else parts_table(block))
    if block.kind == "heading":
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
