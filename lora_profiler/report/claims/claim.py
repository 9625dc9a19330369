"""What a claim is made of, what a check of one finds, and how its numbers are compared, written,
tabulated and drawn."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self

from lora_profiler.report.blocks import Row, Table
from lora_profiler.units import percent_text

Number = float | None
"""None where a run or a layer came to nothing finite, or nothing was measured."""


def finite(value: float) -> Number:
    return value if math.isfinite(value) else None


def worst_of(values: Iterable[Number]) -> Number:
    """The largest; None, which stands for no number at all, is larger than any."""
    numbers = list(values)
    return None if None in numbers else max(n for n in numbers if n is not None)


def at_most(value: Number, limit: float) -> bool:
    return value is not None and value <= limit


def number(value: Number, form: str, none: str = "none") -> str:
    return none if value is None else format(value, form)


def percent(share: Number, none: str = "none") -> str:
    return none if share is None else percent_text(share)


def limit_text(share: Number) -> str:
    """An error as a share of what rounding can make: up to 1 it is rounding."""
    return number(share, ".2f" if share is None or share < 1000 else ".1e")


def shape(out_features: int, in_features: int) -> str:
    return f"{out_features} x {in_features}"


Scale = Literal["linear", "log"]

SENTENCE_RANK = 8
"""The rank that captions speak of, where it was looked at; else the highest that is lower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line or set of points; a y that is None was not measured or came to nothing finite."""

    label: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]

    @classmethod
    def of(cls, label: str, rows: Iterable[object], x: str, y: str) -> Self:
        """A point a row, of its attributes `x` and `y`."""
        points = [(getattr(row, x), getattr(row, y)) for row in rows]
        return cls(label=label, x=tuple(p[0] for p in points), y=tuple(p[1] for p in points))

    @property
    def points(self) -> list[tuple[float, float]]:
        return [(x, y) for x, y in zip(self.x, self.y, strict=True) if y is not None]

    @property
    def highest(self) -> tuple[float, float] | None:
        """The point with the largest y."""
        return max(self.points, key=lambda point: point[1], default=None)

    @property
    def at_rank(self) -> tuple[float, float] | None:
        """(rank, y) at the rank that captions speak of."""
        return max((point for point in self.points if point[0] <= SENTENCE_RANK), default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """`key` names it for ever; `note` is a sentence to stand below it; where `y_is_share`, y are
    fractions of 1.

    Of a chart of bars x counts the `categories` from 0; of any other there are none.
    """

    key: str
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_scale: Scale = "log"
    y_scale: Scale = "linear"
    y_is_share: bool = False
    categories: tuple[str, ...] = ()
    note: str = ""


def listed(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + f" and {words[-1]}" if len(words) > 1 else "".join(words)


def numbers_table(chart: Chart) -> Table:
    """Every point of the chart: a row for each x."""
    by_series = [dict(zip(series.x, series.y, strict=True)) for series in chart.series]
    rows = []
    for x in sorted({x for series in chart.series for x in series.x}):
        ys = (points.get(x) for points in by_series)
        cells = (percent(y, "") if chart.y_is_share else number(y, ".4g", "") for y in ys)
        name = chart.categories[int(x)] if chart.categories else f"{x:g}"
        rows.append(Row(cells=(name, *cells)))
    title = f"{chart.y_label}, by {chart.x_label}" if chart.x_label else chart.y_label
    columns = (chart.x_label, *(series.label for series in chart.series))
    return Table(title=title, columns=columns, rows=tuple(rows))


Verdict = Literal["holds", "holds_partly", "fails"]

Tell = Callable[[str, int, int], None]
"""(what is being done, parts done, parts in all): a check says with it how far it is."""


class Evidence(ABC):
    """What a check measured. Each claim has a frozen dataclass of its own, with the field names of
    the JSON document; a field that is None and has None as its default is left out of the document.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def verdict(self) -> Verdict: ...

    @property
    @abstractmethod
    def sentences(self) -> tuple[str, ...]:
        """The evidence in words."""

    @property
    @abstractmethod
    def headline(self) -> str:
        """The numbers that say most, in one line."""

    @abstractmethod
    def tables(self) -> tuple[Table, ...]: ...

    def charts(self) -> tuple[Chart, ...]:
        return ()


Caption = Callable[[Chart], tuple[str, ...]]
"""What is to be seen in a chart, in sentences worked out from its numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What is said of LoRA. One that `must_hold` is an identity: where it fails, the code that runs
    is not LoRA. One that `trains_in_full` needs gradients and optimizer states of the whole model.

    `figures` has for each heading of a page the charts that stand under it, by the beginning of
    their keys, with their captions; the first beginning that fits is taken.
    """

    id: int
    title: str
    statement: str
    evidence: type[Evidence]
    must_hold: bool = False
    trains_in_full: bool = False
    figures: Mapping[str, Mapping[str, Caption]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A claim, what its check measured, and how long that took."""

    claim: Claim
    evidence: Evidence
    seconds: float

    @property
    def is_broken(self) -> bool:
        """Whether what must hold exactly does not."""
        return self.claim.must_hold and self.evidence.verdict == "fails"


class Watch(Protocol):
    """Whoever is told how far the checks are."""

    def begin(self, claim: Claim) -> Tell:
        """A claim's check begins; what comes back is told how far it is."""

    def end(self, checked: Checked) -> None:
        """It is done."""
