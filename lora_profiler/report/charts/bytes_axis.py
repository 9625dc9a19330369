"""Axes of bytes: in one binary unit, or in powers of two on a log scale."""

import math
from collections.abc import Sequence
from typing import Any

from lora_profiler.report.charts.figure import Limit, note, values
from lora_profiler.report.charts.labels import label
from lora_profiler.report.charts.ticks import without_zeros
from lora_profiler.report.palette import PAPER, SMALL_PX, WARNING
from lora_profiler.units import byte_unit, bytes_text

ROOM = 1.16
"""How far an axis goes beyond its largest value, for the text at the end of bars."""
Layout = dict[str, Any]
_STEPS = (1, 2, 3, 5, 10)
_MOST_TICKS = 9


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
        ends: dict[str, Any] = {"x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper"}
        side = (
            {"xanchor": "left", "xshift": 4}
            if limit.bytes < largest / 2
            else {"xanchor": "right", "xshift": -4}
        )
        words = note(text, x=at, y=below, yanchor="middle", font=font, **side)
    else:
        ends = {"x0": 0, "x1": 1, "xref": "paper", "y0": at, "y1": at}
        words = note(
            text,
            x=1,
            y=at,
            xref="paper",
            xanchor="right",
            yanchor="bottom",
            font=font,
            bgcolor=PAPER.light,
        )
    return [
        {"type": "line", **ends, "line": {"color": WARNING.light, "width": 1.5, "dash": "dash"}}
    ], [words]


def largest_of(totals: Sequence[int], limit: Limit | None) -> int:
    """The largest number of bytes that a figure shows."""
    return max([*totals, limit.bytes if limit else 0], default=0)
