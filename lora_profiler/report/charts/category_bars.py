"""Stacked bars of memory by category, one for each label."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_profiler.prediction import CATEGORIES, Category
from lora_profiler.report.charts.axes import bytes_axis, largest_of, limit_line
from lora_profiler.report.charts.figure import Figure, Limit, figure, head, height_px, places, rows
from lora_profiler.report.charts.labels import label, lines
from lora_profiler.report.charts.marks import at_the_end, segments
from lora_profiler.report.labels import CATEGORY_LABELS
from lora_profiler.report.palette import CATEGORY_PAINTS
from lora_profiler.units import bytes_text, percent_text


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryBar:
    """One bar: bytes of one instant by category. Bars that follow each other with the same `group`
    stand under one heading."""

    label: str
    bytes: Mapping[Category, int]
    group: str = ""
    at_least: bool = False
    """Whether the sum is a lower bound, and is written so."""

    @property
    def total_bytes(self) -> int:
        return sum(self.bytes.values())


def category_bars(bars: Sequence[CategoryBar], *, limit: Limit | None = None) -> Figure:
    """One horizontal stacked bar for each of `bars`, from top to bottom, its sum at the end. Empty
    without bars.

    Categories keep their order, colour and hatch; those that no bar has are left out of the legend.
    """
    largest = largest_of([bar.total_bytes for bar in bars], limit)
    axis, size = bytes_axis(largest)
    positions, heads = places([bar.group for bar in bars])
    data = [
        trace for category in CATEGORIES for trace in _category(category, bars, positions, size)
    ]
    data.append(_sums(bars, positions, size))
    last = max(positions, default=0.0)
    shapes, notes = limit_line(limit, size, largest, below=last + 0.9)
    return figure(
        data,
        height=height_px(positions, len(data), 0.7 if limit else 0.0),
        x=axis,
        y=rows([label(bar.label) for bar in bars], positions, below=1.3 if limit else 0.6),
        barmode="stack",
        bargap=0.25,
        annotations=[*(head(label(text, 100), y=y) for text, y in heads), *notes],
        shapes=shapes,
    )


def _category(
    category: Category, bars: Sequence[CategoryBar], positions: Sequence[float], size: int
) -> Iterator[dict[str, Any]]:
    held = [(bar, y, bar.bytes.get(category, 0)) for bar, y in zip(bars, positions, strict=True)]
    held = [
        (bar, y, count) for bar, y, count in held if count > 0
    ]  # what is not attributed can be less than nothing
    if not held:
        return
    name, paint = CATEGORY_LABELS[category], CATEGORY_PAINTS[category]
    yield segments(
        name,
        [count / size for _, _, count in held],
        [y for _, y, _ in held],
        [_hover(bar, name, count) for bar, _, count in held],
        paint,
    )


def _hover(bar: CategoryBar, name: str, count: int) -> str:
    share = (
        f", {percent_text(count / bar.total_bytes)} of {bytes_text(bar.total_bytes)}"
        if bar.total_bytes > 0
        else ""
    )
    return lines(label(bar.group, 80), f"{label(bar.label)}: {name}", bytes_text(count) + share)


def _sums(bars: Sequence[CategoryBar], positions: Sequence[float], size: int) -> dict[str, Any]:
    texts = [f" {'≥ ' if bar.at_least else ''}{bytes_text(bar.total_bytes)}" for bar in bars]
    return at_the_end([bar.total_bytes / size for bar in bars], positions, texts)
