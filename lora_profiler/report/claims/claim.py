"""What a claim and its evidence are; how evidence is written, tabulated and drawn."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, Self, get_type_hints

from lora_profiler.report.blocks import Table, cell_table
from lora_profiler.units import bytes_text, count_text, percent_text, seconds_text

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


def number(value: Number, form: str) -> str:
    return "none" if value is None else format(value, form)


def percent(share: Number) -> str:
    return "none" if share is None else percent_text(share)


def limit_text(share: Number) -> str:
    """An error as a share of what rounding can make: up to 1 it is rounding."""
    return number(share, ".2f" if share is None or share < 1000 else ".1e")


def within_rounding(worst: Number) -> str:
    """'within rounding (0.43 of its limit)'"""
    verb = "within" if at_most(worst, 1) else "NOT within"
    return f"{verb} rounding ({limit_text(worst)} of its limit)"


# --- how numbers are written: by the type of their field ------------------------------------------

Count = Annotated[int, count_text]
Bytes = Annotated[int, bytes_text]
Seconds = Annotated[float, seconds_text]
Part = Annotated[float, percent_text]
"""A share that is always known."""
Share = Annotated[Number, percent]
OfLimit = Annotated[Number, limit_text]
"""An error as a share of what rounding can make."""
Norm = Annotated[Number, lambda value: number(value, ".1e")]
Loss = Annotated[Number, lambda value: number(value, ".4f")]
Size = Annotated[Number, lambda value: number(value, ".4g")]


def evidence_table(
    rows: Iterable[object], columns: Mapping[str, str], title: str = "", left: int = 1
) -> Table:
    """A row of cells for each of `rows`; `columns` are attributes by label, "a.b" for one of a
    part, each written as its type says."""
    texts = ((_cell(row, path) for path in columns.values()) for row in rows)
    return cell_table(columns, texts, title=title, left=left)


def _cell(owner: object, path: str) -> str:
    name, _, rest = path.partition(".")
    value = getattr(owner, name)
    if rest:
        return _cell(value, rest)
    return _writer(type(owner), name)(value)


def _writer(kind: type, name: str) -> Callable[[Any], str]:
    """What its type says a field or a property is written by."""
    member = getattr(kind, name)
    if isinstance(member, property):
        hint = get_type_hints(member.fget, include_extras=True)["return"]
    else:
        hint = get_type_hints(kind, include_extras=True)[name]
    return getattr(hint, "__metadata__", (str,))[0]


# --- charts ---------------------------------------------------------------------------------------

Scale = Literal["linear", "log"]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """`key` is its id on a page, where charts of one `heading` stand together; `note` is a sentence
    below it; where `y_is_share`, y are fractions of 1.

    Of a chart of bars x counts the `categories` from 0; of any other there are none.
    """

    key: str
    heading: str
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_scale: Scale = "log"
    y_scale: Scale = "linear"
    y_is_share: bool = False
    categories: tuple[str, ...] = ()
    note: str = ""

    def x_text(self, x: float) -> str:
        return self.categories[int(x)] if self.categories else f"{x:g}"

    def y_text(self, y: float) -> str:
        return percent_text(y) if self.y_is_share else f"{y:.4g}"

    @property
    def words(self) -> str:
        """For a screen reader: the title, and where each series begins and ends."""
        ends = []
        for series in self.series:
            points = [(x, y) for x, y in zip(series.x, series.y, strict=True) if y is not None]
            texts = [f"{self.y_text(y)} at {self.x_text(x)}" for x, y in points]
            ends.append(f"{series.label}: {' to '.join(dict.fromkeys(texts[:1] + texts[-1:]))}.")
        return " ".join((f"{self.title}.", *ends))


def numbers_table(chart: Chart) -> Table:
    """Every point of the chart: a row for each x."""
    by_series = [dict(zip(series.x, series.y, strict=True)) for series in chart.series]
    rows = []
    for x in sorted({x for series in chart.series for x in series.x}):
        ys = (points.get(x) for points in by_series)
        rows.append((chart.x_text(x), *("" if y is None else chart.y_text(y) for y in ys)))
    title = f"{chart.y_label}, by {chart.x_label}" if chart.x_label else chart.y_label
    columns = (chart.x_label, *(series.label for series in chart.series))
    return cell_table(columns, rows, title=title)


# --- claims ---------------------------------------------------------------------------------------

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
    def finding(self) -> tuple[str, ...]:
        """The evidence in short sentences; the first has the numbers that say most."""

    @abstractmethod
    def tables(self) -> tuple[Table, ...]: ...

    def charts(self) -> tuple[Chart, ...]:
        return ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What is said of LoRA. One that `must_hold` is an identity: where it fails, the code that runs
    is not LoRA. One that `trains_in_full` needs gradients and optimizer states of the whole
    model."""

    id: int
    title: str
    statement: str
    evidence: type[Evidence]
    must_hold: bool = False
    trains_in_full: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A claim, what its check measured, and how long that took."""

    claim: Claim
    evidence: Evidence
    seconds: float

    @property
    def is_broken(self) -> bool:
        return self.claim.must_hold and self.evidence.verdict == "fails"


class Watch(Protocol):
    """Whoever is told how far the checks are."""

    def begin(self, claim: Claim) -> Tell:
        """A claim's check begins; what comes back is told how far it is."""

    def end(self, checked: Checked) -> None:
        """It is done."""
