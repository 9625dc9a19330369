"""What the content of a page is made of, beside paragraphs and tables: figures with their numbers,
pictures, folds, sections."""

from collections.abc import Iterable
from dataclasses import dataclass

from lora_profiler.report.blocks import Block, Table
from lora_profiler.report.charts.plot import Figure


@dataclass(frozen=True, slots=True)
class Card:
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


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure. `name` is its id on the page; `description` says in words what is seen; `numbers`
    are the same as a table; `lines` stand under the caption.

    Without `numbers` the caption names the table that holds them.
    """

    name: str
    caption: str
    description: str
    figure: Figure
    numbers: Table | None = None
    lines: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawing that needs no script: `svg` of this program's own, which says what is seen."""

    name: str
    caption: str
    svg: str


@dataclass(frozen=True, slots=True)
class Fold:
    """Parts that are shown when asked for."""

    title: str
    parts: tuple["Part", ...]


@dataclass(frozen=True, slots=True)
class Beside:
    """Parts next to each other where the window is wide enough, else below each other."""

    parts: tuple["Part", ...]


@dataclass(frozen=True, slots=True)
class Cards:
    """Cards side by side, as many in a row as there is room for."""

    cards: tuple[Card, ...]


Part = Block | Cards | Drawing | Picture | Fold | Beside


@dataclass(frozen=True, slots=True)
class Section:
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
