"""How many tokens a second each run trained."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from lora_profiler.report.charts.axes import ROOM
from lora_profiler.report.charts.figure import Figure, figure, head, height_px, places, rows, values
from lora_profiler.report.charts.labels import label, lines
from lora_profiler.report.charts.marks import at_the_end, whisker
from lora_profiler.report.labels import METHOD_LABELS
from lora_profiler.report.palette import METHOD_MARKS, PAPER
from lora_profiler.units import rate_text
from lora_profiler.workload import Method


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
                "hovertext": [_hover(bar) for bar, _ in method_bars],
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


def _hover(bar: ThroughputBar) -> str:
    interval = f"95 % interval {rate_text(bar.low)} to {rate_text(bar.high)}"
    return lines(
        label(bar.group, 80),
        label(bar.label, 80),
        rate_text(bar.tokens_per_second, "tokens"),
        interval,
    )
