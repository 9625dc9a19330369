"""Axes and their ticks: of bytes in one binary unit or in powers of two, of numbers at round
places. They are written as everywhere else; plotly's own write 100k, and another minus."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from lora_profiler.report.charts.figure import Limit, across, label, note, upright, values
from lora_profiler.report.palette import PAPER, SMALL_PX, WARNING
from lora_profiler.units import byte_unit, bytes_text, short_count_text

ROOM = 1.16
"""How far an axis goes beyond its largest value, for the text at the end of bars."""
Layout = dict[str, Any]
_STEPS = (1, 2, 3, 5, 10)
_MOST_TICKS = 9
_MOST_ROUND_TICKS = 8


def bytes_axis(
    largest: int, what: str = "memory", room: float = ROOM
) -> tuple[dict[str, Any], int]:
    """(axis, bytes in its unit): from 0 to `room` times `largest` bytes. Values are drawn as bytes
    / unit."""
    unit, size = byte_unit(largest)
    return values(f"{what}, {unit}", range=[0, room * max(largest, 1) / size]), size


def log_bytes_axis(smallest: int, largest: int, what: str, **changes: Any) -> dict[str, Any]:
    """A log axis of plain bytes from below `smallest` to above `largest`, both above 0, with ticks
    at powers of two."""
    low, high = math.log2(smallest) - 0.5, math.log2(largest) + 0.5
    if high - low < 3:
        low, high = (low + high) / 2 - 1.5, (low + high) / 2 + 1.5
    step = next((s for s in _STEPS if (high - low) / s <= _MOST_TICKS), 20)
    powers = range(math.ceil(low / step) * step, math.floor(high) + 1, step)
    scale = math.log10(2)
    return values(
        what,
        type="log",
        range=[low * scale, high * scale],
        tickmode="array",
        tickvals=[2**p for p in powers if p >= 0],
        ticktext=[without_zeros(bytes_text(2**p)) for p in powers if p >= 0],
        **changes,
    )


def limit_line(
    limit: Limit | None, size: int, largest: int = 0, *, below: float | None = None
) -> tuple[list[Layout], list[Layout]]:
    """(shapes, annotations) of a limit's line, none without one.

    Where bytes go from left to right, the line is upright, and `below` is the place on the other
    axis where its name has room, on the side of the line where more is left up to `largest` bytes.
    """
    if limit is None:
        return [], []
    at, text = limit.bytes / size, f"{label(limit.label)}: {bytes_text(limit.bytes)}"
    font = {"color": WARNING.light, "size": SMALL_PX}
    if below is not None:
        line = upright(at, WARNING, width=1.5, dash="dash")
        side: dict[str, Any] = (
            {"xanchor": "left", "xshift": 4}
            if limit.bytes < largest / 2
            else {"xanchor": "right", "xshift": -4}
        )
        words = note(text, x=at, y=below, yanchor="middle", font=font, **side)
    else:
        line = across(at, WARNING, width=1.5, dash="dash")
        place: dict[str, Any] = {
            "x": 1,
            "y": at,
            "xref": "paper",
            "xanchor": "right",
            "yanchor": "bottom",
        }
        words = note(text, **place, font=font, bgcolor=PAPER.light)
    return [line], [words]


def largest_of(totals: Sequence[int], limit: Limit | None) -> int:
    """The largest number of bytes that a figure shows."""
    return max([*totals, limit.bytes if limit else 0], default=0)


# --- ticks ----------------------------------------------------------------------------------------


def ticks(low: float, high: float, text: Callable[[float], str]) -> dict[str, Any]:
    """At round numbers from `low` to `high`, which is more."""
    rough = (high - low) / _MOST_ROUND_TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = next(nice * power for nice in (1, 2, 5, 10) if nice * power >= rough * (1 - 1e-9))
    places = [
        number * step
        for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)
    ]
    return {"tickmode": "array", "tickvals": places, "ticktext": [text(place) for place in places]}


def powers_of_ten(smallest: float, largest: float, text: Callable[[int], str]) -> dict[str, Any]:
    """At every power of ten of a log axis between two numbers above 0."""
    places = [
        10**power
        for power in range(math.ceil(math.log10(smallest)), math.floor(math.log10(largest)) + 1)
        if power >= 0
    ]
    return {"tickmode": "array", "tickvals": places, "ticktext": [text(place) for place in places]}


def short_count(count: float) -> str:
    """'10 M', '100 K' of a whole number."""
    return without_zeros(short_count_text(round(count)))


def without_zeros(text: str) -> str:
    return text.replace(".00 ", " ").replace(".0 ", " ")
