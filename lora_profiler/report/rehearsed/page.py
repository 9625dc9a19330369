"""The answer of a rehearsal as one HTML page, which loads nothing and runs nothing."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape

from lora_profiler._common.printable import printable
from lora_profiler._common.versions import __version__
from lora_profiler.report import palette
from lora_profiler.report.blocks import Block, Paragraph, Table
from lora_profiler.units import bytes_text

_STYLE = """
:root{--paper:%s;--ink:%s;--faint:%s;--line:%s;--bar:%s}
@media (prefers-color-scheme:dark){:root{--paper:%s;--ink:%s;--faint:%s;--line:%s;--bar:%s}}
body{max-width:64rem;margin:2rem auto;padding:0 1rem;background:var(--paper);
color:var(--ink);font-family:%s;line-height:1.5}
h1{font-size:1.4rem}h2{font-size:1.1rem}table{border-collapse:collapse;margin:1rem 0;display:block;
overflow-x:auto}th,td{padding:.2rem .8rem .2rem 0;border-bottom:1px solid var(--line);
text-align:left}
.number{text-align:right;font-variant-numeric:tabular-nums}.total td,.peak td{font-weight:bold}
.bar{height:.8rem;background:var(--bar)}.bars td{border:0;padding-bottom:0}small{color:var(--faint)}
"""


def rehearsal_page(
    blocks: Sequence[Block], categories: Mapping[str, int], command: Sequence[str]
) -> str:
    """`categories`: requested bytes by what holds them at the peak, drawn as bars."""
    first, *rest = blocks
    title = " ".join(first.lines) if isinstance(first, Paragraph) else "Rehearsal"
    body = "\n".join(
        [
            f"<h1>{_text(title)}</h1>",
            f"<p><code>{_text(' '.join(command))}</code></p>",
            *_bars(categories),
            *(_block(block) for block in rest),
            f"<small>Rehearsed, not measured: lora-profiler {__version__}.</small>",
        ]
    )
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "style-src 'unsafe-inline'\">\n"
        f"<title>{_text(title)}</title>\n<style>{_style()}</style>\n{body}\n</html>\n"
    )


def _style() -> str:
    colours = (palette.PAPER, palette.INK, palette.FAINT_INK, palette.LINE, palette.ACCENT)
    light, dark = (colour.light for colour in colours), (colour.dark for colour in colours)
    return _STYLE % (*light, *dark, palette.FONT)


def _text(text: str) -> str:
    return escape(printable(text))


def _bars(categories: Mapping[str, int]) -> Iterator[str]:
    largest = max(categories.values(), default=0)
    if not largest:
        return
    yield '<table class="bars">'
    for name, count in categories.items():
        width = f"{30 * count / largest:.1f}rem"
        yield (
            f'<tr><td>{_text(name)}</td><td class="number">{bytes_text(count)}</td>'
            f'<td><div class="bar" style="width:{width}"></div></td></tr>'
        )
    yield "</table>"


def _block(block: Block) -> str:
    if isinstance(block, Table):
        return _table(block)
    if block.heading:
        return f"<h2>{_text(' '.join(block.lines))}</h2>"
    return "<p>" + "<br>\n".join(_text(line) for line in block.lines) + "</p>"


def _table(table: Table) -> str:
    def cells(texts: Sequence[str], tag: str) -> str:
        number = f'<{tag} class="number">'
        return "".join(
            f"{f'<{tag}>' if i < table.left else number}{_text(text)}</{tag}>"
            for i, text in enumerate(texts)
        )

    title = f"<h2>{_text(table.title)}</h2>\n" if table.title else ""
    heads = f"<tr>{cells(table.columns, 'th')}</tr>\n" if any(table.columns) else ""
    rows = "\n".join(f'<tr class="{row.kind}">{cells(row.cells, "td")}</tr>' for row in table.rows)
    return f"{title}<table>\n{heads}{rows}\n</table>"
