"""Charts as plain data: series of x and y, with the words that belong to them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lora_profiler.report.blocks import Row, Table
from lora_profiler.units import percent_text

Scale = Literal["linear", "log"]

SENTENCE_RANK = 8
"""The rank that captions speak of, where it was looked at; else the highest that is lower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line or set of points; a y that is None was not measured or came to nothing finite."""

    label: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]

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
    claim_id: int
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
    rows = [
        Row(
            cells=(
                chart.categories[int(x)] if chart.categories else f"{x:g}",
                *(_cell(chart, points.get(x)) for points in by_series),
            )
        )
        for x in sorted({x for series in chart.series for x in series.x})
    ]
    title = f"{chart.y_label}, by {chart.x_label}" if chart.x_label else chart.y_label
    return Table(
        title=title,
        columns=(chart.x_label, *(series.label for series in chart.series)),
        rows=tuple(rows),
    )


def _cell(chart: Chart, y: float | None) -> str:
    return "" if y is None else percent_text(y) if chart.y_is_share else f"{y:.4g}"
