"""Figures as SVG: well formed, one mark for each number, and where plotly itself puts them."""

import json
import re
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from browser import launched
from lora_profiler.report.charts.plot import Figure
from lora_profiler.report.labels import VERDICT_LABELS
from lora_profiler.report.palette import INK, VERDICT_COLOURS, all_colours
from lora_profiler.report.svg import figure_html, figure_style
from lora_profiler.report.svg.traces import axis_of
from test_charts import CELLS, LIGHT, hostile

WIDTH_PX = 900


def tree(name: str, figure: Figure) -> ElementTree.Element:
    return ElementTree.fromstring(figure_html(figure, "f", name))


@pytest.mark.parametrize("name", LIGHT)
def test_every_figure_is_well_formed_and_told_in_words(name: str) -> None:
    root = tree(name, LIGHT[name])
    (plane,) = (
        root.iter("svg")
        if len(list(root.iter("svg"))) == 1
        else [each for each in root.iter("svg") if each.get("class") == "lp-plane"]
    )
    assert (plane.get("role"), plane.get("aria-label")) == ("img", name)
    ids = [each.get("id") for each in root.iter() if each.get("id")]
    assert len(ids) == len(set(ids)) and all(str(i).startswith("f-") for i in ids)
    text = ElementTree.tostring(root, "unicode")
    assert {found for found in re.findall(r"url\(#([^)]*)\)", text)} <= set(ids)
    assert not re.search(r"NaN|inf|None", re.sub(r"<title>.*?</title>|<text.*?</text>", "", text))


def shown(figure: Figure, kind: str, mode: str = "") -> int:
    """Numbers that traces of a kind draw within the axes."""
    x, y = (figure["layout"][axis] for axis in ("xaxis", "yaxis"))
    count = 0
    for trace in figure["data"]:
        if trace["type"] != kind or mode not in trace.get("mode", ""):
            continue
        pairs = zip(trace["x"], trace["y"], strict=True)
        known = [(a, b) for a, b in pairs if a is not None and b is not None]
        across, down = axis_of(x, [a for a, _ in known]), axis_of(y, [b for _, b in known])
        count += sum(across.holds(a) and down.holds(b) for a, b in known)
    return count


@pytest.mark.parametrize("name", LIGHT)
def test_there_is_a_mark_for_every_number(name: str) -> None:
    figure = LIGHT[name]
    html = figure_html(figure, "f", name)
    assert html.count("<use ") == shown(figure, "scatter", "markers")
    bars = sum(len(t["x"]) for t in figure["data"] if t["type"] == "bar")
    cells = sum(
        cell is not None
        for t in figure["data"]
        if t["type"] == "cells"
        for row in t["colours"]
        for cell in row
    )
    told = [t for t in figure["data"] if t.get("hoverinfo") == "text" and t["type"] == "bar"]
    assert html.count(' cell"') == cells
    assert len(re.findall(r"<rect [^>]*><title>", html.replace(' cell"', '"'))) >= sum(
        len(t["x"]) for t in told
    )
    assert bars == sum(len(t["x"]) for t in told)


def test_every_colour_of_the_palette_has_its_classes_in_both_themes() -> None:
    style = figure_style()
    for each in all_colours():
        name = each.light[1:]
        assert f".f{name}{{fill:var(--c{name})}}" in style
        assert f".s{name}{{stroke:var(--c{name})}}" in style
        light, dark = style.split("prefers-color-scheme:dark")
        assert f"--c{name}:{each.light};" in light and f"--c{name}:{each.dark};" in dark
    used = {
        found
        for name, figure in LIGHT.items()
        for found in re.findall(
            r'(?:class="|[ ])([fs][0-9a-f]{6})\b', figure_html(figure, "f", name)
        )
    }
    assert used and all(f".{name}{{" in style for name in used)


@given(st.text(max_size=60))
def test_names_from_elsewhere_are_text(text: str) -> None:
    for figure in hostile(text):
        root = tree(text.encode("utf-8", "replace").decode(), figure)
        kinds = {each.tag for each in root.iter()}
        assert kinds <= {
            *("div", "ul", "li", "svg", "g", "defs", "pattern", "clipPath", "rect", "path"),
            *("line", "circle", "text", "title", "use"),
        }


# --- where plotly puts it -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Every figure twice on one page: as SVG, and drawn by plotly's own script."""
    from plotly.offline import get_plotlyjs

    parts = [
        f'<div id="svg-{n}" style="width:{WIDTH_PX}px">{figure_html(figure, f"f{n}", name)}</div>'
        f'<div id="plotly-{n}" style="width:{WIDTH_PX}px"></div>'
        for n, (name, figure) in enumerate(LIGHT.items())
    ]
    script = "".join(
        f"Plotly.newPlot('plotly-{n}', {json.dumps([t for t in figure['data'] if t['type'] != 'cells'])},"
        f" {json.dumps(figure['layout'])});"
        for n, figure in enumerate(LIGHT.values())
    ).replace("</", "<\\/")
    path = tmp_path_factory.mktemp("figures") / "figures.html"
    path.write_text(
        f"<!doctype html><meta charset=utf-8><style>:root{{--lp-faint:#555}}{figure_style()}</style>"
        f"{''.join(parts)}<script>{get_plotlyjs()}</script><script>{script}</script>",
        "utf-8",
    )
    with launched() as found:
        opened = found.new_page(viewport={"width": 1000, "height": 900})
        opened.goto(path.as_uri())
        opened.locator(f"#plotly-{len(LIGHT) - 1} .main-svg").first.wait_for()
        yield opened


BARS = ".lp-plane g:not([opacity]) > rect"
PLACES = """([n, ours, theirs]) => {
  const middles = (root, frame, selector) => {
    const box = root.querySelector(frame).getBoundingClientRect();
    return [...root.querySelectorAll(selector)].map((e) => e.getBoundingClientRect()).map((r) => [
      ((r.left + r.right) / 2 - box.left) / box.width, ((r.top + r.bottom) / 2 - box.top) / box.height,
      r.width / box.width]);
  };
  return [
    middles(document.getElementById(`svg-${n}`), '.lp-plane', ours),
    middles(document.getElementById(`plotly-${n}`), '.nsewdrag', theirs)];
}"""
DRAWN_TWICE = [
    *("scatter", "strip", "short curve", "measured curve", "bars", "throughput", "levers", "steps"),
    *("num_trainable_parameters", "saved_activation_bytes", "phases"),
]


@pytest.mark.browser
@pytest.mark.slow("beside plotly")
@pytest.mark.parametrize("name", DRAWN_TWICE)
def test_marks_and_bars_lie_where_plotly_puts_them(page: Any, name: str) -> None:
    """As shares of the plane, and bars are as long: within two of its pixels. Where the ends of the
    upright axis are left to plotly, across alone."""
    n, layout = list(LIGHT).index(name), LIGHT[name]["layout"]
    has_ends = "range" in layout["yaxis"]

    def order(place: list[float]) -> tuple[float, float]:
        return round(place[0], 2), place[1] if has_ends else 0

    compared = 0
    for ours, theirs in ((".lp-plane use", ".scatterlayer .point"), (BARS, ".bars .point path")):
        mine, plotlys = page.evaluate(PLACES, [n, ours, theirs])
        assert len(mine) == len(plotlys)
        compared += len(mine)
        for (x, y, width), (x_there, y_there, width_there) in zip(
            sorted(mine, key=order), sorted(plotlys, key=order), strict=True
        ):
            assert x == pytest.approx(x_there, abs=3e-3)
            assert not has_ends or y == pytest.approx(y_there, abs=6e-3)
            assert ours != BARS or width == pytest.approx(width_there, abs=3e-3)
    assert compared


def test_every_cell_has_the_colour_of_its_verdict() -> None:
    html = figure_html(LIGHT["fit"], "f", "fit")
    found = re.findall(r'class="f([0-9a-f]{6}) cell"><title>([^<]*)</title>', html)
    told = {VERDICT_COLOURS[cell.verdict].light[1:] for cell in CELLS if cell.verdict}
    assert {colour for colour, _ in found} == told and len(told) > 1
    for colour, text in found:
        (verdict,) = (v for v, of in VERDICT_COLOURS.items() if of.light[1:] == colour)
        assert text.endswith(f": {VERDICT_LABELS[verdict]}")


@pytest.mark.browser
@pytest.mark.slow("beside plotly")
def test_stacked_areas_reach_as_far_as_plotly_s(page: Any) -> None:
    """Those without a hatch, by the boxes around them."""
    n = list(LIGHT).index("short curve")
    mine, plotlys = page.evaluate(
        PLACES, [n, ".lp-plane svg > path:not(.l)", ".scatterlayer .js-fill"]
    )
    assert len(mine) >= 3
    for area in mine:
        assert any(area == pytest.approx(there, abs=6e-3) for there in plotlys), area


@pytest.mark.browser
@pytest.mark.slow("beside plotly")
def test_an_area_is_as_high_as_plotly_draws_it(page: Any) -> None:
    """The outline of a long curve, by the highest point of its line."""
    n = list(LIGHT).index("long curve")
    line = f".l.s{INK.light[1:]}"
    (mine,), plotlys = page.evaluate(PLACES, [n, line, ".scatterlayer .js-line"])
    x, y, width = mine
    assert any((x, y, width) == pytest.approx(there, abs=5e-3) for there in plotlys), (
        mine,
        plotlys,
    )
