"""What all figures share: axes without clutter and their ticks, rows of bars, notes, text made safe
and the room that it takes, and how marks are told apart."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lora_profiler._common.messages import printable
from lora_profiler.question.workload import Method
from lora_profiler.report import palette
from lora_profiler.report.palette import Colour, Paint, PointStyle
from lora_profiler.units import byte_unit, bytes_text, short_count_text

Figure = dict[str, Any]
"""{"data": [...], "layout": {...}}: JSON's own types, of the attributes of plotly those that
`report.figures` adapts to a page; the layout's height is that of the plane alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A line across a figure of bytes: what a card has, say."""

    label: str
    bytes: int


def figure(
    data: Sequence[Mapping[str, Any]],
    *,
    height: int,
    x: Mapping[str, Any],
    y: Mapping[str, Any],
    **layout: Any,
) -> Figure:
    """The finished figure, whose plane is `height` pixels high, as wide as where it stands, in the
    light colours, which `report.figures` has plotly draw in the reader's theme."""
    return {"data": list(data), "layout": {"height": height, "xaxis": x, "yaxis": y, **layout}}


def axis(title: str, **options: Any) -> dict[str, Any]:
    return {"title": {"text": title}, **options}


def values(axis_title: str, **changes: Any) -> dict[str, Any]:
    """An axis of numbers, with thin lines across."""
    return axis(axis_title, **{"showgrid": True, "nticks": 8, **changes})


def ticks_at(places: Iterable[float], texts: Iterable[str]) -> dict[str, Any]:
    """Ticks of an axis, a text each."""
    return {"tickmode": "array", "tickvals": list(places), "ticktext": list(texts)}


def rows(
    labels: Sequence[str], positions: Sequence[float], *, below: float = 0.6, **changes: Any
) -> dict[str, Any]:
    """A vertical axis of safe labels at `positions`, from top to bottom. Positions are numbers, so
    that equal labels stay two; the axis goes on `below` the last of them."""
    ends = [max(positions, default=0.0) + below, -0.6]
    return {
        **ticks_at(positions, labels),
        "range": ends,
        "tickfont": {"size": palette.SMALL_PX, "color": palette.INK.light},
        **changes,
    }


def note(text: str, *, x: float, y: float, **changes: Any) -> dict[str, Any]:
    """Safe text at a place of the figure, without an arrow unless `changes` asks for one."""
    faint = {"size": palette.SMALL_PX, "color": palette.FAINT_INK.light}
    return {"text": text, "x": x, "y": y, "showarrow": False, "font": faint, **changes}


def head(text: str, *, y: float) -> dict[str, Any]:
    font = {"size": palette.HEAD_PX, "color": palette.INK.light}
    return note(text, x=0, y=y, xref="paper", xanchor="left", yanchor="middle", font=font)


def point_label(text: str, x: float, y: float, size: float) -> dict[str, Any]:
    """The name of a mark of `size` pixels on log axes. The page finds it a place around the mark
    that has room, those of later marks first, and leaves it out where none has."""
    font = {"size": palette.SMALL_PX, "color": palette.INK.light}
    look = {"borderpad": 0, "borderwidth": 0, "font": font}
    place = {"xanchor": "left", "yanchor": "bottom", "xshift": size / 2 + 5, "yshift": size / 2 + 3}
    at = math.log10(x), math.log10(y)
    return note(label(text), x=at[0], y=at[1], name="beside", **place, **look)


# --- rows of bars under the headings of their groups ----------------------------------------------

_ROW_PX = 28
_HEAD_ROWS = 1.15
"""Height of a heading and the space above it, in rows."""
_HEAD_ABOVE = 0.85
"""How far a heading stands above its first bar, in rows."""


def places(groups: Sequence[str]) -> tuple[list[float], list[tuple[str, float]]]:
    """Where bars and headings stand, from the top; equal neighbours of `groups` share one."""
    positions: list[float] = []
    heads: list[tuple[str, float]] = []
    y, before = 0.0, ""
    for group in groups:
        if group and group != before:
            y += _HEAD_ROWS
            heads.append((group, y - _HEAD_ABOVE))
        before = group
        positions.append(y)
        y += 1
    return positions, heads


def height_px(positions: Sequence[float], extra_rows: float = 0.0) -> int:
    """Pixels of the plane of a figure with bars at these positions."""
    return round(_ROW_PX * (max(positions, default=0.0) + 1.2 + extra_rows))


LONGEST = 44
"""Characters of a label; longer ones lose their middle."""
_ELLIPSIS = "…"


def label(text: str, longest: int = LONGEST) -> str:
    """`text` as plotly shows it word for word: one line, nothing that is a tag or turns the
    direction, at most `longest` long."""
    return shortened(printable(text), longest).replace("&", "&amp;").replace("<", "&lt;")


def lines(*parts: str) -> str:
    """Texts that are safe already, under each other."""
    return "<br>".join(part for part in parts if part)


def shortened(text: str, longest: int = LONGEST) -> str:
    """Beginning and end of a text that is too long, since names often differ at their end."""
    if len(text) <= longest:
        return text
    end = (longest - 1) // 2
    return text[: longest - 1 - end] + _ELLIPSIS + text[len(text) - end :]


def hatched(paint: Paint) -> dict[str, Any]:
    """The marker of bars: colour and hatch, thinly parted from their neighbours."""
    edge = {"width": 1, "color": palette.PAPER.light}
    marker = {"color": paint.colour.light, "line": edge}
    return {**marker, "pattern": hatch(paint)} if paint.hatch else marker


_DIAGONAL = ("/", "\\", "x")
"""Hatches whose tile plotly makes larger than their size, by the root of 2."""


def hatch(paint: Paint) -> dict[str, Any]:
    """Thin strokes of paper over a colour, in tiles of 8 pixels: browsers print other ones as
    large images."""
    look = {"shape": paint.hatch, "bgcolor": paint.colour.light, "fgcolor": palette.PAPER.light}
    return {**look, "size": 8 / math.sqrt(2) if paint.hatch in _DIAGONAL else 8}


def dot_mark(method: Method, size: int, *, counted: bool) -> dict[str, Any]:
    shown = marker(palette.METHOD_MARKS[method], size)
    if not counted:
        return {**shown, "symbol": f"{shown['symbol']}-open", "line": {"width": 1.5}}
    return {**shown, "opacity": 0.8, "line": {"width": 0.5, "color": palette.PAPER.light}}


def marker(mark: PointStyle, size: int) -> dict[str, Any]:
    return {"color": mark.colour.light, "symbol": mark.symbol, "size": size}


def scatter(
    name: str,
    x: Iterable[float | None],
    y: Iterable[float | None],
    hover: Iterable[str] | None = None,
    *,
    mode: str = "markers",
    **more: Any,
) -> dict[str, Any]:
    """Marks, lines or words at places; without a name it is not in the legend, and without `hover`
    it says nothing when pointed at."""
    named = {"name": name} if name else {"showlegend": False}
    trace = {"type": "scatter", "mode": mode, "x": list(x), "y": list(y), **named, **told(hover)}
    return {**trace, **more}


def level_bars(
    name: str,
    x: Sequence[float],
    y: Sequence[float],
    hover: Iterable[str],
    marker: Any,
    thick: float = 0.75,
) -> dict[str, Any]:
    """Bars from left to right, `thick` in rows, or one part of each of several stacked ones."""
    trace = {"type": "bar", "orientation": "h", "name": name, "x": list(x), "y": list(y)}
    return {**trace, **told(hover), "marker": marker, "width": thick}


def told(hover: Iterable[str] | None) -> dict[str, Any]:
    if hover is None:
        return {"hoverinfo": "skip"}
    return {"hovertext": list(hover), "hoverinfo": "text"}


def at_the_end(x: Sequence[float], y: Sequence[float], texts: Sequence[str]) -> dict[str, Any]:
    """What is written behind the end of each bar, beside marks that are not seen."""
    font = {"size": palette.BODY_PX, "color": palette.INK.light}
    words = {"text": list(texts), "textposition": "middle right", "textfont": font}
    unseen = {"size": 12, "opacity": 0, "color": palette.INK.light}
    return scatter("", x, y, mode="markers+text", marker=unseen, **words)


def upright(at: float, colour: Colour, **look: Any) -> dict[str, Any]:
    ends = {"x0": at, "x1": at, "y0": 0, "y1": 1, "yref": "paper"}
    return {"type": "line", **ends, "line": {"color": colour.light, "width": 1, **look}}


def across(at: float, colour: Colour, **look: Any) -> dict[str, Any]:
    ends = {"y0": at, "y1": at, "x0": 0, "x1": 1, "xref": "paper"}
    return {"type": "line", **ends, "line": {"color": colour.light, "width": 1, **look}}


def below(shape: Mapping[str, Any]) -> dict[str, Any]:
    return {**shape, "layer": "below"}


def whisker(below: Sequence[float], above: Sequence[float]) -> dict[str, Any]:
    """How far an interval reaches to both sides of each value."""
    return {
        "thickness": 1.2,
        "width": 4,
        "color": palette.FAINT_INK.light,
        "array": list(above),
        "arrayminus": list(below),
    }


# --- axes and their ticks, written as everywhere else: plotly's own write 100k -------------------

ROOM = 1.16
"""How far an axis goes beyond its largest value, for the text at the end of bars."""
_STEPS = (1, 2, 3, 5, 10)
_MOST_TICKS = 9
_MOST_ROUND_TICKS = 8


def bytes_axis(
    largest: int, what: str = "memory", room: float = ROOM
) -> tuple[dict[str, Any], int]:
    """(axis, bytes in its unit): from 0 to `room` times `largest`; values are bytes / unit."""
    unit, size = byte_unit(largest)
    return values(f"{what}, {unit}", range=[0, room * max(largest, 1) / size]), size


def log_bytes_axis(smallest: int, largest: int, what: str) -> dict[str, Any]:
    """A log axis of plain bytes from below `smallest` to above `largest`, both above 0, with ticks
    at powers of two."""
    low, high = math.log2(smallest) - 0.5, math.log2(largest) + 0.5
    if high - low < 3:
        low, high = (low + high) / 2 - 1.5, (low + high) / 2 + 1.5
    step = next((s for s in _STEPS if (high - low) / s <= _MOST_TICKS), 20)
    powers = range(math.ceil(low / step) * step, math.floor(high) + 1, step)
    sizes = [2**power for power in powers if power >= 0]
    scale = math.log10(2)
    return values(
        what,
        type="log",
        range=[low * scale, high * scale],
        **ticks_at(sizes, [without_zeros(bytes_text(size)) for size in sizes]),
    )


def limit_line(
    limit: Limit | None,
    size: int,
    largest: int = 0,
    *,
    below: float | None = None,
    is_log: bool = False,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(shapes, annotations) of a limit's line, none without one.

    Where bytes go from left to right, the line is upright, and `below` is the place on the other
    axis where its name has room, on the side of the line where more is left up to `largest` bytes.
    """
    if limit is None:
        return [], []
    at, text = limit.bytes / size, f"{label(limit.label)}: {bytes_text(limit.bytes)}"
    look = {"width": 1.5, "dash": "dash"}
    font = {"color": palette.WARNING.light, "size": palette.SMALL_PX}
    if below is None:
        place: dict[str, Any] = {"xref": "paper", "xanchor": "right", "yanchor": "bottom"}
        y = math.log10(at) if is_log else at  # as plotly takes notes, but not lines
        words = note(text, x=1, y=y, **place, font=font, bgcolor=palette.PAPER.light)
        return [across(at, palette.WARNING, **look)], [words]
    anchor, shift = ("left", 4) if limit.bytes < largest / 2 else ("right", -4)
    side: dict[str, Any] = {"xanchor": anchor, "xshift": shift, "yanchor": "middle"}
    return [upright(at, palette.WARNING, **look)], [note(text, x=at, y=below, font=font, **side)]


_OUT_OF_SIGHT = 20


def in_sight(limit: Limit | None, totals: Sequence[int]) -> Limit | None:
    """The limit, unless it is so many times what is shown that beside it nothing would be seen."""
    is_near = limit and limit.bytes <= _OUT_OF_SIGHT * max(totals, default=0)
    return limit if is_near else None


def largest_of(totals: Sequence[int], limit: Limit | None) -> int:
    return max([*totals, limit.bytes if limit else 0], default=0)


def ticks(low: float, high: float, text: Callable[[float], str]) -> dict[str, Any]:
    places = round_places(low, high, _MOST_ROUND_TICKS)
    return ticks_at(places, map(text, places))


def round_places(low: float, high: float, most: int) -> list[float]:
    """About `most` round numbers from `low` to `high`, which is more."""
    rough = (high - low) / most
    power = 10 ** math.floor(math.log10(rough))
    step = next(nice * power for nice in (1, 2, 5, 10) if nice * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def powers_of_ten(smallest: float, largest: float, text: Callable[[int], str]) -> dict[str, Any]:
    """At every power of ten of a log axis between two numbers above 0."""
    places = [
        10**power
        for power in range(math.ceil(math.log10(smallest)), math.floor(math.log10(largest)) + 1)
        if power >= 0
    ]
    return ticks_at(places, map(text, places))


def short_count(count: float) -> str:
    """'10 M', '100 K' of a whole number; nothing of one between, as short axes have."""
    return without_zeros(short_count_text(int(count))) if count == int(count) else ""


def without_zeros(text: str) -> str:
    return text.replace(".00 ", " ").replace(".0 ", " ")
