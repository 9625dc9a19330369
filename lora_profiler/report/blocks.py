"""What a report is made of before any face draws it: paragraphs, and tables whose cells are text
already."""

import textwrap
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeVar

from lora_profiler.memory.prediction import CATEGORIES, Category
from lora_profiler.report.labels import CATEGORY_SHORT
from lora_profiler.units import byte_unit, in_unit, short_in_unit

if TYPE_CHECKING:
    from lora_profiler.report.charts.plot import Figure

# --- paragraphs and tables ------------------------------------------------------------------------

R = TypeVar("R")
Held = Mapping[Category, int]
RowKind = Literal["plain", "section", "total", "peak"]


broken = partial(textwrap.wrap, break_long_words=False, break_on_hyphens=False)
"""Text in lines, broken at spaces alone."""


class Row(NamedTuple):
    """Cells from left to right; a row may be shorter than the table. `indent` shifts the first
    cell's text."""

    cells: tuple[str, ...]
    kind: RowKind = "plain"
    indent: int = 0


class Table(NamedTuple):
    """Rows under column labels; the first `left` columns are left aligned, the others right.
    `spare`: labels of columns that a terminal too narrow for all leaves out, the first one
    first."""

    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    title: str = ""
    left: int = 1
    spare: tuple[str, ...] = ()


def cell_table(
    columns: Iterable[str], rows: Iterable[Iterable[str]], *, title: str = "", left: int = 1
) -> Table:
    """A table of plain rows whose cells are at hand."""
    plain = tuple(Row(cells=tuple(cells)) for cells in rows)
    return Table(columns=tuple(columns), rows=plain, title=title, left=left)


class Rows:
    """Rows of a table as they are made; a section's bytes are in the unit of the largest."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.size = 1

    def section(self, title: str, sizes: Iterable[int] = ()) -> None:
        if known := list(sizes):
            unit, self.size = byte_unit(max(known))
            title = f"{title}, {unit}"
        self.rows.append(Row(cells=(title,), kind="section"))

    def add(self, *cells: str, kind: RowKind = "plain", indent: int = 1) -> None:
        self.rows.append(Row(cells=cells, kind=kind, indent=indent))

    def text(self, size: int) -> str:
        return in_unit(size, self.size)

    def table(self, *columns: str, title: str = "", left: int = 1) -> Table:
        return Table(columns=columns, rows=tuple(self.rows), title=title, left=left)


def table(
    rows: Iterable[R],
    columns: Sequence[tuple[str, Callable[[R], str]]],
    *,
    title: str = "",
    left: int = 1,
    kind: Callable[[R], RowKind] = lambda _: "plain",
    spare: tuple[str, ...] = (),
) -> Table:
    """A row for each of `rows`; each column is its label and the text of its cell."""
    labels, texts = tuple(label for label, _ in columns), [text for _, text in columns]
    made = tuple(Row(cells=tuple(text(row) for text in texts), kind=kind(row)) for row in rows)
    return Table(columns=labels, rows=made, title=title, left=left, spare=spare)


def by_category(
    title: str, names: Sequence[str], rows: Sequence[tuple[tuple[str, ...], Held, bool]]
) -> Table:
    """Bytes by category, all in the unit of the largest sum, which stands at the end. A row is
    (cells under `names`, its bytes, whether it is the peak)."""
    unit, size = byte_unit(max((sum(held.values()) for _, held, _ in rows), default=0))
    shown = [c for c in CATEGORIES if any(held.get(c) for _, held, _ in rows)]

    def texts(held: Held) -> Iterator[str]:
        sizes = (*(held.get(category, 0) for category in shown), sum(held.values()))
        return (in_unit(count, size) for count in sizes)

    return Table(
        title=f"{title}, {unit}",
        columns=(*names, *(CATEGORY_SHORT[c] for c in shown), "sum"),
        rows=tuple(
            Row(cells=(*cells, *texts(held)), kind="peak" if is_peak else "plain")
            for cells, held, is_peak in rows
        ),
        left=len(names),
    )


def filled(table: Table) -> Table:
    """The table, whose rows are all as long, without the columns that none of them fills."""
    return _picked(
        table, [n for n in range(len(table.columns)) if any(row.cells[n] for row in table.rows)]
    )


def with_words_last(table: Table) -> Table:
    """The table, in whose last column words begin at one place, as numbers end at one."""
    last = len(table.columns) - 1
    cells = [table.columns, *(row.cells for row in table.rows)]
    width = max(len(row[last]) for row in cells if len(row) > last)

    def padded(row: tuple[str, ...]) -> tuple[str, ...]:
        return (*row[:last], *(cell and cell.ljust(width) for cell in row[last:]))

    rows = tuple(row._replace(cells=padded(row.cells)) for row in table.rows)
    return table._replace(columns=padded(table.columns), rows=rows)


def without_columns(table: Table, labels: Collection[str]) -> Table:
    return _picked(table, [n for n, label in enumerate(table.columns) if label not in labels])


def _picked(table: Table, numbers: Sequence[int]) -> Table:
    return table._replace(
        columns=tuple(table.columns[n] for n in numbers),
        rows=tuple(
            row._replace(cells=tuple(row.cells[n] for n in numbers if n < len(row.cells)))
            for row in table.rows
        ),
        left=sum(n < table.left for n in numbers),
        spare=tuple(label for label in table.spare if label in {table.columns[n] for n in numbers}),
    )


Sign = Literal["fits", "tight", "does_not_fit", ""]
"""The verdict that a line opens with; '' without one."""


class VerdictLine(NamedTuple):
    """The line that decides: `words` stand out, `rest` has the numbers."""

    sign: Sign
    words: str
    rest: str = ""


class Bar(NamedTuple):
    """One bar: `parts` in bytes by name, in the order in which they are drawn, then the overhead
    outside tensors, None where it is not known. `detail` and `speed` are columns of their own."""

    name: str
    parts: Mapping[str, int]
    overhead_bytes: int | None = None
    sign: Sign = ""
    detail: str = ""
    speed: str = ""

    @property
    def peak_bytes(self) -> int:
        return sum(self.parts.values())

    @property
    def total_bytes(self) -> int:
        return self.peak_bytes + (self.overhead_bytes or 0)


_CUT, _MARGIN = 2.6, 1.12
"""A bar ends at so many times the last limit; at least so much of that limit is drawn."""
_SEEN = 0.005
"""Of a bar: parts that are smaller have no place in its legend."""


class Bars(NamedTuple):
    """Bars of one scale. `limits`: where memory of a GPU ends, in bytes, and its label.
    `has_sizes`: each bar's parts are written below it; else one key stands below all."""

    rows: tuple[Bar, ...]
    limits: tuple[tuple[int, str], ...] = ()
    has_sizes: bool = True
    speed_title: str = "tokens/s"

    @property
    def scale_bytes(self) -> float:
        """Where the scale ends: with the longest bar, or where bars are cut behind the last limit,
        of which a little more is drawn, so that what is free is seen."""
        last = max((limit for limit, _ in self.limits), default=0)
        most = max(row.total_bytes for row in self.rows)
        return max(min(most, last * _CUT) if last else most, last * _MARGIN, 1)

    @property
    def unit(self) -> tuple[str, int]:
        return byte_unit(max(row.total_bytes for row in self.rows))

    @property
    def part_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for row in self.rows for name in row.parts))

    def is_cut(self, row: Bar) -> bool:
        return row.total_bytes > 1.001 * self.scale_bytes

    def percent(self, size: int) -> float:
        return round(100 * size / self.scale_bytes, 3)

    def text(self, size: int) -> str:
        return short_in_unit(size, self.unit[1])

    def seen_parts(self, row: Bar) -> dict[str, int]:
        return {name: size for name, size in row.parts.items() if size >= _SEEN * row.peak_bytes}


ParagraphKind = Literal["text", "heading", "advice", "facts", "dim", "command"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paragraph:
    """Running text, whose `lines` are never joined; a heading names what follows, an advice is one
    thing to do; `text` goes on with a verdict above it, `facts` stand apart. Words between
    backticks are something to type. `whole` is what the lines were broken from, for a terminal that
    is narrower."""

    lines: tuple[str, ...]
    kind: ParagraphKind = "text"
    whole: tuple[str, ...] = field(default=(), compare=False)


Block = Table | Paragraph | VerdictLine | Bars


def parts_table(bars: Bars) -> Table:
    """The numbers of bars, for a face that draws none: the peak, the overhead, each part."""
    unit, size = bars.unit
    columns: list[tuple[str, Callable[[Bar], str]]] = [
        ("", lambda row: row.name),
        (f"peak, {unit}", lambda row: short_in_unit(row.peak_bytes, size)),
        ("overhead", lambda row: _size_or_blank(row.overhead_bytes, size)),
        *((n, lambda row, n=n: _size_or_blank(row.parts.get(n), size)) for n in bars.part_names),
        (bars.speed_title, lambda row: row.speed),
    ]
    return filled(table(bars.rows, columns))


def _size_or_blank(count: int | None, size: int) -> str:
    return "" if count is None else short_in_unit(count, size)


def heading(text: str) -> Paragraph:
    return Paragraph(lines=(text,), kind="heading")


def advice(text: str) -> Paragraph:
    return Paragraph(lines=(text,), kind="advice")


def dim(*lines: str) -> Paragraph:
    return Paragraph(lines=lines, kind="dim")


def paragraph(*lines: str) -> Paragraph:
    return Paragraph(lines=lines)


def wrapped(*texts: str, width: int) -> Paragraph:
    """Each text in lines of at most `width` columns; those that go on are indented."""
    lines = [
        line
        for text in texts
        for indent in [" " * (len(text) - len(text.lstrip()) + 2)]
        for line in broken(text, width, subsequent_indent=indent) or [""]
    ]
    return Paragraph(lines=tuple(lines), whole=texts)


def shell_command(command: str, width: int = 78) -> Paragraph:
    """In lines of at most `width` columns, as a shell takes it from several."""
    *first, last = broken(command, width, subsequent_indent="  ")
    lines = (*(f"{line} \\" for line in first), last)
    return Paragraph(lines=lines, whole=(command,), kind="command")


def narrowed(block: Paragraph, width: int) -> Paragraph:
    """The same in lines of at most `width` columns, where a line is longer."""
    if max(map(len, block.lines), default=0) <= width:
        return block
    texts = block.whole or block.lines
    if block.kind == "command":
        return shell_command(texts[0], width - 2)
    return replace(wrapped(*texts, width=width), kind=block.kind)


# --- parts of a page ------------------------------------------------------------------------------

# What the content of a page is made of, beside paragraphs and tables: figures with their numbers,
# pictures, folds, sections.


class Card(NamedTuple):
    """What stands first on a page: one number with its unit as `value`, or `rows` of (name, value,
    change); and a line on it."""

    label: str
    value: str = ""
    rows: tuple[tuple[str, ...], ...] = ()
    note: str = ""

    @property
    def filled(self) -> list[int]:
        """The places beside the name that any row fills."""
        return [n for n in range(1, len(self.rows[0])) if any(row[n] for row in self.rows)]


class Drawing(NamedTuple):
    """A figure. `name` is its id on the page; `description` says in words what is seen; `numbers`
    are the same as a table; `lines` stand under the caption.

    Without `numbers` the caption names the table that holds them.
    """

    name: str
    caption: str
    description: str
    figure: "Figure"
    numbers: Table | None = None
    lines: tuple[str, ...] = ()


class Picture(NamedTuple):
    """A drawing that needs no script: `svg` of this program's own, which says what is seen."""

    name: str
    caption: str
    svg: str


class Fold(NamedTuple):
    """Parts that are shown when asked for."""

    title: str
    parts: tuple["Part", ...]


class Beside(NamedTuple):
    """Parts next to each other where the window is wide enough, else below each other."""

    parts: tuple["Part", ...]


class Cards(NamedTuple):
    """Cards side by side, as many in a row as there is room for."""

    cards: tuple[Card, ...]


Part = Block | Cards | Drawing | Picture | Fold | Beside


class Section(NamedTuple):
    """A part of the page with a heading and an id to link to."""

    name: str
    title: str
    parts: tuple[Part, ...]


def drawings(parts: Iterable[Part]) -> list[Drawing]:
    """Every figure among `parts` and in their folds, in order."""
    figures: list[Drawing] = []
    for part in parts:
        if isinstance(part, Drawing):
            figures.append(part)
        elif isinstance(part, Fold | Beside):
            figures += drawings(part.parts)
    return figures


def sections(*candidates: Section | None) -> tuple[Section, ...]:
    """Those that there is something to say in."""
    return tuple(section for section in candidates if section is not None and section.parts)
