"""Bars: memory by category, the time of a step by what it is spent on, tokens a second, and what
would lower a peak."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, get_args

from lora_profiler.planning.answers import Answer
from lora_profiler.planning.memory_savings import Lever
from lora_profiler.prediction import CATEGORIES, Category
from lora_profiler.report import palette
from lora_profiler.report.charts import plot
from lora_profiler.report.charts.plot import Figure, Limit
from lora_profiler.report.labels import (
    CATEGORY_LABELS,
    METHOD_LABELS,
    PART_LABELS,
    interval_text,
    method_label,
)
from lora_profiler.report.palette import Paint
from lora_profiler.steptime import PARTS, Part
from lora_profiler.units import bytes_text, percent_text, rate_text, seconds_text
from lora_profiler.workload import Method

B = TypeVar("B")
K = TypeVar("K")


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
    totals = [bar.total_bytes for bar in bars]
    limit = plot.in_sight(limit, totals)
    largest = plot.largest_of(totals, limit)
    axis, size = plot.bytes_axis(largest)
    positions, heads = plot.places([bar.group for bar in bars])
    named = {c: (CATEGORY_LABELS[c], palette.CATEGORY_PAINTS[c]) for c in CATEGORIES}
    data = _stacked(bars, positions, size, named, lambda bar: bar.bytes, _category_hover)
    sums = [f"{'≥ ' if bar.at_least else ''}{bytes_text(bar.total_bytes)}" for bar in bars]
    data.append(plot.at_the_end([bar.total_bytes / size for bar in bars], positions, sums))
    last = max(positions, default=0.0)
    shapes, notes = plot.limit_line(limit, size, largest, below=last + 1.05)
    return plot.figure(
        data,
        height=plot.height_px(positions, 1.0 if limit else 0.0),
        x=axis,
        y=plot.rows(
            [plot.label(bar.label) for bar in bars], positions, below=1.6 if limit else 0.6
        ),
        barmode="stack",
        annotations=[*(plot.head(plot.label(text, 100), y=y) for text, y in heads), *notes],
        shapes=shapes,
    )


def _category_hover(bar: CategoryBar, name: str, count: float) -> str:
    size, total = bytes_text(int(count)), bar.total_bytes
    if total > 0:
        size += f", {percent_text(count / total)} of {bytes_text(total)}"
    return plot.lines(plot.label(bar.group, 80), f"{plot.label(bar.label)}: {name}", size)


def _stacked(
    bars: Sequence[B],
    positions: Sequence[float],
    size: float,
    named: Mapping[K, tuple[str, Paint]],
    held: Callable[[B], Mapping[K, float]],
    hover: Callable[[B, str, float], str],
) -> list[dict[str, Any]]:
    """A trace for each part that some bar holds any of; the unattributed can be below nothing."""
    traces = []
    for part, (name, paint) in named.items():
        shown = [
            (bar, y, amount)
            for bar, y in zip(bars, positions, strict=True)
            if (amount := held(bar).get(part, 0)) > 0
        ]
        if shown:
            x, y = [amount / size for *_, amount in shown], [y for _, y, _ in shown]
            words = [hover(bar, name, amount) for bar, _, amount in shown]
            traces.append(plot.level_bars(name, x, y, words, plot.hatched(paint)))
    return traces


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
    known = [(method_label(a.prediction), a.step.time) for a in answers if a.step]
    return [TimeBar(label=n, seconds=t.parts, low=t.low, high=t.high) for n, t in known]


def time_bars(bars: Sequence[TimeBar]) -> Figure:
    """A level stacked bar for each, from top to bottom, a whisker, and its sum at the end."""
    positions: list[float] = [float(place) for place in range(len(bars))]
    largest = max((bar.high for bar in bars), default=1.0)
    unit, size = ("s", 1.0) if largest >= 1 else ("ms", 1e-3)
    named = {part: (PART_LABELS[part], palette.PART_PAINTS[part]) for part in PARTS}
    data = _stacked(bars, positions, size, named, lambda bar: bar.seconds, _part_hover)
    sums = [seconds_text(bar.total_seconds, largest) for bar in bars]
    data += [
        plot.scatter(
            "",
            [bar.total_seconds / size for bar in bars],
            positions,
            marker={"size": 1, "color": palette.FAINT_INK.light},
            error_x=plot.whisker(
                [(bar.total_seconds - bar.low) / size for bar in bars],
                [(bar.high - bar.total_seconds) / size for bar in bars],
            ),
        ),
        plot.at_the_end([bar.high / size for bar in bars], positions, sums),
    ]
    return plot.figure(
        data,
        height=plot.height_px(positions),
        x=plot.values(f"time of one step, {unit}", range=[0, plot.ROOM * largest / size]),
        y=plot.rows([plot.label(bar.label) for bar in bars], positions),
        barmode="stack",
    )


def _part_hover(bar: TimeBar, name: str, seconds: float) -> str:
    share = f", {percent_text(seconds / bar.total_seconds)} of {seconds_text(bar.total_seconds)}"
    return plot.lines(f"{plot.label(bar.label)}: {name}", seconds_text(seconds) + share)


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughputBar:
    """Tokens a second in the median of `steps`, with the ends of its 95 % interval. Bars of the
    same `group` stand under one heading."""

    label: str
    method: Method
    tokens_per_second: float
    low: float
    high: float
    steps: int
    group: str = ""


_RATE_ROWS, _LEVER_ROWS = 0.65, 0.5
"""How thick bars are."""


def throughput_bars(bars: Sequence[ThroughputBar]) -> Figure:
    """A level bar for each, from top to bottom, its number at the end, and a whisker."""
    positions, heads = plot.places([bar.group for bar in bars])
    largest = max((bar.high for bar in bars), default=1.0)
    numbers = [rate_text(bar.tokens_per_second) for bar in bars]
    data = []
    for method in get_args(Method):
        shown = [(b, y) for b, y in zip(bars, positions, strict=True) if b.method == method]
        rates = [b.tokens_per_second for b, _ in shown]
        hover = [
            plot.lines(
                plot.label(bar.group, 80),
                plot.label(bar.label, 80),
                rate_text(bar.tokens_per_second, "tokens"),
                interval_text(rate_text(bar.low), rate_text(bar.high), bar.steps),
            )
            for bar, _ in shown
        ]
        marker = plot.hatched(Paint(colour=palette.METHOD_MARKS[method].colour))
        y = [y for _, y in shown]
        trace = plot.level_bars(METHOD_LABELS[method], rates, y, hover, marker, _RATE_ROWS)
        below = [b.tokens_per_second - b.low for b, _ in shown]
        above = [b.high - b.tokens_per_second for b, _ in shown]
        data += [{**trace, "error_x": plot.whisker(below, above)}] if shown else []
    return plot.figure(
        [*data, plot.at_the_end([bar.high for bar in bars], positions, numbers)],
        height=plot.height_px(positions),
        x=plot.values("tokens a second, median step", range=[0, plot.ROOM * largest]),
        y=plot.rows([plot.label(bar.label) for bar in bars], positions),
        annotations=[plot.head(plot.label(text, 100), y=y) for text, y in heads],
    )


_ROW_PX = 44


def lever_bars(levers: Sequence[Lever]) -> Figure:
    """One bar a lever of one workload, in the order given: the peak that is left and, hatched, what
    is saved.

    All levers of a workload begin at the same peak.
    """
    wholes = [lever.peak_bytes + lever.saved_bytes for lever in levers]
    axis, size = plot.bytes_axis(round(1.2 * max(wholes, default=0)), "peak")
    positions = list(range(len(levers)))
    hover = [
        plot.lines(
            plot.label(f"{lever.name} ({lever.option})", 80),
            f"{bytes_text(lever.peak_bytes)} instead of {bytes_text(whole)}",
            f"price: {plot.label(lever.price, 80)}",
        )
        for lever, whole in zip(levers, wholes, strict=True)
    ]
    saved = [
        f"{bytes_text(lever.saved_bytes)} less, {percent_text(lever.saved_fraction)}"
        for lever in levers
    ]
    left, gone = ([getattr(x, n) / size for x in levers] for n in ("peak_bytes", "saved_bytes"))
    names = [
        plot.lines(plot.label(lever.name, 40), plot.label(lever.option, 40)) for lever in levers
    ]
    return plot.figure(
        [
            *(
                plot.level_bars(name, x, positions, hover, plot.hatched(paint), _LEVER_ROWS)
                for name, x, paint in (
                    ("peak that is left", left, palette.REST_PAINT),
                    ("saved", gone, palette.SAVED_PAINT),
                )
            ),
            plot.at_the_end([whole / size for whole in wholes], positions, saved),
        ],
        height=_ROW_PX * len(levers) + _ROW_PX // 5,
        x=axis,
        y=plot.rows(names, positions),
        barmode="stack",
    )
