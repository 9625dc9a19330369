"""A figure of `report.charts` as HTML and SVG.

The plane is an `svg` as wide as its place less two margins, with what stands outside shown too.
Across, everything is placed in per cent; lines and areas lie in a box that is stretched. So the
words keep their size however wide the figure is.
"""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from textwrap import wrap
from typing import Any

from lora_profiler._common.printable import printable
from lora_profiler.report.charts.plot import Figure, around_px, shortened, width_px
from lora_profiler.report.palette import BODY_PX, FAINT_INK, HEAD_PX, LINE, SMALL_PX
from lora_profiler.report.svg.marks import (
    Across,
    Definitions,
    Upright,
    edge,
    fill,
    lines_of,
    marker_classes,
    number,
    percent,
    plain,
    stroke,
    symbol_path,
    words,
)
from lora_profiler.report.svg.traces import Axis, Canvas, axis_of, drawn

_LEAST_PX = 60
_ABOVE_GAP_PX = 14
"""Between bars, for a line of words."""
_CELL_PX = 70
"""A cell with words in it is no narrower: then its figure scrolls."""
_RIGHT_PX = 16


def figure_html(figure: Figure, name: str, says: str) -> str:
    """The figure with its legend. `name` begins the ids in it; `says` is what a screen reader is
    told in place of the picture.

    Raises KeyError for what a chart asks of plotly and this does not draw.
    """
    data, layout = figure["data"], figure["layout"]
    told = escape(printable(says))
    entries = sum(bool(t.get("name")) and t.get("showlegend", True) for t in data)
    canvas = Canvas(
        x=_axis(layout["xaxis"], data, "x"),
        y=_axis(layout["yaxis"], data, "y"),
        height=max(layout["height"] - around_px(entries), _LEAST_PX),
        definitions=Definitions(name),
    )
    angle = layout["xaxis"].get("tickangle", 0)
    is_bars = any(trace["type"] == "bar" for trace in data)
    gap = canvas.row_px * layout.get("bargap", 0.2)
    labels, left, narrow_left = beside(
        canvas, layout["yaxis"], above=is_bars and gap >= _ABOVE_GAP_PX
    )
    if angle and canvas.x.ticks:  # the first of them leans to the left
        lean = 0.75 * width_px(plain(canvas.x.ticks[0][1]), SMALL_PX)
        left, narrow_left = max(left, lean), max(narrow_left, lean)
    ticks, below_px = below(canvas, angle, left)
    right, narrow_right = _right(data, canvas, left, narrow_left)
    shapes, words = layout.get("shapes", []), layout.get("annotations", [])
    parts = [
        *(shape(s, canvas) for s in shapes if s.get("layer") == "below"),
        grid(canvas),
        *(part for trace in data for part in drawn(trace, canvas, layout)),
        *(shape(s, canvas) for s in shapes if s.get("layer") != "below"),
        ticks,
        labels,
        *notes(words, canvas, left, narrow_left),
    ]
    keys = legend(data, canvas.definitions)
    margins = {"l": left, "r": right, "ln": narrow_left, "rn": narrow_right, "b": below_px}
    style = "".join(f"--{key}:{round(px)}px;" for key, px in margins.items())
    least = _CELL_PX * len(data[0]["x"]) if data and data[0]["type"] == "cells" else 0
    style += f"--least:{least}px;" if least else ""
    scrolls = f' class="lp-scroll" role="region" tabindex="0" aria-label="{told}"'
    return (
        f'<div class="lp-drawing">{keys}<div{scrolls if least else ""}>'
        f'<svg class="lp-plane" role="img" aria-label="{told}" height="{canvas.height:g}"'
        f' style="{style}">{canvas.definitions.svg()}{"".join(parts)}</svg></div></div>'
    )


def _axis(options: Mapping[str, Any], data: list[Mapping[str, Any]], name: str) -> Axis:
    return axis_of(options, [v for trace in data for v in trace[name] if v is not None])


def _right(
    data: list[Mapping[str, Any]], canvas: Canvas, left: float, narrow_left: float
) -> tuple[float, float]:
    """Pixels right of the plane for words that run out of it, where the figure is wide and where it
    is narrow: with less they would run out of the figure."""
    found = [float(_RIGHT_PX), float(_RIGHT_PX)]
    for trace in data:
        if trace["type"] != "scatter" or trace.get("textposition") != "middle right":
            continue
        for x, text in zip(trace["x"], trace["text"], strict=True):
            taken = width_px(plain(text), BODY_PX) + 10
            share = max(canvas.x.share(x), 0.1)
            for n, room in enumerate((WIDE_PX - left, NARROW_PX - narrow_left)):
                # the plane is `room` less the margin, and the words begin at `share` of it
                found[n] = max(found[n], (taken - (1 - share) * room) / share)
    return found[0], found[1]


# --- around and across what is shown --------------------------------------------------------------

NARROW_PX, WIDE_PX = 340, 480
"""Width of a figure on a phone, and from where on it counts as wide (`figures.css`)."""
PLANE_PX = 240
"""Of a plane on a phone: what has no room there is shown where it is wide alone."""
_TICK_PX, _TITLE_PX, _LABEL_PX = 8, 20, 8
_LETTER_PX, _LINE_PX = 6.5, 15
"""Of an upright title: a letter, and every line after the first."""
_LINE_LETTERS = 36
"""Of a line as wide as a plane on a phone."""
_ABOVE_LETTERS = 40
"""Of a label above its row: of a longer one the first line alone is shown."""
_LETTERS = 17
"""Of a label that has half of a narrow plane."""
_FAINT = {"size": SMALL_PX, "color": FAINT_INK.light}
_ACROSS: Mapping[str, Across] = {"left": "start", "center": "middle", "right": "end"}
_UPRIGHT: Mapping[str, Upright] = {"top": "t", "middle": "m", "bottom": "b"}


# --- axes -----------------------------------------------------------------------------------------


def grid(canvas: Canvas) -> str:
    """Thin lines at every tick."""
    height = number(canvas.height)
    across = [percent(canvas.x.share(v)) for v, _ in canvas.x.ticks if canvas.x.holds(v)]
    down = [number(canvas.down(v)) for v, _ in canvas.y.ticks if canvas.y.holds(v)]
    lines = [f'<line x1="{x}" x2="{x}" y2="{height}"/>' for x in across] * canvas.x.has_grid
    lines += [f'<line x2="100%" y1="{y}" y2="{y}"/>' for y in down] * canvas.y.has_grid
    return f'<g class="{stroke(LINE.light)}">{"".join(lines)}</g>' if lines else ""


def below(canvas: Canvas, angle: float, left_px: float) -> tuple[str, float]:
    """(ticks and title of the level axis, their pixels); `left_px` stand left of the plane."""
    shown = [(v, text) for v, text in canvas.x.ticks if canvas.x.holds(v)]
    widths = [width_px(plain(text), SMALL_PX) for _, text in shown]
    on_phones, on_paper = _every(widths, angle, PLANE_PX), _every(widths, angle, WIDE_PX - left_px)
    parts = []
    for n, (value, text) in enumerate(shown):
        at = percent(canvas.x.share(value))
        names = "wide" if n % on_phones else "mid" if n % on_paper else ""
        y = canvas.height + _TICK_PX
        if angle:
            turned = words(text, "0", 0, "m", "end", _FAINT, names=names)
            parts.append(
                f'<svg x="{at}" y="{number(y)}" overflow="visible">'
                f'<g transform="rotate({angle:g})">{turned}</g></svg>'
            )
        else:
            parts.append(words(text, at, y, "t", "middle", _FAINT, names=names))
    taken = _TICK_PX + (0.75 * max(widths, default=0) if angle else SMALL_PX * 1.3) if shown else 4
    if canvas.x.title:
        y = canvas.height + taken + 4
        short = "<br>".join(wrap(canvas.x.title, _LINE_LETTERS))
        for text, names in ((canvas.x.title, "wide"), (short, "narrow")):
            parts.append(words(text, "50%", y, "t", "middle", _FAINT, names=names))
        taken += _TITLE_PX + (SMALL_PX if "<br>" in short else 0)
    return "".join(parts), taken


def _every(widths: Sequence[float], angle: float, plane_px: float) -> int:
    """Of how many ticks one is shown in a plane so wide."""
    room = len(widths) * (SMALL_PX + 2 if angle else max(widths, default=0) + 10)
    return max(1, -(-round(room) // round(plane_px)))


def beside(canvas: Canvas, rows: Mapping[str, Any], *, above: bool) -> tuple[str, float, float]:
    """(ticks and title of the upright axis, pixels that they take, pixels where it is narrow).

    Of labels that leave no room where it is narrow the end is shown there, or all `above` the row.
    """
    font = rows.get("tickfont", _FAINT)
    shown = [(v, text) for v, text in canvas.y.ticks if canvas.y.holds(v)]
    each = (plain(line) for _, text in shown for line in text.split("<br>"))
    widest = max((width_px(line, SMALL_PX) for line in each), default=0.0)
    lines = wrap(canvas.y.title, max(10, round(canvas.height / _LETTER_PX)))
    title = _TITLE_PX + _LINE_PX * (len(lines) - 1) if lines else 0
    is_long = widest > PLANE_PX / 2
    parts = [
        words(text, "0", canvas.down(v), "m", "end", font, dx=-_LABEL_PX, names="wide" * is_long)
        for v, text in shown
    ]
    narrow = widest
    if is_long:
        narrow = 0.0 if above else PLANE_PX / 2
        for value, text in shown:
            y = canvas.down(value)
            if above:
                one = plain(text)
                if len(one) > _ABOVE_LETTERS:
                    one = shortened(lines_of(text)[0], _ABOVE_LETTERS)
                one = escape(one, quote=False)
                parts.append(
                    words(one, "0", y - canvas.row_px / 2 - 4, "t", "start", font, names="narrow")
                )
            else:
                # of a label as much of the end as there is room for: names of layers differ there
                long = [(line, len(line) > _LETTERS) for line in lines_of(text)]
                cut = (f"…{line[1 - _LETTERS :]}" if is_cut else line for line, is_cut in long)
                ends = "<br>".join(escape(line, quote=False) for line in cut)
                parts.append(words(ends, "0", y, "m", "end", font, dx=-_LABEL_PX, names="narrow"))
    if lines:
        for left, names in ((widest, "wide"), (narrow, "narrow")):
            middle = number(canvas.height / 2)
            parts.append(
                f'<g transform="translate({number(-left - _LABEL_PX - 6)} {middle}) rotate(-90)">'
                + words("<br>".join(lines), "0", 0, "b", "middle", _FAINT, names=names)
                + "</g>"
            )
    around = _LABEL_PX + 2
    return "".join(parts), widest + title + around, (narrow + title + around if narrow else 4.0)


# --- lines, bands and notes -----------------------------------------------------------------------


def shape(it: Mapping[str, Any], canvas: Canvas) -> str:
    """A line or a box of a layout."""
    x = [it[n] if it.get("xref") == "paper" else canvas.x.share(it[n]) for n in ("x0", "x1")]
    y = [
        canvas.height * (1 - it[n]) if it.get("yref") == "paper" else canvas.down(it[n])
        for n in ("y0", "y1")
    ]
    line = it.get("line", {})
    width, colour = line.get("width", 2), line.get("color")
    drawn = f'stroke-width="{width:g}"' + (' stroke-dasharray="6 5"' if "dash" in line else "")
    names = stroke(colour) if colour and width else ""
    if it["type"] == "line":
        return (
            f'<line x1="{percent(x[0])}" x2="{percent(x[1])}" y1="{number(y[0])}"'
            f' y2="{number(y[1])}" class="{names}" {drawn}/>'
        )
    inside = fill(it["fillcolor"]) if it.get("fillcolor") else "n"
    return (
        f'<rect x="{percent(min(x))}" width="{percent(abs(x[1] - x[0]))}" y="{number(min(y))}"'
        f' height="{number(abs(y[1] - y[0]))}" class="{inside} {names}" {drawn}/>'
    )


def notes(
    several: Sequence[Mapping[str, Any]], canvas: Canvas, left_px: float, narrow_left_px: float
) -> Iterator[str]:
    """Words at places, with a dot and a thin line where they point at one. What stands left of the
    plane takes `left_px`, on a phone `narrow_left_px`. There a word that would run into an earlier
    one is left out."""
    taken: list[tuple[float, float, float]] = []
    for it in several:
        share = it["x"] if it.get("xref") == "paper" else canvas.x.share(it["x"])
        y = canvas.height * (1 - it["y"]) if it.get("yref") == "paper" else canvas.down(it["y"])
        across = _ACROSS[it.get("xanchor", "center")]
        upright = _UPRIGHT[it.get("yanchor", "middle")]
        font = {**_FAINT, **it.get("font", {})}
        over = "over" if "bgcolor" in it else ""
        at, text = percent(share), it["text"]
        if it.get("showarrow"):
            end = y + it["ay"]
            yield (
                f'<line x1="{at}" x2="{at}" y1="{number(y)}" y2="{number(end)}"'
                f' class="{stroke(it["arrowcolor"])}"/>'
                f'<circle cx="{at}" cy="{number(y)}" r="3" class="{fill(it["arrowcolor"])}"/>'
            )
            y, upright = end, "b"
        if font["size"] == HEAD_PX:
            for most, names, dx in (  # from the figure's edge on, as long as there is room
                (44, "narrow", 2 - narrow_left_px),
                (62, "wide less", 2 - left_px),
                (100, "mid", 2 - left_px),
            ):
                short = escape(shortened(plain(text), most), quote=False)
                yield words(short, at, y, upright, "start", font, dx=dx, names=names)
            continue
        dx, width = float(it.get("xshift", 0)), width_px(plain(text), font["size"])
        begin = share * PLANE_PX - {"start": 0, "middle": width / 2, "end": width}[across]
        is_inside = begin >= 0 and begin + width <= PLANE_PX
        is_free = all(
            abs(y - there) > font["size"] or begin > last or begin + width < first
            for there, first, last in taken
        )
        taken.append((y, begin, begin + width))
        names = over if is_inside and is_free else f"{over} wide".strip()
        yield words(text, at, y, upright, across, font, dx=dx, names=names)
        if not is_inside and is_free:
            parts = wrap(plain(text), _LINE_LETTERS)
            short = "<br>".join(escape(part, quote=False) for part in parts)
            names = f"{over} narrow".strip()
            end_at: tuple[str, Across] = ("0", "start") if begin < 0 else ("100%", "end")
            yield words(short, end_at[0], y, upright, end_at[1], font, names=names)


# --- the legend -----------------------------------------------------------------------------------


def legend(traces: Sequence[Mapping[str, Any]], definitions: Definitions) -> str:
    """A list of what is drawn how, outside of the picture."""
    entries = "".join(
        f'<li><svg width="16" height="12" aria-hidden="true">{_swatch(t, definitions)}</svg>'
        f"{escape(plain(t['name']), quote=False)}</li>"
        for t in traces
        if t.get("name") and t.get("showlegend", True)
    )
    return f'<ul class="lp-key">{entries}</ul>' if entries else ""


def _swatch(trace: Mapping[str, Any], definitions: Definitions) -> str:
    if trace["type"] == "bar" or "stackgroup" in trace:
        colour = trace.get("fillcolor") or trace["marker"]["color"]
        pattern = trace.get("fillpattern") or trace.get("marker", {}).get("pattern")
        return f'<rect width="14" height="12" {definitions.paint(colour, pattern)}/>'
    parts, mode = [], trace["mode"].split("+")
    if "lines" in mode:
        line = trace["line"]
        dash = {"dash": "4 3", "dot": "2 2"}.get(line.get("dash", ""), "none")
        parts.append(
            f'<line x2="16" y1="6" y2="6" class="{stroke(line["color"])}"'
            f' stroke-width="{max(line["width"], 1.5):g}" stroke-dasharray="{dash}"/>'
        )
    if "markers" in mode:
        marker = trace["marker"]
        path = symbol_path(marker.get("symbol", "circle"), min(marker["size"], 10))
        parts.append(
            f'<path transform="translate(8 6)" d="{path}" class="{marker_classes(marker)}"'
            f" {edge(marker)}/>"
        )
    return "".join(parts)
