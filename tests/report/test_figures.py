"""Figures as a browser shows them: plotly draws every number, in the reader's colours, whatever the
window's width, and each can be saved."""

import csv
import hashlib
import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import plotly.graph_objects as go
import pytest
from test_charts import CELLS, GIB, HOSTILE, LIGHT, hostile

from browser import launched
from figure_texts import colours, crowded, papers
from lora_profiler.planning.memory_savings import Lever
from lora_profiler.report import figures, palette
from lora_profiler.report.charts.bars import lever_bars
from lora_profiler.report.charts.dots import FrontPoint, plan_front
from lora_profiler.report.charts.plot import Figure
from lora_profiler.report.page.write import json_text

FIGURES = {
    **LIGHT,
    **{f"hostile {n}": figure for n, figure in enumerate(hostile(HOSTILE))},
    "names": plan_front(
        [
            FrontPoint(
                name=f"{n:g} h, {cost:g} USD",
                said="",
                method="lora",
                hours=n,
                cost=cost,
                is_named=True,
            )
            for n in (1, 1.05, 8)
            for cost in (1, 9)
        ],
        "USD",
    ),
    "long names": lever_bars(
        [
            Lever(name=name, option=option, price="", peak_bytes=3 * GIB, saved_bytes=2 * GIB)
            for name, option in (
                ("adapters on all the default targets", "--targets"),
                ("a fused loss", "-l"),
            )
        ]
    ),
}


def test_the_vendored_script_is_the_published_one_and_its_licence_is_beside_it() -> None:
    script = figures.plotly_script()
    assert hashlib.sha256(script.encode()).hexdigest() == figures.PLOTLY_SHA256
    assert "plotly.js (basic - minified) v4.1.1" in script[:100]
    licence = files("lora_profiler.report.figures").joinpath("LICENSE.plotly").read_text("utf-8")
    assert licence.startswith("MIT License")


def test_what_every_figure_has_in_common_is_known_to_plotly() -> None:
    go.layout.Template(layout=figures.look())
    text = json.dumps(figures.look())
    assert set(re.findall("#[0-9a-f]{6}", text)) <= set(figures.colours("dark"))


def test_every_colour_has_one_for_each_theme() -> None:
    for of in palette.all_colours():
        assert figures.colours("light")[of.light] == of.light
        assert figures.colours("dark")[of.light] == of.dark


# --- in a browser ---------------------------------------------------------------------------------

PAGE = """<!doctype html><meta charset=utf-8><title>figures</title>
<style>body {{ margin: 16px }} .lp-plot {{ overflow-x: auto }}</style>{places}
<script>{script}</script><script>
const {{ look, dark, figures }} = {data}, night = matchMedia("(prefers-color-scheme: dark)");
window.drawn = Promise.all([...document.querySelectorAll(".figure")].map((place) =>
  lpFigures.show(place, place.id, figures[place.dataset.name], look, () => night.matches ? dark : {{}})()));
</script>"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("figures") / "figures.html"
    places = "".join(
        f'<div class="figure" id="f{n}" data-name="{name}"><div class="lp-plot"></div></div>'
        for n, name in enumerate(FIGURES)
    )
    data = {"look": figures.look(), "dark": figures.colours("dark"), "figures": FIGURES}
    script = figures.plotly_script() + figures.drawing_script()
    path.write_text(PAGE.format(places=places, script=script, data=json_text(data)), "utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as found:
        yield found


def opened(browser: Any, address: str, width: int, scheme: Any = "light") -> Any:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.on("pageerror", lambda error: pytest.fail(str(error)))
    page.goto(address)
    page.evaluate("window.drawn")
    return page


def place(name: str) -> str:
    return f"#f{list(FIGURES).index(name)}"


def numbers_of(figure: Figure) -> tuple[int, int]:
    """How many (marks, bars) are drawn: each number, also one out of sight, but for gaps."""
    marks = bars = 0
    for trace in figure["data"]:
        known = [None not in pair for pair in zip(trace["x"], trace["y"], strict=True)]
        if trace["type"] == "bar":
            bars += sum(known)
        elif "markers" in trace["mode"]:
            marks += sum(known)
    return marks, bars


DRAWN = """id => {
    const plot = document.querySelector(`${id} .js-plotly-plot`);
    const count = (selector) => plot.querySelectorAll(selector).length;
    return [plot.querySelector('.nsewdrag').getBoundingClientRect().height, count('.scatterlayer path.point'), count('.bars .point path')];
}"""


@pytest.mark.browser
@pytest.mark.grid
@pytest.mark.parametrize("width", [390, 900])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_number_is_drawn_and_no_word_lies_over_another(
    browser: Any, address: str, width: int, scheme: Any
) -> None:
    """In a plane as high as the figure says, or higher where names stand above their rows."""
    page = opened(browser, address, width, scheme)
    assert crowded(page) == []
    beside = page.locator(f"{place('names')} .annotation text").all_text_contents()
    assert beside == [note["text"] for note in FIGURES["names"]["layout"]["annotations"]]
    for name, figure in FIGURES.items():
        high, marks, bars = page.evaluate(DRAWN, place(name))
        assert (marks, bars) == numbers_of(figure), name
        wanted = max(figure["layout"]["height"], 10)
        assert wanted - 1 <= high <= 2 * wanted, name
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert papers(page) == {palette.colour(palette.PAPER, scheme)}
    page.close()


@pytest.mark.browser
def test_on_a_phone_long_names_stand_above_their_bars(browser: Any, address: str) -> None:
    page = opened(browser, address, 390)
    at = place("long names")
    names = page.locator(f"{at} .annotation")
    assert names.all_inner_texts() or names.count() == 2
    tops = [
        box["y"] for box in (b.bounding_box() for b in page.locator(f"{at} .bars .point").all())
    ]
    for n, name in enumerate(
        ("adapters on all the default targets, --targets", "a fused loss, -l")
    ):
        text = names.nth(n).locator("text")
        assert text.text_content() == name
        box = text.bounding_box()
        assert 0 <= tops[n] - box["y"] - box["height"] + 4 <= 8
    page.close()


@pytest.mark.browser
def test_a_map_has_a_cell_of_its_verdict_s_colour_for_every_size(
    browser: Any, address: str
) -> None:
    page = opened(browser, address, 900)
    fills = page.evaluate(
        f"[...document.querySelectorAll('{place('fit')} .bars .point path')].map(e => e.style.fill)"
    )
    wanted = [palette.VERDICT_COLOURS[cell.verdict].light for cell in CELLS if cell.verdict]
    assert sorted(colours(fills)) == sorted(wanted) and len({*wanted}) > 1
    page.close()


@pytest.mark.browser
def test_names_from_elsewhere_are_text(browser: Any, address: str) -> None:
    page = opened(browser, address, 900)
    page.on("dialog", lambda dialog: pytest.fail(dialog.message))
    assert page.locator("svg a, svg image, svg foreignObject, body img").count() == 0
    assert page.get_by_text("<script>alert(1)</script>").count() > 0
    page.close()


@pytest.mark.browser
def test_a_figure_is_saved_as_picture_and_as_numbers(
    browser: Any, address: str, tmp_path: Path
) -> None:
    page = opened(browser, address, 900)
    at = page.locator(place("bars"))

    def saved(what: str) -> bytes:
        with page.expect_download() as found:
            at.get_by_role("button", name=f"Save this figure as {what}").click()
        return Path(found.value.path()).read_bytes()

    svg = ElementTree.fromstring(saved("SVG"))
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    assert "11.51 GiB" in "".join(svg.itertext())
    assert saved("PNG").startswith(b"\x89PNG\r\n")
    rows = list(csv.reader(saved("CSV").decode().splitlines()))
    assert rows[0] == ["series", "memory, GiB", "row", "in words"]
    bars = [trace for trace in LIGHT["bars"]["data"] if trace["type"] == "bar"]
    told = [
        (trace["name"], x, label)
        for trace in bars
        for x, label in zip(trace["x"], trace["y"], strict=True)
    ]
    assert [(row[0], float(row[1])) for row in rows[1:]] == [(name, x) for name, x, _ in told]
    assert {row[2] for row in rows[1:]} == set(LIGHT["bars"]["layout"]["yaxis"]["ticktext"])
    assert all(row[3].startswith("run ") for row in rows[1:])
    page.close()
