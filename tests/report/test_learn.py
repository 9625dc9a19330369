"""The page Learn: a layer's numbers and pictures, what is said of charts, what a link holds, and a
claim that is followed."""

import json
import re
import sys
from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode
from xml.etree import ElementTree

import pytest
from streamlit.testing.v1 import AppTest

from benchmarks.pages import RESULTS
from benchmarks.truth.mathematics import SHOWN, rendered, shown
from dashboard_app import cautions, drawings, opened, problems, texts, written
from lora_profiler.dashboard import following, learn_page, link
from lora_profiler.report.charts.lines import claim_chart
from lora_profiler.report.claims.claim import Series, numbers_table
from lora_profiler.report.claims.document import grouped_charts
from lora_profiler.report.learn import (
    LoraLayer,
    adam_bytes,
    committed,
    counts_chart,
    counts_words,
    flow,
    gradient_bytes,
    matrices,
)
from lora_profiler.report.page import embedded_data, mathematics_content, write_page
from lora_profiler.report.palette import INK, METHOD_MARKS
from waiting import wait_until

DOCUMENT: dict[str, Any] = committed() or {}
SIZE = DOCUMENT | {"claims": DOCUMENT["claims"][:1]}
"""Of the first claim alone."""
CHARTS = {chart.key: chart for charts in grouped_charts(DOCUMENT).values() for chart in charts}
SVG = "{http://www.w3.org/2000/svg}"


# --- one layer ------------------------------------------------------------------------------------


def test_the_textbook_s_layer_by_hand() -> None:
    layer = LoraLayer()
    assert (layer.full, layer.a, layer.b, layer.lora) == (16_777_216, 32_768, 32_768, 65_536)
    assert 1 - layer.share > 0.996 and layer.scaling == 2
    held = [gradient_bytes(n) + adam_bytes(n) for n in (layer.full, layer.lora)]
    assert held == [192 * 2**20, 768 * 2**10]
    assert counts_words(layer)[0] == "65,536 numbers train instead of 16,777,216: 99.61 % fewer."
    assert "fewer up to rank 2,047, since d k / (d + k) is 2,048." in counts_words(layer)[1]
    assert counts_words(LoraLayer(r=2048))[0].endswith("16,777,216: as many.")
    assert counts_words(LoraLayer(d=64, k=128, r=128))[0].endswith("8,192: 3 times as many.")


def test_the_last_rank_with_fewer_numbers_is_the_last() -> None:
    for d, k in ((1, 1), (2, 2), (3, 6), (64, 128), (100, 7)):
        fewer = [r for r in range(1, d * k + 2) if LoraLayer(d=d, k=k, r=r).lora < d * k]
        assert LoraLayer(d=d, k=k).largest_smaller_rank == max(fewer, default=0)


@pytest.mark.parametrize(
    "layer",
    [LoraLayer(d=1024, k=512, r=64), LoraLayer(d=64, k=128, r=512), LoraLayer(d=16384, k=64)],
)
def test_matrices_are_drawn_to_one_scale(layer: LoraLayer) -> None:
    root = ElementTree.fromstring(matrices(layer, "light"))
    sides = [
        float(box.attrib[name]) for box in root.iter(f"{SVG}rect") for name in ("width", "height")
    ]
    numbers = (layer.k, layer.d, layer.r, layer.d, layer.k, layer.r)
    scale = max(sides) / max(numbers)
    assert sides == pytest.approx([max(n * scale, 1) for n in numbers], rel=1e-4)


def test_pictures_have_words_and_follow_the_theme() -> None:
    layer = LoraLayer(d=16384, k=14336, r=16384, alpha=1)
    for draw in (matrices, flow):
        for theme in ("light", "dark"):
            root = ElementTree.fromstring(draw(layer, theme))
            assert root.attrib["role"] == "img" and "16,384" in root.attrib["aria-label"]
            style = root.findtext(f"{SVG}style") or ""
            colours = (INK, METHOD_MARKS["lora"].colour)
            assert all(getattr(colour, theme) in style for colour in colours)
        assert "prefers-color-scheme: dark" in draw(layer)
    words = " ".join(ElementTree.fromstring(flow(LoraLayer(), "light")).itertext())
    assert "x alpha / r = 2" in words and "8 x 4096" in words and "4096 x 8" in words


def test_the_chart_of_counts_crosses_where_the_words_say() -> None:
    full, both, here = counts_chart(LoraLayer(d=64, k=128, r=8)).series
    assert here.x == (8.0,) and here.y == (8.0 * 192,)
    points = zip(both.x, both.y, full.y, strict=True)
    assert [r for r, y, whole in points if y and whole and y < whole] == [1, 2, 4, 8, 16, 32]
    assert both.x[-1] > LoraLayer(d=64, k=128).largest_smaller_rank


# --- what was found -------------------------------------------------------------------------------


def test_every_point_is_drawn_and_stands_in_the_table() -> None:
    for chart in CHARTS.values():
        drawn = claim_chart(chart)
        for trace, series in zip(drawn["data"], chart.series, strict=True):
            known = {
                (x, y)
                for x, y in zip(series.x, series.y, strict=True)
                if y is not None and (y > 0 or chart.y_scale == "linear")
            }
            x, y = ("y", "x") if chart.categories else ("x", "y")
            assert set(zip(trace[x], trace[y], strict=True)) == known
        rows = numbers_table(chart).rows
        assert len(rows) == len({x for series in chart.series for x in series.x})
        assert all(series.label in chart.words for series in chart.series)
    of_full = CHARTS["lora_of_full"]
    assert numbers_table(of_full).rows[3].cells == ("saved", "91.46 %", "140.15 %", "92.87 %")
    assert "float32, 1 x 128 tokens: 3.63 % at trained to 62.34 % at step time." in of_full.words


def test_a_run_that_goes_wrong_does_not_press_the_others_flat() -> None:
    good = Series(label="good", x=(1.0, 8.0, 64.0), y=(0.3, 0.4, None))
    wrong = Series(label="wrong", x=(1.0, 8.0), y=(0.1, -9.0))
    chart = replace(CHARTS["scaling_gain"], series=(good, wrong))
    layout = claim_chart(chart)["layout"]
    assert layout["yaxis"]["range"] == pytest.approx([-0.42, 0.42])
    assert [each["text"] for each in layout["annotations"]] == ["1 point lies below, down to -9"]
    assert "range" not in claim_chart(CHARTS["scaling_gain"])["layout"]["yaxis"]


def test_what_comes_with_the_package_is_what_the_committed_run_found() -> None:
    results = RESULTS / "mathematics.json"
    if not results.exists():
        pytest.skip("there are no committed results here")
    found = json.loads(results.read_text("utf-8"))
    old = f"{SHOWN.name} is old: python -m benchmarks.truth.mathematics --render"
    assert SHOWN.read_text("utf-8") == shown(found) and rendered(found) == found, old
    assert len(SHOWN.read_bytes()) < 120_000


def test_the_report_s_page_says_the_same_and_holds_every_number() -> None:
    page = write_page(mathematics_content(SIZE))
    assert page == write_page(mathematics_content(SIZE))
    assert embedded_data(page) == SIZE
    assert "1. Size of the update: holds" in page
    assert all(f"- {sentence}" in page for sentence in SIZE["claims"][0]["finding"])
    assert all(f'<td class="lp-value">{text}</td>' in page for text in ("65,536", "0.75 MiB"))
    found = re.findall(r'<svg [^>]*class="lpd".*?</svg>', page, re.DOTALL)
    labels = [ElementTree.fromstring(each).attrib["aria-label"] for each in found]
    assert [label[:5] for label in labels] == ["Three", "Two p"]
    before_data = page[: page.index('<script type="application/json" id="data"')]
    assert "://" not in re.sub(r'xmlns="[^"]*"', "", before_data)


# --- the page -------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing runs, nothing is stored."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["app.py"])
    monkeypatch.setattr(following, "_started", {})


def slider(app: AppTest, name: str) -> Any:
    return app.select_slider(key=f"learn.{name}")


def test_a_slider_changes_the_counts_the_pictures_and_the_address() -> None:
    app = opened(page="learn")
    assert not app.exception and not problems(app)
    assert "full\t16,777,216" in texts(app) and "LoRA r8\t65,536\t-99.6 %" in texts(app)
    assert "192.00 MiB" in texts(app) and "0.75 MiB" in texts(app)
    slider(app, "r").set_value(64).run()
    assert "524,288 numbers train instead of 16,777,216: 96.88 % fewer." in texts(app)
    assert app.query_params["r"] in ("64", ["64"]) and set(app.query_params) == {"page", "r"}
    pictures = [
        b64decode(found).decode()
        for html in written(app)
        for found in re.findall(r"svg\+xml;base64,([^\"]+)", html)
    ]
    assert len(pictures) == 2 and all("4096 x 64" in picture for picture in pictures)
    assert any("<img" in html and "64 numbers" in html for html in written(app))


def test_what_was_found_is_shown_with_its_sentences() -> None:
    app = opened(page="learn")
    shown = texts(app)
    assert f"What was found on {DOCUMENT['model']['id']}" in shown
    assert "✓\t2*\tShape and merge\tMerged and unmerged agree within rounding (0.99" in shown
    drawn = drawings(app)
    keys = ("trained_share", "scaling_first_update", "gain_by_rank", "lora_of_full")
    assert {"counts", *(f"claim.{key}" for key in keys)} <= set(drawn)
    assert all(drawn[f"claim.{key}"]["says"] == CHARTS[key].words for key in keys)
    app.selectbox(key="learn.of.scaling_first_update").set_value("scaling_gain").run()
    assert drawings(app)["claim.scaling_first_update"]["says"] == CHARTS["scaling_gain"].words


def test_without_results_the_page_says_how_to_get_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learn_page, "committed", lambda: None)
    app = opened(page="learn")
    assert not app.exception and "no committed results" in texts(app)
    assert len(drawings(app)) == 1


@pytest.mark.parametrize(
    "layer", [LoraLayer(), LoraLayer(d=64, k=16384, r=1, alpha=16384), LoraLayer(d=96)]
)
def test_a_link_reproduces_the_layer(layer: LoraLayer) -> None:
    address = urlencode(link.written("Learn", layer=layer), doseq=True)
    found = link.parsed(parse_qs(address, strict_parsing=True))
    assert (found.page, found.layer, found.complaints) == ("Learn", layer, ())


def test_what_a_link_says_in_vain_is_told_until_a_slider_moves() -> None:
    app = opened(page="learn", r="7", d="128", rnak="8")
    assert [slider(app, name).value for name in link.LAYER_STEPS] == [128, 4096, 8, 16]
    assert any("r is '7'; accepted: 1, 2, 4" in text for text in cautions(app))
    assert any("no option 'rnak'" in text for text in cautions(app))
    assert not cautions(slider(app, "k").set_value(64).run())


# --- a claim checked here -------------------------------------------------------------------------

SAYS = """
import json, sys, time
for line in ({}):
    print(json.dumps(line), file=sys.stderr, flush=True)
{}
"""
KEYS = ("claim", "phase", "doing", "done", "of", "verdict", "left_s")
PREPARING = dict(zip(KEYS, (0, "Getting the model", "training it", 21, 150, None, 3), strict=True))
CHECKED = dict(zip(KEYS, (1, "Size of the update", "", 0, None, "holds", None), strict=True))


def process(monkeypatch: pytest.MonkeyPatch, lines: list[dict[str, Any]], ending: str) -> None:
    """What is started instead of `lora-profile`."""
    code = SAYS.format("".join(f"{line!r}," for line in lines), ending)
    monkeypatch.setattr(following, "_COMMAND", (sys.executable, "-c", code))


def start(app: AppTest) -> AppTest:
    return app.button(key="learn.start").click().run()


def test_a_claim_is_followed_to_its_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    process(monkeypatch, [PREPARING, CHECKED], f"print(json.dumps({SIZE!r}))")
    app = start(opened(page="learn"))
    running = following.present("checking")
    assert running is not None
    wait_until(lambda: not running.runs)
    where = [learn_page.where(state) for state in running.states.values()]
    assert where == ["training it, 21 of 150", "holds"]
    shown = texts(app.run())
    assert (
        "1. Size of the update: holds" in shown and f"- {SIZE['claims'][0]['finding'][0]}" in shown
    )
    assert running.command == "lora-profile verify small --quick --claims 1"
    assert running.command in shown and not problems(app)


def test_a_check_is_cancelled_and_nothing_else_runs_beside_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process(monkeypatch, [PREPARING], "time.sleep(60)")
    app = start(opened(page="learn"))
    running = following.present("checking")
    assert running is not None
    wait_until(lambda: running.states)
    app.run()
    assert "training it, 21 of 150" in texts(app) and app.button(key="learn.start").disabled
    with pytest.raises(following.AlreadyRunningError, match="spoil each other"):
        learn_page.start(2)
    assert opened(page="measure", model="gpt2").button(key="measure.start").disabled
    app.button(key="learn.cancel").click().run()
    wait_until(lambda: not running.runs)
    assert "Cancelled" in texts(app.run()) and not problems(app)
    assert not app.button(key="learn.start").disabled


def test_why_nothing_was_checked_and_what_must_be_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process(monkeypatch, [], 'sys.exit("error: no room here")')
    app = start(opened(page="learn"))
    running = following.present("checking")
    wait_until(lambda: running is not None and not running.runs)
    assert problems(app.run()) == ["Nothing was checked\nno room here"]
    monkeypatch.setattr(learn_page, "missing", lambda: ["peft"])
    app.run()
    assert app.button(key="learn.start").disabled
    assert "peft must be installed here" in texts(app)
    assert "pip install 'lora-profiler[measure]'" in texts(app)
