"""Stacked bars of where a step's time goes, one for each label."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_profiler.planning.answers import Answer
from lora_profiler.report.answer.timing import steps_of
from lora_profiler.report.charts.axes import ROOM
from lora_profiler.report.charts.figure import Figure, figure, height_px, rows, values
from lora_profiler.report.charts.labels import label, lines
from lora_profiler.report.charts.marks import at_the_end, segments, whisker
from lora_profiler.report.labels import PART_LABELS, method_label
from lora_profiler.report.palette import FAINT_INK, PART_PAINTS
from lora_profiler.steptime import PARTS, Part
from lora_profiler.units import percent_text, seconds_text


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
    data += [_intervals(bars, positions, size), _sums(bars, positions, size)]
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
        [_hover(bar, name, seconds) for bar, _, seconds in spent],
        PART_PAINTS[part],
    )


def _hover(bar: TimeBar, name: str, seconds: float) -> str:
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


def _sums(bars: Sequence[TimeBar], positions: Sequence[float], size: float) -> dict[str, Any]:
    longest = max((bar.high for bar in bars), default=0.0)
    texts = [f" {seconds_text(bar.total_seconds, longest)}" for bar in bars]
    return at_the_end([bar.high / size for bar in bars], positions, texts)
