"""Blocks as lines of styled text, for a terminal, a pipe and a file: one layout for all of them.
Only a terminal in colour draws bars as blocks, elsewhere each part has its letter; only a terminal
loads rich."""

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Final

from lora_profiler._common.messages import printable
from lora_profiler.report.blocks import (
    Bar,
    Bars,
    Block,
    Paragraph,
    Row,
    Sign,
    Table,
    VerdictLine,
    broken,
    narrowed,
    without_columns,
    wrapped,
)
from lora_profiler.units import short_in_unit

if TYPE_CHECKING:
    from rich.console import Console

Span = tuple[str, str]
"""Text and the name of its style, '' for none."""
Line = list[Span]

SIGNS: Final[dict[Sign, str]] = {"fits": "✓", "tight": "!", "does_not_fit": "✗", "": ""}
_PART_COLOURS: Final = {
    "weights": "#4488e0",
    "gradients": "#a558b4",
    "optimizer": "#2f9e6e",
    "activations": "#c98a0c",
    "logits": "#cf4a55",
    "temporary": "#848c98",
    "rest": "#d1661a",
    "overhead": "#848c98",
}
"""Of each part of a bar one tone that holds on white and on black, 2.9 to 1 at least."""
_COLOURS_OF_16: Final = ("blue", "magenta", "green", "yellow", "red", "white", "cyan", "white")
"""The same where a terminal has sixteen: by distance alone two parts would be grey."""
LETTERS: Final = dict(zip(_PART_COLOURS, "wgoaltr.", strict=True))
_STYLES: Final = {
    "fits": "bold #12917a",
    "tight": "bold #b87800",
    "does_not_fit": "bold #dd4a4f",
    "bold": "bold",
    "dim": "dim",
}
_ASCII: Final = str.maketrans("✓✗→┃│▼»×−░▇■…", "+x>||v>x-.##.")
_MOST_COLUMNS: Final = 100
"""Of bars and running text; tables take what the terminal has."""
_GAP: Final = 2
"""Spaces between two columns."""


def plain(blocks: Sequence[Block], width: int = _MOST_COLUMNS) -> str:
    """Text for a pipe or a file; paragraphs wrap at `width`, tables never do."""
    return "".join(f"{_text(line)}\n" for line in _layout(blocks, width, None, in_colour=False))


def ascii_text(text: str) -> str:
    """For an encoding that has none of our signs."""
    return text.translate(_ASCII)


def show(blocks: Sequence[Block], console: "Console | None" = None) -> None:
    """Prints to stdout, or on `console`, nothing wider than it and no word or number broken.
    NO_COLOR and the terminal's own abilities are rich's to honour."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console(highlight=False, markup=False, emoji=False)
    in_colour = console.color_system is not None and not console.no_color
    styles = _STYLES | _PART_COLOURS
    if console.color_system == "standard":
        styles |= dict(zip(_PART_COLOURS, _COLOURS_OF_16, strict=True))
    speaks_unicode = "utf" in (console.encoding or "").lower()
    for line in _layout(blocks, console.width, console.width, in_colour=in_colour):
        spans = line if speaks_unicode else [(ascii_text(text), style) for text, style in line]
        text = Text.assemble(*((text, styles.get(style, style)) for text, style in spans))
        text.rstrip()
        console.print(text, soft_wrap=True)


def _layout(
    blocks: Sequence[Block], width: int, table_width: int | None, *, in_colour: bool
) -> Iterator[Line]:
    """All lines, an empty one between two blocks that do not belong together."""
    before: Block | None = None
    for block in blocks:
        if before is not None and not _follows(before, block):
            yield []
        if isinstance(block, VerdictLine):
            yield from _verdict(block, width)
        elif isinstance(block, Bars):
            yield from _bars(block, min(width, _MOST_COLUMNS), in_colour=in_colour)
        elif isinstance(block, Table):
            yield from _table(block, table_width)
        else:
            yield from _paragraph(block, width)
        before = block


def _follows(before: Block, block: Block) -> bool:
    """Whether a block stands right below the one before: advice, words and a second verdict below a
    verdict, advice below advice."""

    def is_one(it: Block, *kinds: str) -> bool:
        return isinstance(it, VerdictLine) or (isinstance(it, Paragraph) and it.kind in kinds)

    return is_one(before, "advice") and is_one(block, "advice", "text")


def _text(line: Line) -> str:
    return "".join(text for text, _ in line).rstrip()


def _styled(lines: Sequence[str], style: str = "") -> Iterator[Line]:
    """Running text in one style, words between backticks in bold, which may pair over lines; a lone
    one is shown."""
    pairs = sum(line.count("`") for line in lines) // 2 * 2
    is_bold = False
    for line in lines:
        spans: Line = []
        for number, piece in enumerate(line.split("`")):
            if number and pairs:
                is_bold, pairs = not is_bold, pairs - 1
            elif number:
                spans.append(("`", style))
            spans.append((piece, "bold" if is_bold else style))
        yield [span for span in spans if span[0]]


def _paragraph(block: Paragraph, width: int) -> Iterator[Line]:
    if block.kind == "advice":
        for text in map(printable, block.lines):
            lines = wrapped(text, width=width - 2).lines
            first, *others = _styled([line.strip() for line in lines])
            yield [("→ ", "bold"), *first]
            yield from ([("  ", ""), *line] for line in others)
        return
    style = {"heading": "bold", "dim": "dim"}.get(block.kind, "")
    yield from _styled([*map(printable, narrowed(block, width).lines)], style)


def _verdict(block: VerdictLine, width: int) -> Iterator[Line]:
    sign = f"{SIGNS[block.sign]} " if block.sign else ""
    style = block.sign or "bold"
    words = printable(block.words)
    lines = wrapped(f"{sign}{words}{printable(block.rest)}", width=width).lines
    loud = len(sign) + len(words)
    for line in lines:
        yield [(line[:loud], style), (line[loud:], "")] if loud > 0 else [(line, "")]
        loud -= len(line) + 1 - 2  # the space that became a break, less the indent of what follows


# --- bars -----------------------------------------------------------------------------------------


def _bars(block: Bars, width: int, *, in_colour: bool) -> Iterator[Line]:
    """A ruler with the limits, then each bar with its numbers, and its parts below it."""
    rows, limits = block.rows, block.limits
    unit, size = block.unit
    names = max(len(row.name) for row in rows) + _GAP
    left = names + max((len(row.detail) + _GAP for row in rows if row.detail), default=0)
    with_overhead = any(row.overhead_bytes is not None for row in rows)
    heads = [f"{unit} + overhead" if with_overhead else f"{unit} at peak"]
    if any(row.speed for row in rows):
        heads.append(block.speed_title)
    right = sum(len(head) + _GAP for head in heads) + (3 if any(row.sign for row in rows) else 0)
    columns = max(width - left - right, 8)
    ticks = [round(limit / block.scale_bytes * columns) for limit, _ in limits]
    head = _ruler([label for _, label in limits], ticks, left, columns)
    yield [(head, "bold" if len(limits) == 1 else "dim"), *((f"  {text}", "dim") for text in heads)]
    for row in rows:
        line: Line = [(f"{printable(row.name):<{names}}", "")]
        line.append((f"{row.detail:<{left - names}}", "dim"))
        line += _cells(block, row, ticks, columns, in_colour=in_colour)
        line += _numbers(row, size, heads)
        if row.sign:
            line.append((f"  {SIGNS[row.sign]}", row.sign))
        yield line
        if block.has_sizes:
            yield from _sizes(block, row, names, width, in_colour=in_colour)
    if not block.has_sizes:
        drawn = [name for name in _PART_COLOURS if any(name in row.parts for row in rows)]
        drawn += ["overhead"] if with_overhead else []
        line = []
        for name in drawn:
            if len(_text(line)) + len(name) + 2 > width:
                yield line
                line = []
            line += [_key(name, in_colour), (f"{name}   ", "dim")]
        yield line


def _ruler(labels: Sequence[str], ticks: Sequence[int], left: int, columns: int) -> str:
    text = ""
    for label, tick in zip(labels, ticks, strict=True):
        start = left + tick - len(label) - 1
        if start > len(text) or not text:
            text = f"{text:<{max(start, 0)}}{label} ▼"
    return f"{text:<{left + columns}}"


def _numbers(row: Bar, size: int, heads: Sequence[str]) -> Line:
    peak, overhead = short_in_unit(row.peak_bytes, size), row.overhead_bytes
    rest = f" + {short_in_unit(overhead, size):>4}" if overhead is not None else ""
    blank = " " * (len(heads[0]) - len(peak) - len(rest))
    line: Line = [(f"  {blank}{peak}", "bold"), (rest, "dim")]
    return line + [(f"  {row.speed:>{len(head)}}", "") for head in heads[1:]]


def _cells(
    block: Bars, row: Bar, ticks: Sequence[int], columns: int, *, in_colour: bool
) -> Iterator[Span]:
    """A part for each column, a tick where a limit is, `»` where the bar goes on."""
    scale, is_cut = block.scale_bytes, block.is_cut(row)
    for column in range(columns):
        part = _part_at(row, (column + 0.5) * scale / columns)
        over_by_a_hair = column - 1 in ticks[:1] and row.total_bytes * columns > ticks[0] * scale
        if part is None and over_by_a_hair and len(ticks) == 1:
            part = "overhead"  # what crosses the limit is seen to cross it
        if column in ticks:
            yield ("┃", "bold") if len(ticks) == 1 else ("│", "dim")
        elif is_cut and column == columns - 1:
            yield ("»", "bold")
        elif part is None:
            yield (" ", "")
        elif in_colour:
            yield ("░" if part == "overhead" else "▇", part)
        else:
            yield (LETTERS[part], "")


def _part_at(row: Bar, place: float) -> str | None:
    """The part that holds this byte of the bar; None behind its end."""
    for name, size in (*row.parts.items(), ("overhead", row.overhead_bytes or 0)):
        if place < size:
            return name
        place -= size
    return None


def _key(name: str, in_colour: bool) -> Span:
    if in_colour:
        return ("░ " if name == "overhead" else "■ ", name)
    return (f"{LETTERS[name]} ", "dim")


def _sizes(block: Bars, row: Bar, indent: int, width: int, *, in_colour: bool) -> Iterator[Line]:
    """Each part with its size, but for those too small to see."""
    line: Line = [(" " * indent, "")]
    for name, count in block.seen_parts(row).items():
        text = f"{name} {block.text(count)}  "
        if len(_text(line)) + len(text) + 2 > width:
            yield line
            line = [(" " * indent, "")]
        line += [_key(name, in_colour), (text, "dim")]
    yield line


# --- tables ---------------------------------------------------------------------------------------


def _table(table: Table, width: int | None) -> Iterator[Line]:
    """As wide as `width` at most: headings and text wrap at spaces; then columns that can be spared
    are left out, and named; at last each row is a paragraph."""
    if table.title:
        yield [(printable(table.title), "bold")]
    shown, dropped = table, list[str]()
    while (widths := _widths(shown, width)) is None and len(dropped) < len(table.spare):
        dropped.append(table.spare[len(dropped)])
        shown = without_columns(table, dropped)
    if widths is None:
        assert width is not None
        for row in table.rows:
            lines = _row_lines(table, row, width)
            yield from ([(text, "" if number else "bold")] for number, text in enumerate(lines))
        return
    if any(shown.columns):
        yield from _row(list(shown.columns), widths, shown.left, "dim")
    for number, row in enumerate(shown.rows):
        if row.kind == "section" and number:
            yield []
        style = "" if row.kind == "plain" else "bold"
        yield from _row(_padded(row, len(shown.columns)), widths, shown.left, style)
    if dropped:
        words = f"A wider terminal also shows: {'; '.join(dropped)}."
        yield from ([(line, "dim")] for line in wrapped(words, width=width or 0).lines)


def _padded(row: Row, count: int) -> list[str]:
    cells = [*map(printable, row.cells)] + [""] * (count - len(row.cells))
    cells[0] = "  " * row.indent + cells[0]
    return cells


def _row(cells: Sequence[str], widths: Sequence[int], left: int, style: str) -> Iterator[Line]:
    """One row, in several lines where a cell is wrapped; a heading of a section runs over empty
    columns."""
    if style == "bold" and not any(cells[1:]):
        yield [(cells[0], style)]
        return
    pieces = [_pieces(cell, width) for cell, width in zip(cells, widths, strict=True)]
    for texts in zip_longest(*pieces, fillvalue=""):
        line: Line = []
        for number, (text, width) in enumerate(zip(texts, widths, strict=True)):
            blank = " " * (width - _length(text))
            spans = _cell(text, style)
            line += [*spans, (blank, "")] if number < left else [(blank, ""), *spans]
            line.append((" " * _GAP, ""))
        yield line


def _pieces(cell: str, width: int) -> list[str]:
    if _length(cell) <= width:
        return [cell]
    indent = " " * (len(cell) - len(cell.lstrip()))
    return broken(cell.replace("`", ""), width, subsequent_indent=indent)


def _cell(text: str, style: str) -> Line:
    verdict = next((name for name, sign in SIGNS.items() if sign and sign == text), "")
    return [(text, verdict)] if verdict else next(_styled([text], style))


def _length(text: str) -> int:
    """Columns of a cell, whose paired backticks are not shown."""
    ticks = text.count("`")
    return len(text) - (ticks if ticks % 2 == 0 else 0)


def _row_lines(table: Table, row: Row, width: int) -> Sequence[str]:
    """'LoRA r16' and beneath it its other cells with their headings."""
    first, *rest = map(printable, row.cells)
    pairs = zip(table.columns[1:], rest, strict=False)
    cells = [" ".join(filter(None, (label, cell))) for label, cell in pairs if cell]
    texts = ["  " * row.indent + first] + (["  " + "; ".join(cells)] if cells else [])
    return wrapped(*texts, width=width).lines


def _widths(table: Table, width: int | None) -> list[int] | None:
    """Of each column, all together at most `width`; None where words or numbers would break."""
    rows = [
        _padded(row, len(table.columns))
        for row in table.rows
        if row.kind != "section" or len(row.cells) > 1
    ]
    columns = list(zip(table.columns, *rows, strict=True))
    widths = [max(map(_length, column)) for column in columns]
    if width is None:
        return widths
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
    return indent + max(map(_length, cell.split()), default=0) if wraps else _length(cell)
