"""Peaks of several methods over the length of a sequence, and the lengths from which one needs more
than another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_profiler.report.charts.axes import largest_of, limit_line, log_bytes_axis
from lora_profiler.report.charts.figure import Figure, Limit, figure, note, title
from lora_profiler.report.charts.labels import label, lines
from lora_profiler.report.palette import FAINT_INK, METHOD_MARKS
from lora_profiler.units import bytes_text, count_text, short_count_text
from lora_profiler.workload import Method

_HEIGHT_PX = 420


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
    rule = {"type": "line", "line": {"color": FAINT_INK.light, "width": 1, "dash": "dot"}}
    upright = [{**rule, "x0": at, "x1": at, "yref": "paper", "y0": 0, "y1": 1} for at in crossings]
    across, words = limit_line(limit, 1)
    notes = [
        note(
            count_text(at),
            x=at,
            y=1,
            yref="paper",
            yanchor="top",
            xanchor="right" if number % 2 == 0 else "left",
            xshift=-4 if number % 2 == 0 else 4,
        )
        for number, at in enumerate(crossings)
    ]
    return figure(
        [_line(line) for line in methods],
        height=_HEIGHT_PX,
        x={
            "title": title("sequence length, tokens"),
            "type": "log",
            "tickmode": "array",
            "tickvals": lengths,
            "ticktext": [short_count_text(n) if n >= 10**6 else count_text(n) for n in lengths],
        },
        y=log_bytes_axis(min(sizes), largest_of(sizes, limit), "predicted peak"),
        shapes=[*upright, *across],
        annotations=[*words, *notes],
    )


def _line(line: MethodLine) -> dict[str, Any]:
    mark = METHOD_MARKS[line.method]
    return {
        "type": "scatter",
        "mode": "lines+markers",
        "name": label(line.name),
        "x": list(line.peak_bytes),
        "y": list(line.peak_bytes.values()),
        "line": {"color": mark.colour.light, "width": 2},
        "marker": {"color": mark.colour.light, "symbol": mark.symbol, "size": 8},
        "hovertext": [
            lines(label(line.name), f"{count_text(tokens)} tokens: {bytes_text(size)}")
            for tokens, size in line.peak_bytes.items()
        ],
        "hoverinfo": "text",
    }
