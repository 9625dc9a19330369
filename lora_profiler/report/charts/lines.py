"""Lines: what a claim was checked with, peaks over the length of a sequence, and the raw times of a
run's steps; and the map of batches and lengths that fit a card."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

from lora_profiler.measuring.records.checks import median_interval
from lora_profiler.planning.fit import SizeFit
from lora_profiler.planning.reserve import Verdict
from lora_profiler.question.workload import Method
from lora_profiler.report import palette
from lora_profiler.report.charts import plot
from lora_profiler.report.charts.plot import Figure, Limit
from lora_profiler.report.claims.claim import Chart, Series
from lora_profiler.report.labels import VERDICT_LABELS, interval_text
from lora_profiler.units import (
    byte_unit,
    bytes_text,
    count_text,
    percent_text,
    seconds_text,
    short_count_text,
    short_in_unit,
)

_PLOT_PX, _ROW_PX = 240, 34
_MOST_TICKS = 15
_LARGE = 10_000
"""From here on numbers are counted in thousands and millions."""
_ROOM = 1.05
"""How far an axis of shares goes beyond the largest."""
_SMALL_ABOVE = 16
"""Points of a line whose marks are small."""


def claim_chart(chart: Chart) -> Figure:
    """The chart with a line for each of its series, or, where x counts categories, with a row for
    each of these.

    It has no more series than there are marks. A point that is None is left out.
    """
    assert len(chart.series) <= len(palette.SERIES_MARKS), chart.key
    return _by_category(chart) if chart.categories else _curves(chart)


def _curves(chart: Chart) -> Figure:
    ends, notes = _cut(chart)
    return plot.figure(
        list(map(partial(_series, chart), chart.series, palette.SERIES_MARKS)),
        height=_PLOT_PX,
        x=plot.values(plot.label(chart.x_label), type=chart.x_scale, **_ticks(chart.series)),
        y=plot.values(_y_title(chart), type=chart.y_scale, **{**_y_ticks(chart), **ends}),
        shapes=_whole(chart, plot.across) if chart.y_is_share else [],
        annotations=notes,
    )


def _cut(chart: Chart) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """(ends of the upright axis, a note), so that a run gone wrong does not press others flat."""
    known = [y for series in chart.series for y in series.y if y is not None]
    best = max(known, default=0.0)
    below = [y for y in known if y < -best]
    if chart.y_scale != "linear" or best <= 0 or not below:
        return {}, []
    lie = f"{len(below)} {'points lie' if len(below) > 1 else 'point lies'} below"
    text = f"{lie}, down to {_value(chart, min(below))}"
    note = plot.note(text, x=0, xref="paper", xanchor="left", y=0, yref="paper", yanchor="bottom")
    return {"range": [-_ROOM * best, _ROOM * best]}, [note]


def _series(chart: Chart, series: Series, mark: palette.PointStyle) -> dict[str, Any]:
    points = [
        (x, y)
        for x, y in zip(series.x, series.y, strict=True)
        if y is not None and (y > 0 or chart.y_scale == "linear")
    ]
    # one mark alone stands out from the line that it lies on
    size = 13 if len(points) == 1 else 4 if len(points) > _SMALL_ABOVE else 8
    return plot.scatter(
        plot.label(series.label, 60),
        [x for x, _ in points],
        [y for _, y in points],
        [_hover(chart, series, f"{chart.x_label} {x:g}", y) for x, y in points],
        mode="lines+markers",
        line={"color": mark.colour.light, "width": 1.75},
        marker=plot.marker(mark, size),
    )


def _ticks(series: Sequence[Series]) -> dict[str, Any]:
    places = sorted({x for line in series for x in line.x})
    if len(places) > _MOST_TICKS:
        return {"tickformat": "~g", "nticks": 6}
    return plot.ticks_at(places, [f"{x:g}" for x in places])


def _by_category(chart: Chart) -> Figure:
    places, most = list(map(float, range(len(chart.categories)))), max(1.0, _largest(chart))
    data = []
    for series, mark in zip(chart.series, palette.SERIES_MARKS, strict=False):
        points = [(int(x), y) for x, y in zip(series.x, series.y, strict=True) if y is not None]
        trace = plot.scatter(
            plot.label(series.label, 60),
            [y for _, y in points],
            [float(place) for place, _ in points],
            [_hover(chart, series, chart.categories[place], y) for place, y in points],
            marker=plot.marker(mark, 10) | {"opacity": 0.9},
        )
        data.append(trace)
    return plot.figure(
        data,
        height=_ROW_PX * (len(places) + 1),
        x=plot.values(_y_title(chart), range=[0, _ROOM * most], tickformat=".0%"),
        y=plot.rows([plot.label(text) for text in chart.categories], places, showgrid=True),
        shapes=_whole(chart, plot.upright),
    )


def _whole(chart: Chart, line: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    """A line at all of it, where the chart comes near."""
    return [plot.below(line(1, palette.FAINT_INK, dash="dash"))] if _largest(chart) >= 0.5 else []


def _y_ticks(chart: Chart) -> dict[str, Any]:
    """How the numbers of the upright axis are written."""
    largest = _largest(chart)
    known = (y for series in chart.series for y in series.y if y and y > 0)
    smallest = min(known, default=largest)
    if chart.y_scale == "log" and largest < 100 * smallest:
        return {"tickformat": ".1~%" if chart.y_is_share else "~g", "dtick": "D2"}
    if chart.y_is_share or largest < _LARGE:
        return {"tickformat": ".1~%" if chart.y_is_share else "~g", "nticks": 6}
    if chart.y_scale == "linear":
        return plot.ticks(0, largest, plot.short_count)
    return plot.powers_of_ten(smallest, largest, plot.short_count)


def _largest(chart: Chart) -> float:
    return max((y for series in chart.series for y in series.y if y is not None), default=0.0)


def _y_title(chart: Chart) -> str:
    return f"{plot.label(chart.y_label, 60)}{', %' if chart.y_is_share else ''}"


def _hover(chart: Chart, series: Series, where: str, y: float) -> str:
    return plot.lines(plot.label(series.label, 80), f"{plot.label(where, 80)}: {_value(chart, y)}")


def _value(chart: Chart, y: float) -> str:
    return percent_text(y) if chart.y_is_share else f"{y:.3g}"


_CROSSOVER_PX = 330


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodLine:
    """One method: its name, and bytes at the peak by tokens."""

    method: Method
    name: str
    peak_bytes: Mapping[int, int]


def crossover_lines(
    methods: Sequence[MethodLine], crossings: Sequence[int], limit: Limit | None = None
) -> Figure:
    """Bytes by tokens on log scales, a line a method, with the lengths of `crossings` marked above,
    and a line across at what a card has."""
    lengths = sorted({tokens for line in methods for tokens in line.peak_bytes})
    sizes = [size for line in methods for size in line.peak_bytes.values()] or [1]
    rules = [plot.upright(at, palette.FAINT_INK, dash="dot") for at in crossings]
    limits, words = plot.limit_line(limit, 1, is_log=True)
    texts = [short_count_text(n) if n >= 10**6 else count_text(n) for n in lengths]
    notes = [
        plot.note(
            count_text(at),
            x=math.log10(at),  # as plotly takes notes on a log axis
            y=1,
            yref="paper",
            yanchor="top",
            xanchor="right" if number % 2 == 0 else "left",
            xshift=-4 if number % 2 == 0 else 4,
        )
        for number, at in enumerate(crossings)
    ]
    traces = []
    for line in methods:
        mark, sizes_at = palette.METHOD_MARKS[line.method], line.peak_bytes
        hover = [
            plot.lines(plot.label(line.name), f"{count_text(tokens)} tokens: {bytes_text(size)}")
            for tokens, size in sizes_at.items()
        ]
        trace = plot.scatter(
            plot.label(line.name),
            sizes_at,
            sizes_at.values(),
            hover,
            mode="lines+markers",
            line={"color": mark.colour.light, "width": 2},
            marker=plot.marker(mark, 8),
        )
        traces.append(trace)
    return plot.figure(
        traces,
        height=_CROSSOVER_PX,
        x=plot.axis("sequence length, tokens", type="log", **plot.ticks_at(lengths, texts)),
        y=plot.log_bytes_axis(min(sizes), plot.largest_of(sizes, limit), "predicted peak"),
        shapes=[*rules, *limits],
        annotations=[*words, *notes],
    )


_STEPS_PX = 220
_ABOVE_STEPS = 1.25
"""Room above the longest step for what is said of the median, which takes two lines on a phone."""


def step_times(warmup: Sequence[float], timed: Sequence[float]) -> Figure:
    """Seconds of each step in order, a dot each: warm-up hollow, timed filled; the median of the
    timed ones with its 95 % interval across.

    Empty where nothing was timed.
    """
    count = len(warmup) + len(timed)
    largest = max((*warmup, *timed), default=0.0)
    unit, scale = ("s", 1.0) if largest >= 1 else ("ms", 1000.0)
    data = [
        _dots("warm-up", warmup, 1, scale, "circle-open"),
        _dots("timed", timed, 1 + len(warmup), scale, "circle"),
    ]
    shapes, notes = _median(timed, scale) if timed else ([], [])
    return plot.figure(
        [trace for trace in data if trace["x"]],
        height=_STEPS_PX,
        x=plot.axis("step", range=[0.3, count + 0.7], nticks=min(12, count + 1)),
        y=plot.values(f"time of a step, {unit}", range=[0, _ABOVE_STEPS * scale * largest]),
        shapes=shapes,
        annotations=notes,
    )


def _dots(
    name: str, seconds: Sequence[float], first: int, scale: float, symbol: str
) -> dict[str, Any]:
    return plot.scatter(
        name,
        range(first, first + len(seconds)),
        [scale * s for s in seconds],
        [f"step {first + i}, {name}: {seconds_text(s)}" for i, s in enumerate(seconds)],
        marker={"color": palette.ACCENT.light, "symbol": symbol, "size": 7},
    )


def _median(
    timed: Sequence[float], scale: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    low, middle, high = (scale * s for s in median_interval(timed))
    look = {"type": "rect", "y0": low, "y1": high, "fillcolor": palette.PANEL.light}
    band = plot.below(plot.across(0, palette.PANEL, width=0) | look)
    line = plot.below(plot.across(middle, palette.FAINT_INK, dash="dash"))
    low_text, middle_text, high_text = (
        seconds_text(end / scale, high / scale) for end in (low, middle, high)
    )
    text = f"median {middle_text}, {interval_text(low_text, high_text, len(timed))}"
    note = plot.note(text, x=1, xref="paper", xanchor="right", y=1, yref="paper", yanchor="top")
    return [band, line], [note]


# --- which batches and lengths fit a card ---------------------------------------------------------

_CELL_HIGH_PX, _CELL_WIDE_PX = 34, 52
_VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


def fit_map(cells: Sequence[SizeFit], asked: tuple[int, int] | None = None) -> Figure:
    """Sequence lengths from left to right, batch sizes from bottom to top, in every cell the peak
    and a sign of its verdict; around that of the batch and length `asked` a frame. All peaks are in
    one unit, that of the largest that fits."""
    known = [cell for cell in cells if cell.peak_bytes is not None]
    fitting = [cell.peak_bytes or 0 for cell in known if cell.verdict == "fits"]
    unit, size = byte_unit(max(fitting or [cell.peak_bytes or 0 for cell in known], default=0))
    lengths = sorted({cell.seq_len for cell in cells})
    batches = sorted({cell.batch_size for cell in cells}, reverse=True)
    by_size = {(cell.batch_size, cell.seq_len): cell for cell in cells}
    marks = []
    if asked is not None and asked in by_size:
        row, column = batches.index(asked[0]), lengths.index(asked[1])
        ends = {"x0": column - 0.5, "x1": column + 0.5, "y0": row - 0.5, "y1": row + 0.5}
        marks = [{"type": "rect", **ends, "line": {"color": palette.INK.light, "width": 2.5}}]
    placed = [
        (row, column, cell)
        for row, batch in enumerate(batches)
        for column, length in enumerate(lengths)
        if (cell := by_size.get((batch, length))) is not None
    ]
    return plot.figure(
        [trace for verdict in _VERDICTS for trace in _cells(placed, verdict, size)],
        height=_CELL_HIGH_PX * len(batches),
        x=plot.axis(
            f"sequence length, tokens; peaks in {unit}",
            **plot.ticks_at(range(len(lengths)), map(count_text, lengths)),
            range=[-0.5, len(lengths) - 0.5],
        ),
        y=plot.rows(
            [count_text(batch) for batch in batches],
            range(len(batches)),
            **plot.axis("batch size", range=[len(batches) - 0.5, -0.5]),
        ),
        shapes=marks,
        barmode="overlay",
        meta={"least": _CELL_WIDE_PX * (len(lengths) + 1)},
    )


def _cells(
    placed: Sequence[tuple[int, int, SizeFit]], verdict: Verdict, size: int
) -> Iterator[dict[str, Any]]:
    """The cells of one verdict, each at its (row, column): bars of one row's height."""
    here = [(row, column, cell) for row, column, cell in placed if cell.verdict == verdict]
    if here:
        sign, peaks = palette.VERDICT_SIGNS[verdict], [cell.peak_bytes or 0 for *_, cell in here]
        yield {
            "type": "bar",
            "name": f"{sign} {VERDICT_LABELS[verdict]}",
            "x": [column for _, column, _ in here],
            "y": [1] * len(here),
            "base": [row - 0.5 for row, *_ in here],
            "width": 1,
            "marker": {
                "color": palette.VERDICT_COLOURS[verdict].light,
                "line": {"color": palette.PAPER.light, "width": 2},
            },
            "text": [f"{sign}{short_in_unit(peak, size)}" for peak in peaks],
            "textposition": "inside",
            "insidetextanchor": "middle",
            "textangle": 0,
            "constraintext": "none",
            "insidetextfont": {"color": palette.INK.light, "size": palette.CELL_PX},
            **plot.told(_cell_hover(cell) for *_, cell in here),
        }


def _cell_hover(cell: SizeFit) -> str:
    sizes = f"batch {count_text(cell.batch_size)} x {count_text(cell.seq_len)} tokens"
    assert cell.peak_bytes is not None and cell.verdict is not None
    return plot.lines(sizes, f"peak {bytes_text(cell.peak_bytes)}: {VERDICT_LABELS[cell.verdict]}")
