"""Bars: memory by category, the time of a step by what it is spent on, tokens a second, and what
would lower a peak."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from lora_profiler.planning.answers import Answer
from lora_profiler.planning.memory_savings import Lever
from lora_profiler.prediction import CATEGORIES, Category
from lora_profiler.report.answer.timing import steps_of
from lora_profiler.report.charts.axes import ROOM, bytes_axis, largest_of, limit_line
from lora_profiler.report.charts.figure import (
    Figure,
    Limit,
    at_the_end,
    figure,
    hatched,
    head,
    height_px,
    label,
    lines,
    places,
    rows,
    segments,
    values,
    whisker,
)
from lora_profiler.report.labels import CATEGORY_LABELS, METHOD_LABELS, PART_LABELS, method_label
from lora_profiler.report.palette import (
    CATEGORY_PAINTS,
    FAINT_INK,
    METHOD_MARKS,
    PAPER,
    PART_PAINTS,
    REST_PAINT,
    SAVED_PAINT,
)
from lora_profiler.steptime import PARTS, Part
from lora_profiler.units import bytes_text, percent_text, rate_text, seconds_text
from lora_profiler.workload import Method


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
        [_category_hover(bar, name, count) for bar, _, count in held],
        paint,
    )


def _category_hover(bar: CategoryBar, name: str, count: int) -> str:
    share = (
        f", {percent_text(count / bar.total_bytes)} of {bytes_text(bar.total_bytes)}"
        if bar.total_bytes > 0
        else ""
    )
    return lines(label(bar.group, 80), f"{label(bar.label)}: {name}", bytes_text(count) + share)


def _sums(bars: Sequence[CategoryBar], positions: Sequence[float], size: int) -> dict[str, Any]:
    texts = [f" {'≥ ' if bar.at_least else ''}{bytes_text(bar.total_bytes)}" for bar in bars]
    return at_the_end([bar.total_bytes / size for bar in bars], positions, texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeBar:
    """One bar: seconds of one step by what they are spent on, and the ends of its interval."""

    label: str
    seconds: Mapping[Part, float]
    low: float
    high: float

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())


def time_bars_of(answers: Sequence[Answer]) -> list[TimeBar]:
    """A bar for each method whose time is known."""
    return [
        TimeBar(
            label=method_label(a.prediction), seconds=s.time.parts, low=s.time.low, high=s.time.high
        )
        for a, s in zip(answers, steps_of(answers), strict=True)
        if s
    ]


def time_bars(bars: Sequence[TimeBar]) -> Figure:
    """One horizontal stacked bar for each of `bars`, from top to bottom, its interval as a whisker
    and its sum at the end."""
    positions: list[float] = [float(place) for place in range(len(bars))]
    largest = max((bar.high for bar in bars), default=1.0)
    unit, size = ("s", 1.0) if largest >= 1 else ("ms", 1e-3)
    data = [trace for part in PARTS for trace in _part(part, bars, positions, size)]
    data += [_intervals(bars, positions, size), _time_sums(bars, positions, size)]
    return figure(
        data,
        height=height_px(positions, len(data)),
        x=values(f"time of one step, {unit}", range=[0, ROOM * largest / size]),
        y=rows([label(bar.label) for bar in bars], positions),
        barmode="stack",
        bargap=0.25,
    )


def _part(
    part: Part, bars: Sequence[TimeBar], positions: Sequence[float], size: float
) -> Iterator[dict[str, Any]]:
    spent = [
        (bar, y, bar.seconds.get(part, 0.0))
        for bar, y in zip(bars, positions, strict=True)
        if bar.seconds.get(part)
    ]
    if not spent:
        return
    name = PART_LABELS[part]
    yield segments(
        name,
        [seconds / size for _, _, seconds in spent],
        [y for _, y, _ in spent],
        [_part_hover(bar, name, seconds) for bar, _, seconds in spent],
        PART_PAINTS[part],
    )


def _part_hover(bar: TimeBar, name: str, seconds: float) -> str:
    share = f", {percent_text(seconds / bar.total_seconds)} of {seconds_text(bar.total_seconds)}"
    return lines(f"{label(bar.label)}: {name}", seconds_text(seconds) + share)


def _intervals(bars: Sequence[TimeBar], positions: Sequence[float], size: float) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "x": [bar.total_seconds / size for bar in bars],
        "y": list(positions),
        "marker": {"size": 1, "color": FAINT_INK.light},
        "hoverinfo": "skip",
        "showlegend": False,
        "error_x": whisker(
            [(bar.total_seconds - bar.low) / size for bar in bars],
            [(bar.high - bar.total_seconds) / size for bar in bars],
        ),
    }


def _time_sums(bars: Sequence[TimeBar], positions: Sequence[float], size: float) -> dict[str, Any]:
    longest = max((bar.high for bar in bars), default=0.0)
    texts = [f" {seconds_text(bar.total_seconds, longest)}" for bar in bars]
    return at_the_end([bar.high / size for bar in bars], positions, texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughputBar:
    """Tokens a second in a median step, with the ends of its 95 % interval. Bars of the same
    `group` stand under one heading."""

    label: str
    method: Method
    tokens_per_second: float
    low: float
    high: float
    group: str = ""
    record_id: str = ""


def throughput_bars(bars: Sequence[ThroughputBar]) -> Figure:
    """One horizontal bar for each of `bars`, from top to bottom, its number at the end and its
    interval as a whisker."""
    positions, heads = places([bar.group for bar in bars])
    largest = max((bar.high for bar in bars), default=1.0)
    return figure(
        [*_traces(bars, positions), _numbers(bars, positions)],
        height=height_px(positions, len(get_args(Method))),
        x=values("tokens a second, median step", range=[0, ROOM * largest]),
        y=rows([label(bar.label) for bar in bars], positions),
        bargap=0.35,
        annotations=[head(label(text, 100), y=y) for text, y in heads],
    )


def _traces(bars: Sequence[ThroughputBar], positions: Sequence[float]) -> Iterator[dict[str, Any]]:
    for method in get_args(Method):
        method_bars = [
            (bar, y) for bar, y in zip(bars, positions, strict=True) if bar.method == method
        ]
        if method_bars:
            yield {
                "type": "bar",
                "orientation": "h",
                "name": METHOD_LABELS[method],
                "x": [bar.tokens_per_second for bar, _ in method_bars],
                "y": [y for _, y in method_bars],
                "customdata": [bar.record_id for bar, _ in method_bars],
                "hovertext": [_rate_hover(bar) for bar, _ in method_bars],
                "hoverinfo": "text",
                "marker": {
                    "color": METHOD_MARKS[method].colour.light,
                    "line": {"width": 1, "color": PAPER.light},
                },
                "error_x": whisker(
                    [bar.tokens_per_second - bar.low for bar, _ in method_bars],
                    [bar.high - bar.tokens_per_second for bar, _ in method_bars],
                ),
            }


def _numbers(bars: Sequence[ThroughputBar], positions: Sequence[float]) -> dict[str, Any]:
    texts = [f" {rate_text(bar.tokens_per_second)}" for bar in bars]
    return at_the_end([bar.high for bar in bars], positions, texts)


def _rate_hover(bar: ThroughputBar) -> str:
    interval = f"95 % interval {rate_text(bar.low)} to {rate_text(bar.high)}"
    return lines(
        label(bar.group, 80),
        label(bar.label, 80),
        rate_text(bar.tokens_per_second, "tokens"),
        interval,
    )


_ROW_PX, _AROUND_PX = 44, 100


def lever_bars(levers: Sequence[Lever]) -> Figure:
    """One bar a lever of one workload, in the order given: the peak that is left and, hatched, what
    is saved.

    All levers of a workload begin at the same peak.
    """
    axis, size = bytes_axis(
        round(1.2 * max((lever.peak_bytes + lever.saved_bytes for lever in levers), default=0)),
        "peak",
    )
    positions = list(range(len(levers)))
    wholes = [lever.peak_bytes + lever.saved_bytes for lever in levers]
    hover = [
        lines(
            label(f"{lever.name} ({lever.option})", 80),
            f"{bytes_text(lever.peak_bytes)} instead of {bytes_text(whole)}",
            f"price: {label(lever.price, 80)}",
        )
        for lever, whole in zip(levers, wholes, strict=True)
    ]
    bar = {
        "type": "bar",
        "orientation": "h",
        "y": positions,
        "hovertext": hover,
        "hoverinfo": "text",
    }
    saved = [
        f"{bytes_text(lever.saved_bytes)} less, {percent_text(lever.saved_fraction)}"
        for lever in levers
    ]
    left = {**bar, "name": "peak that is left", "x": [lever.peak_bytes / size for lever in levers]}
    gone = {**bar, "name": "saved", "x": [lever.saved_bytes / size for lever in levers]}
    sums = at_the_end([whole / size for whole in wholes], positions, [f" {text}" for text in saved])
    return figure(
        [{**left, "marker": hatched(REST_PAINT)}, {**gone, "marker": hatched(SAVED_PAINT)}, sums],
        height=_AROUND_PX + _ROW_PX * len(levers),
        x=axis,
        y=rows(
            [lines(label(lever.name, 40), label(lever.option, 40)) for lever in levers], positions
        ),
        barmode="stack",
        bargap=0.35,
    )
