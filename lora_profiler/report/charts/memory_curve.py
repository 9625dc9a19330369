"""Memory over one step: live bytes stacked by category, its phases, and the peak."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from lora_profiler.prediction import CATEGORIES, Category, CurvePoint
from lora_profiler.report.charts.axes import bytes_axis, largest_of, limit_line
from lora_profiler.report.charts.figure import Figure, Limit, figure, note, title
from lora_profiler.report.charts.labels import label, lines
from lora_profiler.report.charts.marks import hatch
from lora_profiler.report.labels import CATEGORY_LABELS
from lora_profiler.report.measured.run_labels import PHASE_CURVE
from lora_profiler.report.palette import BODY_PX, CATEGORY_PAINTS, INK, LINE, PANEL, PAPER
from lora_profiler.units import bytes_text

HEIGHT_PX = 420
Band = tuple[str, float, float]
"""(a part of the step, where it begins, where it ends) along the axis."""
_LETTER = 0.014
"""Width of a letter as a share of the figure's, at its narrowest: what decides which phases have
room for their name."""


def memory_curve(points: Sequence[CurvePoint], *, limit: Limit | None = None) -> Figure:
    """Areas from the first to the last of `points`, which are in order of time and not of equal
    lengths of it. Empty without any.

    Phases are shaded in turn and named; the largest point is marked with its bytes and what ran.
    """
    axis, size = bytes_axis(largest_of([point.total_bytes for point in points], limit), room=1.3)
    bands = _bands(points)
    places = [float(at) for at in range(len(points))]
    shapes, notes = limit_line(limit, size)
    words = [*names(bands), *([peak(points, places, size)] if points else [])]
    return figure(
        [*areas(points, places, size), outline(points, places, size)],
        height=HEIGHT_PX,
        x={
            "title": title("one step, in order"),
            "range": [-0.5, max(len(points), 1) - 0.5],
            "showticklabels": False,
        },
        y=axis,
        hovermode="x",
        shapes=[*shades(bands), *shapes],
        annotations=[*words, *notes],
    )


def _bands(points: Sequence[CurvePoint]) -> list[Band]:
    bands = []
    at = 0
    for phase, members in groupby(point.phase for point in points):
        count = len(list(members))
        bands.append((PHASE_CURVE[phase], at - 0.5, at + count - 0.5))
        at += count
    return bands


def shades(bands: Sequence[Band]) -> list[dict[str, Any]]:
    """Bands in turn light and shaded, behind everything."""
    return [
        {
            "type": "rect",
            "x0": first,
            "x1": after,
            "y0": 0,
            "y1": 1,
            "yref": "paper",
            "line": {"width": 1, "color": LINE.light},
            "fillcolor": (PANEL if number % 2 else PAPER).light,
            "layer": "below",
        }
        for number, (_, first, after) in enumerate(bands)
    ]


def names(bands: Sequence[Band], letter: float = _LETTER) -> Iterator[dict[str, Any]]:
    """The names of parts over their bands; a name that would run into the one before hangs in a
    second line, or is left out. `letter` is the width of a letter as a share of the figure's."""
    if not bands:
        return
    first_x, last_x = bands[0][1], bands[-1][2]
    count = last_x - first_x
    free = [first_x, first_x]
    for name, first, after in bands:
        half = count * letter * len(name) / 2
        middle = max(first_x + half, min((first + after) / 2, last_x - half))
        line = next((number for number, begin in enumerate(free) if middle - half >= begin), None)
        if line is not None:
            free[line] = middle + half + count * letter
            yield note(name, x=middle, y=1 - 0.06 * line, yref="paper", yanchor="top")


def areas(
    points: Sequence[CurvePoint], places: Sequence[float], size: int
) -> Iterator[dict[str, Any]]:
    """An area for each category, stacked; `places` are those of the points along the axis, `size`
    the bytes of the unit."""
    for category in _held(points):
        paint = CATEGORY_PAINTS[category]
        area: dict[str, Any] = {
            "type": "scatter",
            "mode": "lines",
            "name": CATEGORY_LABELS[category],
            "x": list(places),
            "y": [max(point.bytes.get(category, 0), 0) / size for point in points],
            "stackgroup": "memory",
            "fillcolor": paint.colour.light,
            "line": {"width": 0.5, "color": PAPER.light},
            "hoverinfo": "skip",
        }
        if paint.hatch:
            area["fillpattern"] = hatch(paint)
        yield area


def _held(points: Sequence[CurvePoint]) -> list[Category]:
    return [
        category
        for category in CATEGORIES
        if any(point.bytes.get(category, 0) > 0 for point in points)
    ]


def outline(points: Sequence[CurvePoint], places: Sequence[float], size: int) -> dict[str, Any]:
    """The sum of the areas, which also answers when pointed at."""
    return {
        "type": "scatter",
        "mode": "lines" if len(points) > 40 else "lines+markers",
        "x": list(places),
        "y": [point.total_bytes / size for point in points],
        "line": {"color": INK.light, "width": 1.2},
        "marker": {"color": INK.light, "size": 5},
        "hovertext": [_hover(point) for point in points],
        "hoverinfo": "text",
        "showlegend": False,
    }


def _hover(point: CurvePoint) -> str:
    parts = [
        f"{CATEGORY_LABELS[c]} {bytes_text(point.bytes[c])}"
        for c in reversed(CATEGORIES)
        if point.bytes.get(c)
    ]
    where = PHASE_CURVE[point.phase] + (f", {label(point.module)}" if point.module else "")
    return lines(where, f"<b>{bytes_text(point.total_bytes)}</b>", *parts)


def peak(points: Sequence[CurvePoint], places: Sequence[float], size: int) -> dict[str, Any]:
    """The largest point, with its bytes and what ran."""
    at = max(range(len(points)), key=lambda i: points[i].total_bytes)
    point, share = points[at], places[at] / max(places[-1], 1)
    where = f", {label(point.module, 36)}" if point.module else f", {PHASE_CURVE[point.phase]}"
    anchor = "left" if share < 0.25 else "right" if share > 0.75 else "center"
    return note(
        f"peak {bytes_text(point.total_bytes)}{where}",
        x=places[at],
        y=point.total_bytes / size,
        showarrow=True,
        arrowhead=6,
        arrowsize=1,
        arrowwidth=1,
        arrowcolor=INK.light,
        ax=0,
        ay=-22,
        xanchor=anchor,
        bgcolor=PAPER.light,
        borderpad=2,
        font={"size": BODY_PX, "color": INK.light},
    )
