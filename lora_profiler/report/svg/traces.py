"""What a figure shows: bars, areas, lines, marks, words, cells, each trace of a figure as SVG; and
the axes, which say where a value lies and have ticks."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from lora_profiler.report.charts.plot import round_places
from lora_profiler.report.svg.marks import (
    Across,
    Definitions,
    edge,
    fill,
    marker_classes,
    number,
    percent,
    stroke,
    tooltip,
    words,
)

_PADDING = 0.05
"""Of the span, at either end of an axis whose range is not given."""
_FORMATS: Mapping[str, str] = {"~g": ",g", ".0%": ".0%", ".1~%": ".1%", "": ",.10g"}
"""The formats of plotly (d3) that the charts ask for, as Python's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """From `first` (left, bottom) to `last`; of a log axis their powers of ten."""

    first: float
    last: float
    is_log: bool
    ticks: tuple[tuple[float, str], ...]
    title: str
    has_grid: bool

    def share(self, value: float) -> float:
        """How far along the axis it lies: 0 at the beginning, 1 at the end, any number outside."""
        place = math.log10(value) if self.is_log else value
        return (place - self.first) / (self.last - self.first)

    def holds(self, value: float) -> bool:
        return -1e-6 <= self.share(value) <= 1 + 1e-6


def axis_of(options: Mapping[str, Any], values: Iterable[float]) -> Axis:
    """What plotly makes of a layout's axis; `values` are drawn, for a range not given."""
    is_log = options.get("type") == "log"
    first, last = options.get("range") or _range(list(values), is_log=is_log)
    if first == last:  # nothing to show
        last = first + 1
    return Axis(
        first=first,
        last=last,
        is_log=is_log,
        ticks=tuple(_ticks(options, first, last, is_log=is_log)),
        title=options.get("title", {}).get("text", ""),
        has_grid=bool(options.get("showgrid")),
    )


def _range(values: list[float], *, is_log: bool) -> tuple[float, float]:
    places = [math.log10(v) for v in values if v > 0] if is_log else values
    low, high = min(places, default=0.0), max(places, default=1.0)
    room = _PADDING * (high - low) or 0.5
    return low - room, high + room


def _ticks(
    options: Mapping[str, Any], first: float, last: float, *, is_log: bool
) -> list[tuple[float, str]]:
    if options.get("showticklabels") is False:
        return []
    if options.get("tickmode") == "array":
        found = zip(options["tickvals"], options["ticktext"], strict=True)
        return [(value, text) for value, text in found]
    low, high = min(first, last), max(first, last)
    places = _powers(low, high) if is_log else round_places(low, high, options.get("nticks", 6))
    form = options.get("tickformat", "")
    texts = (format(place, _FORMATS[form]) for place in places)
    return [
        (place, text.replace(".0%", "%") if form == ".1~%" else text)
        for place, text in zip(places, texts, strict=True)
    ]


def _powers(low: float, high: float) -> list[float]:
    """Powers of ten between two powers of ten; with 2 and 5 times them where they are few."""
    factors = (1, 2, 5) if high - low < 2 else (1,)
    every = 1 if high - low < 10 else math.ceil((high - low) / 10)
    return [
        factor * 10.0**power
        for power in range(math.floor(low), math.ceil(high) + 1, every)
        for factor in factors
        if low - 1e-9 <= power + math.log10(factor) <= high + 1e-9
    ]


BOX = 1000
"""Width of the box that lines and areas are drawn in, which is stretched to the figure's."""
_MOST_STRIPS = 100
"""Of a line without marks that answer when pointed at."""
_BESIDE_PX, _ABOVE_PX = 6, 8
_SIDES: Mapping[str, tuple[Across, int]] = {
    "left": ("end", -1),
    "center": ("middle", 0),
    "right": ("start", 1),
}
Trace = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Canvas:
    """A figure's plane: across in shares of its width, down in pixels."""

    x: Axis
    y: Axis
    height: float
    definitions: Definitions
    stacked: dict[Any, list[float]] = field(default_factory=dict)
    """What areas of a stack have reached, by its name; what bars have, by their place."""

    @property
    def row_px(self) -> float:
        """Pixels of one on the upright axis."""
        return abs(self.height / (self.y.last - self.y.first))

    def down(self, value: float) -> float:
        return self.height * (1 - self.y.share(value))

    def at(self, x: float, y: float) -> tuple[float, float]:
        """(share of the width, pixels from the top)."""
        return self.x.share(x), self.down(y)


def drawn(trace: Trace, canvas: Canvas, layout: Mapping[str, Any]) -> Iterator[str]:
    """The SVG of one trace, below the next one's."""
    if trace["type"] == "bar":
        yield from _bars(trace, canvas, layout.get("bargap", 0.2))
    elif trace["type"] == "cells":
        yield from _cells(trace, canvas)
    elif "stackgroup" in trace:
        yield _area(trace, canvas)
    else:
        yield from _scatter(trace, canvas)


def _tips(trace: Trace) -> Sequence[str]:
    texts = trace.get("hovertext", ()) if trace.get("hoverinfo") == "text" else ()
    return [tooltip(text) for text in texts] or [""] * len(trace["x"])


# --- bars and cells -------------------------------------------------------------------------------


def _bars(trace: Trace, canvas: Canvas, gap: float) -> Iterator[str]:
    """From left to right, after those that are at the same place already."""
    assert trace["orientation"] == "h"
    marker = trace["marker"]
    thick = (1 - gap) * canvas.row_px
    names = [stroke(line["color"])] if (line := marker.get("line")) else []
    paint = canvas.definitions.paint(marker["color"], marker.get("pattern"), *names)
    bars = []
    for value, place, tip in zip(trace["x"], trace["y"], _tips(trace), strict=True):
        begun = canvas.stacked.setdefault(("bar", place), [0.0])
        first, after = canvas.x.share(begun[0]), canvas.x.share(begun[0] + value)
        begun[0] += value
        bars.append(
            f'<rect x="{percent(first)}" y="{number(canvas.down(place) - thick / 2)}"'
            f' width="{percent(after - first)}" height="{number(thick)}">{tip}</rect>'
        )
    yield f"<g {paint}>{''.join(bars)}</g>"
    yield from _whiskers(trace, canvas)


def _whiskers(trace: Trace, canvas: Canvas) -> Iterator[str]:
    error = trace.get("error_x")
    if not error:
        return
    cap = error["width"]
    parts = []
    ends = zip(trace["x"], trace["y"], error["arrayminus"], error["array"], strict=True)
    for value, place, less, more in ends:
        low, high = percent(canvas.x.share(value - less)), percent(canvas.x.share(value + more))
        y = canvas.down(place)
        up, low_cap = number(y - cap), number(y + cap)
        parts.append(f'<line x1="{low}" x2="{high}" y1="{number(y)}" y2="{number(y)}"/>')
        parts += [f'<line x1="{x}" x2="{x}" y1="{up}" y2="{low_cap}"/>' for x in (low, high)]
    width = f'stroke-width="{error["thickness"]:g}"'
    yield f'<g class="{stroke(error["color"])}" {width}>{"".join(parts)}</g>'


def _cells(trace: Trace, canvas: Canvas) -> Iterator[str]:
    font = trace["textfont"]
    tall = canvas.row_px
    for row, y in enumerate(trace["y"]):
        for column, x in enumerate(trace["x"]):
            colour = trace["colours"][row][column]
            if colour is None:
                continue
            left, right = canvas.x.share(x - 0.5), canvas.x.share(x + 0.5)
            top = canvas.down(y) - tall / 2
            yield (
                f'<rect x="{percent(left)}" width="{percent(right - left)}"'
                f' y="{number(top)}" height="{number(tall)}" class="{fill(colour)} cell">'
                f"{tooltip(trace['hovertext'][row][column])}</rect>"
            )
            text = trace["text"][row][column]
            yield words(text, percent((left + right) / 2), top + tall / 2, "m", "middle", font)


# --- areas, lines, marks --------------------------------------------------------------------------


def _area(trace: Trace, canvas: Canvas) -> str:
    """From what the stack has reached to so much more."""
    before = canvas.stacked.setdefault(trace["stackgroup"], [0.0] * len(trace["x"]))
    after = [a + b for a, b in zip(before, trace["y"], strict=True)]
    edges = [
        list(zip(trace["x"], after, strict=True)),
        list(zip(trace["x"], before, strict=True))[::-1],
    ]
    canvas.stacked[trace["stackgroup"]] = after
    path = _path(edges[0] + edges[1], canvas) + "Z"
    pattern = trace.get("fillpattern")
    if pattern is None:
        return _stretched(f'<path d="{path}" class="{fill(trace["fillcolor"])}"/>', canvas)
    clip = canvas.definitions.clip(path, BOX, canvas.height)
    paint = canvas.definitions.paint(trace["fillcolor"], pattern)
    return f'<rect width="100%" height="{number(canvas.height)}" {paint} clip-path="{clip}"/>'


def _path(points: Sequence[tuple[float | None, float | None]], canvas: Canvas) -> str:
    """A line through them in the box; None is a gap. Points on a level between two others, which
    nobody sees, are left out."""
    placed: list[tuple[str, str] | None] = []
    for x, y in points:
        if x is None or y is None:
            placed.append(None)
            continue
        share, down = canvas.at(x, y)
        here = number(BOX * share), number(down)
        before = placed[-2:]
        if len(before) == 2 and all(each and each[1] == here[1] for each in before):
            placed.pop()
        placed.append(here)
    parts = [f"L{','.join(each)}" if each else "M" for each in placed]
    return ("M" + "".join(parts).removeprefix("L")).replace("ML", "M").removesuffix("M")


def _stretched(content: str, canvas: Canvas) -> str:
    """A box as wide as the figure, beyond which nothing shows."""
    height = number(canvas.height)
    return (
        f'<svg viewBox="0 0 {BOX} {height}" preserveAspectRatio="none" width="100%"'
        f' height="{height}">{content}</svg>'
    )


def _scatter(trace: Trace, canvas: Canvas) -> Iterator[str]:
    mode = trace["mode"].split("+")
    points = [
        (x, y, tip, n)
        for n, (x, y, tip) in enumerate(zip(trace["x"], trace["y"], _tips(trace), strict=True))
        if x is not None and y is not None and canvas.x.holds(x) and canvas.y.holds(y)
    ]
    if "lines" in mode and len(trace["x"]) > 1:
        line = trace["line"]
        dash = {"dash": "6 5", "dot": "2 3"}.get(line.get("dash", ""), "")
        path = _path(list(zip(trace["x"], trace["y"], strict=True)), canvas)
        yield _stretched(
            f'<path d="{path}" class="l {stroke(line["color"])}"'
            f' stroke-width="{line["width"]:g}"'
            f"{f' stroke-dasharray={chr(34)}{dash}{chr(34)}' if dash else ''}/>",
            canvas,
        )
    if "markers" in mode:
        yield _marks(trace["marker"], points, canvas)
    elif mode == ["lines"] and any(tip for _, _, tip, _ in points):
        yield _strips(points, canvas)
    if "text" in mode:
        yield from _texts(trace, points, canvas)
    yield from _whiskers(trace, canvas)


def _marks(
    marker: Mapping[str, Any], points: Sequence[tuple[float, float, str, int]], canvas: Canvas
) -> str:
    symbol = canvas.definitions.symbol(marker.get("symbol", "circle"), marker["size"])
    made = []
    for x, y, tip, _ in points:
        share, down = canvas.at(x, y)
        head = f'<use href="#{symbol}" x="{percent(share)}" y="{number(down)}"'
        made.append(f"{head}>{tip}</use>" if tip else f"{head}/>")
    faint = f' opacity="{marker["opacity"]:g}"' if "opacity" in marker else ""
    return f'<g class="{marker_classes(marker)}" {edge(marker)}{faint}>{"".join(made)}</g>'


def _strips(points: Sequence[tuple[float, float, str, int]], canvas: Canvas) -> str:
    """Unseen upright strips around each point; of many around the highest of each stretch."""
    stride = -(-len(points) // _MOST_STRIPS)
    highest = [
        max(points[n : n + stride], key=lambda point: point[1])
        for n in range(0, len(points), stride)
    ]
    shares = [canvas.x.share(x) for x, *_ in highest]
    middles = [(a + b) / 2 for a, b in pairwise(shares)]
    height = number(canvas.height)
    made = (
        f'<rect x="{percent(left)}" width="{percent(right - left)}" height="{height}">{tip}</rect>'
        for (left, right), (_, _, tip, _) in zip(
            pairwise([shares[0], *middles, shares[-1]]), highest, strict=True
        )
    )
    return f'<g opacity="0">{"".join(made)}</g>'


def _texts(
    trace: Trace, points: Sequence[tuple[float, float, str, int]], canvas: Canvas
) -> Iterator[str]:
    places, font = trace["textposition"], trace.get("textfont", {})
    for x, y, _, n in points:
        place = places if isinstance(places, str) else places[n]
        share, down = canvas.at(x, y)
        text = trace["text"][n].strip()
        upright, side = place.split()
        size = trace.get("marker", {}).get("size", 0)
        away = _ABOVE_PX + 0.65 * size
        shift = {"top": -away, "middle": 0.0, "bottom": away}[upright]
        across, sign = _SIDES[side]
        dx = sign * (_BESIDE_PX + size / 2)
        yield words(text, percent(share), down + shift, "m", across, font, dx=dx)
