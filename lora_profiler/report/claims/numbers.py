"""Numbers of evidence: which are none, how they compare, how they are written and tabulated."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from lora_profiler.report.blocks import Row, Table
from lora_profiler.units import percent_text

R = TypeVar("R")
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


def table(
    rows: Iterable[R],
    columns: Sequence[tuple[str, Callable[[R], str]]],
    *,
    title: str = "",
    left: int = 1,
) -> Table:
    """A row for each of `rows`; each column is its label and the text of its cell."""
    return Table(
        columns=tuple(label for label, _ in columns),
        rows=tuple(Row(cells=tuple(text(row) for _, text in columns)) for row in rows),
        title=title,
        left=left,
    )
