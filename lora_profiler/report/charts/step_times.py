"""The raw times of a run's steps, with their median."""

from collections.abc import Sequence
from typing import Any

from lora_profiler.records.statistics import median_interval
from lora_profiler.report.charts.figure import Figure, figure, note, title, values
from lora_profiler.report.palette import ACCENT, FAINT_INK, PANEL
from lora_profiler.units import seconds_text

_HEIGHT_PX = 300


def step_times(warmup: Sequence[float], timed: Sequence[float]) -> Figure:
    """Seconds of each step in order, a dot each: warm-up hollow, timed filled; the median of the
    timed ones with its 95 % interval across.

    Empty where nothing was timed.
    """
    count = len(warmup) + len(timed)
    unit, scale = ("s", 1.0) if max((*warmup, *timed), default=0.0) >= 1 else ("ms", 1000.0)
    data = [
        _dots("warm-up", warmup, 1, scale, "circle-open"),
        _dots("timed", timed, 1 + len(warmup), scale, "circle"),
    ]
    shapes, notes = _median(timed, scale) if timed else ([], [])
    return figure(
        [trace for trace in data if trace["x"]],
        height=_HEIGHT_PX,
        x={"title": title("step"), "range": [0.3, count + 0.7], "nticks": min(12, count + 1)},
        y=values(f"time of a step, {unit}", rangemode="tozero"),
        shapes=shapes,
        annotations=notes,
    )


def _dots(
    name: str, seconds: Sequence[float], first: int, scale: float, symbol: str
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "markers",
        "name": name,
        "x": list(range(first, first + len(seconds))),
        "y": [scale * s for s in seconds],
        "hovertext": [
            f"step {first + i}, {name}: {seconds_text(s)}" for i, s in enumerate(seconds)
        ],
        "hoverinfo": "text",
        "marker": {"color": ACCENT.light, "symbol": symbol, "size": 7},
    }


def _median(
    timed: Sequence[float], scale: float
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    low, middle, high = (scale * s for s in median_interval(timed))
    along = {"x0": 0, "x1": 1, "xref": "paper", "layer": "below"}
    band = {
        "type": "rect",
        **along,
        "y0": low,
        "y1": high,
        "line": {"width": 0},
        "fillcolor": PANEL.light,
    }
    line = {
        "type": "line",
        **along,
        "y0": middle,
        "y1": middle,
        "line": {"color": FAINT_INK.light, "width": 1, "dash": "dash"},
    }
    low_text, middle_text, high_text = (
        seconds_text(end / scale, high / scale) for end in (low, middle, high)
    )
    text = f"median {middle_text}, 95 % interval {low_text} to {high_text}"
    return [band, line], [
        note(text, x=1, xref="paper", xanchor="right", y=1, yref="paper", yanchor="bottom")
    ]
