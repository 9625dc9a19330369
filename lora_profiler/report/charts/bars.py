"""Bars: memory by category, the time of a step by what it is spent on, tokens a second, and what
would lower a peak."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar, get_args

from lora_profiler.measuring.records.record import PhaseSample
from lora_profiler.memory.prediction import CATEGORIES, Category, CurvePoint
from lora_profiler.planning.answers import Answer
from lora_profiler.planning.memory_savings import Lever
from lora_profiler.question.workload import Method
from lora_profiler.report import labels, palette
from lora_profiler.report.charts import plot
from lora_profiler.report.charts.plot import Figure, Limit
from lora_profiler.report.measured.run_labels import COUNTER_LABELS, PHASE_CURVE, PHASE_LABELS
from lora_profiler.report.palette import Paint
from lora_profiler.runs.comparison.errors import PHASE_GROUPS
from lora_profiler.steptime import PARTS, Part
from lora_profiler.units import bytes_text, error_text, percent_text, rate_text, seconds_text

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
    named = {c: (labels.CATEGORY_LABELS[c], palette.CATEGORY_PAINTS[c]) for c in CATEGORIES}
    data = _stacked(bars, positions, size, named, lambda bar: bar.bytes, _category_hover)
    names = [plot.label(bar.label) for bar in bars]
    sums = [f"{'≥ ' if bar.at_least else ''}{bytes_text(bar.total_bytes)}" for bar in bars]
    data.append(plot.at_the_end([bar.total_bytes / size for bar in bars], positions, sums))
    shapes, notes = plot.limit_line(limit, size, largest, below=max(positions, default=0.0) + 1.05)
    return plot.figure(
        data,
        height=plot.height_px(positions, 1.0 if limit else 0.0),
        x=axis,
        y=plot.rows(names, positions, below=1.6 if limit else 0.6),
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
    known = [(labels.method_label(a.prediction), a.step.time) for a in answers if a.step]
    return [TimeBar(label=n, seconds=t.parts, low=t.low, high=t.high) for n, t in known]


def time_bars(bars: Sequence[TimeBar]) -> Figure:
    """A level stacked bar for each, from top to bottom, a whisker, and its sum at the end."""
    positions = list(map(float, range(len(bars))))
    largest = max((bar.high for bar in bars), default=1.0)
    unit, size = ("s", 1.0) if largest >= 1 else ("ms", 1e-3)
    named = {part: (labels.PART_LABELS[part], palette.PART_PAINTS[part]) for part in PARTS}
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
                labels.interval_text(rate_text(bar.low), rate_text(bar.high), bar.steps),
            )
            for bar, _ in shown
        ]
        marker = plot.hatched(Paint(colour=palette.METHOD_MARKS[method].colour))
        y = [y for _, y in shown]
        trace = plot.level_bars(labels.METHOD_LABELS[method], rates, y, hover, marker, _RATE_ROWS)
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
    saved = [f"{bytes_text(x.saved_bytes)} less, {percent_text(x.saved_fraction)}" for x in levers]
    names = [plot.lines(plot.label(x.name, 40), plot.label(x.option, 40)) for x in levers]
    parts = {
        "peak that is left": ("peak_bytes", palette.REST_PAINT),
        "saved": ("saved_bytes", palette.SAVED_PAINT),
    }
    data = []
    for name, (of, paint) in parts.items():
        sizes = [getattr(lever, of) / size for lever in levers]
        marker = plot.hatched(paint)
        data.append(plot.level_bars(name, sizes, positions, hover, marker, _LEVER_ROWS))
    return plot.figure(
        [*data, plot.at_the_end([whole / size for whole in wholes], positions, saved)],
        height=_ROW_PX * len(levers) + _ROW_PX // 5,
        x=axis,
        y=plot.rows(names, positions),
        barmode="stack",
    )


# --- curves of memory over a step -----------------------------------------------------------------


HEIGHT_PX = 320
Band = tuple[str, float, float]
"""(a part of the step, where it begins, where it ends) along the axis."""


def memory_curve(points: Sequence[CurvePoint], *, limit: Limit | None = None) -> Figure:
    """Areas from the first to the last of `points`, which are in order of time and not of equal
    lengths of it. Empty without any.

    Phases are shaded in turn and named; the largest point is marked with its bytes and what ran.
    """
    totals = [point.total_bytes for point in points]
    limit = plot.in_sight(limit, totals)
    axis, size = plot.bytes_axis(plot.largest_of(totals, limit), room=1.3)
    bands = _bands(PHASE_CURVE[point.phase] for point in points)
    places, last = list(map(float, range(len(points)))), max(len(points), 1) - 0.5
    shapes, notes = plot.limit_line(limit, size)
    words = [*names(bands), *([peak(points, places, size)] if points else [])]
    return plot.figure(
        [*areas(points, places, size), outline(points, places, size)],
        height=HEIGHT_PX,
        x=plot.axis("one step, in order", range=[-0.5, last], showticklabels=False),
        y=axis,
        shapes=[*shades(bands), *shapes],
        annotations=[*words, *notes],
    )


def _bands(names: Iterable[str]) -> list[Band]:
    bands: list[Band] = []
    at = 0
    for name, members in groupby(names):
        count = len(list(members))
        bands.append((name, at - 0.5, at + count - 0.5))
        at += count
    return bands


def shades(bands: Sequence[Band], *, edge_px: int = 1) -> list[dict[str, Any]]:
    """Bands in turn light and shaded, behind everything."""
    shapes = []
    for number, (_, first, after) in enumerate(bands):
        fill = palette.PANEL if number % 2 else palette.PAPER
        look = {"type": "rect", "fillcolor": fill.light, "x0": first, "x1": after}
        shapes.append(plot.below(plot.upright(0, palette.LINE, width=edge_px) | look))
    return shapes


def names(bands: Sequence[Band]) -> Iterator[dict[str, Any]]:
    """The names of parts over their bands; the page lets one that would run into another hang in a
    second line, or leaves it out."""
    look = {"yref": "paper", "yanchor": "top", "name": "part"}
    for name, first, after in bands:
        yield plot.note(name, x=(first + after) / 2, y=1) | look


def areas(
    points: Sequence[CurvePoint], places: Sequence[float], size: int
) -> Iterator[dict[str, Any]]:
    """An area for each category, stacked; `places` are the points', `size` the unit's bytes."""
    for category in CATEGORIES:
        sizes = [max(point.bytes.get(category, 0), 0) / size for point in points]
        if not any(sizes):
            continue
        paint = palette.CATEGORY_PAINTS[category]
        yield plot.scatter(
            labels.CATEGORY_LABELS[category],
            places,
            sizes,
            mode="lines",
            stackgroup="memory",
            fillcolor=paint.colour.light,
            line={"width": 0.5, "color": palette.PAPER.light},
            **({"fillpattern": plot.hatch(paint)} if paint.hatch else {}),
        )


def outline(points: Sequence[CurvePoint], places: Sequence[float], size: int) -> dict[str, Any]:
    """The sum of the areas, which also answers when pointed at."""
    return plot.scatter(
        "",
        places,
        [point.total_bytes / size for point in points],
        map(_hover, points),
        mode="lines" if len(points) > 40 else "lines+markers",
        line={"color": palette.INK.light, "width": 1.2},
        marker={"color": palette.INK.light, "size": 5},
    )


def _hover(point: CurvePoint) -> str:
    parts = [
        f"{labels.CATEGORY_LABELS[c]} {bytes_text(point.bytes[c])}"
        for c in reversed(CATEGORIES)
        if point.bytes.get(c)
    ]
    where = PHASE_CURVE[point.phase] + (f", {plot.label(point.module)}" if point.module else "")
    return plot.lines(where, f"<b>{bytes_text(point.total_bytes)}</b>", *parts)


def peak(points: Sequence[CurvePoint], places: Sequence[float], size: int) -> dict[str, Any]:
    """The largest point, with its bytes and what ran."""
    at = max(range(len(points)), key=lambda i: points[i].total_bytes)
    point, share = points[at], places[at] / max(places[-1], 1)
    where = f", {plot.label(point.module, 36)}" if point.module else f", {PHASE_CURVE[point.phase]}"
    anchor = "left" if share < 0.25 else "right" if share > 0.75 else "center"
    words, ink = f"peak {bytes_text(point.total_bytes)}{where}", palette.INK.light
    arrow = {"showarrow": True, "arrowcolor": ink, "ax": 0, "ay": -22, "xanchor": anchor}
    look = {"bgcolor": palette.PAPER.light, "font": {"size": palette.BODY_PX, "color": ink}}
    return plot.note(words, x=places[at], y=point.total_bytes / size, **arrow, **look)


_NARROWEST = 0.25
"""Of the axis: a part of a step with few points is no narrower, so that its peaks are seen, and
their errors have room on a phone."""


def measured_curve(
    points: Sequence[CurvePoint],
    predicted: Mapping[str, int],
    peaks: Mapping[str, int],
    *,
    word: str = "measured",
) -> Figure:
    """The predicted `points` of one steady step, in order, and the peak that was read in each part
    of it beside what was `predicted`, in bytes by the groups of `comparison.errors.PHASE_GROUPS`.

    A part that nothing was read of has no line. `word` is "measured", or "rehearsed" where no card
    was there.
    """
    of = {phase: group for group, (phases, _) in PHASE_GROUPS.items() for phase in phases}
    shown = [point for point in points if point.phase in of]
    groups = [of[point.phase] for point in shown]
    widths = {g: max(groups.count(g) / len(groups), _NARROWEST) for g in dict.fromkeys(groups)}
    bands: list[tuple[str, float, float]] = []
    places: list[float] = []
    at = 0.0
    for group, width in widths.items():
        bands.append((group, at, at + width))
        count = groups.count(group)
        places += [at + width * (n + 0.5) / count for n in range(count)]
        at += width
    largest = max([*(point.total_bytes for point in shown), *peaks.values()], default=0)
    axis, size = plot.bytes_axis(largest, room=1.3)
    labelled = [(PHASE_LABELS[group], first, after) for group, first, after in bands]
    return plot.figure(
        [
            *areas(shown, places, size),
            outline(shown, places, size)
            | {"name": "predicted", "showlegend": True, "mode": "lines"},
            *_read(bands, peaks, predicted, size, word),
        ],
        height=HEIGHT_PX,
        x=plot.axis("one step, in order", range=[0, max(at, 1.0)], showticklabels=False),
        y=axis,
        shapes=shades(labelled),
        annotations=list(names(labelled)),
    )


def _read(
    bands: Sequence[tuple[str, float, float]],
    peaks: Mapping[str, int],
    predicted: Mapping[str, int],
    size: int,
    word: str,
) -> Iterator[dict[str, Any]]:
    """A line over each part, and in its middle a mark with the prediction's error."""
    known = [band for band in bands if band[0] in peaks]
    heights = [peaks[group] / size for group, *_ in known]
    ends = [end for _, first, after in known for end in (first, after, None)]
    tops = [end for height in heights for end in (height, height, None)]
    look = {"color": palette.INK.light, "width": 2.5}
    yield plot.scatter("", ends, tops, mode="lines", line=look)
    edge = {"width": 2, "color": palette.INK.light}
    errors, hover = [], []
    for group, *_ in known:
        read, told = peaks[group], predicted.get(group)
        errors.append(error_text((told - read) / read) if read and told is not None else "")
        other = "" if told is None else f"predicted {bytes_text(told)}"
        hover.append(plot.lines(PHASE_LABELS[group], f"{word} {bytes_text(read)}", other))
    yield plot.scatter(
        f"{word} peak",
        [(first + after) / 2 for _, first, after in known],
        heights,
        hover,
        mode="markers+text",
        text=errors,
        textposition="top center",
        textfont={"size": palette.BODY_PX, "color": palette.INK.light},
        marker={"color": palette.PAPER.light, "symbol": "diamond", "size": 10, "line": edge},
    )


_SAMPLES_PX = 260


def phase_samples(samples: Sequence[PhaseSample], limit: Limit | None = None) -> Figure:
    """A record's `measurement.phases` in their order: peak within each phase and bytes at its end,
    as far as they were read.

    Requested, and where there is such an allocator, allocated and reserved. Steps are shaded in
    turn and named; a line lies across at `limit`.
    """
    read = {name: [getattr(sample, name) for sample in samples] for name in COUNTER_LABELS}
    read = {name: sizes for name, sizes in read.items() if any(size is not None for size in sizes)}
    known = [s for sizes in read.values() for s in sizes if s is not None]
    axis, size = plot.bytes_axis(plot.largest_of(known, limit))
    bands = _bands([f"step {sample.step}" for sample in samples])
    notes = names([band for band in bands if band[2] - band[1] > 1])
    lines_across, words = plot.limit_line(limit, size)
    ticks = plot.ticks_at(range(len(samples)), [PHASE_CURVE[s.phase] for s in samples])
    return plot.figure(
        [_line(name, sizes, samples, size) for name, sizes in read.items()],
        height=_SAMPLES_PX,
        x={**ticks, "tickangle": -45, "range": [-0.5, max(len(samples), 1) - 0.5]},
        y=axis,
        shapes=[*shades(bands, edge_px=0), *lines_across],
        annotations=[*notes, *words],
    )


def _line(
    name: str, sizes: Sequence[int | None], samples: Sequence[PhaseSample], size: int
) -> dict[str, Any]:
    mark = palette.COUNTER_MARKS[name]
    dash = "solid" if name.endswith("peak_bytes") else "dot"
    hover = [
        plot.lines(
            f"step {sample.step}, {PHASE_CURVE[sample.phase]}",
            f"{COUNTER_LABELS[name]}: {'not read' if s is None else bytes_text(s)}",
        )
        for sample, s in zip(samples, sizes, strict=True)
    ]
    return plot.scatter(
        COUNTER_LABELS[name],
        range(len(samples)),
        [None if s is None else s / size for s in sizes],
        hover,
        mode="lines+markers",
        line={"color": mark.colour.light, "width": 1.5, "dash": dash},
        marker=plot.marker(mark, 7),
    )
