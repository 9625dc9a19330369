"""The dashboard in a real browser: Chromium of the system, driven by Playwright, with every request
off the machine cut and told.

Skipped where there is no browser, unless LORA_PROFILER_NEEDS_BROWSER is set, as `.ci/run` does.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from test_trainer_files import AXOLOTL

import records
from accessibility import serious
from browser import PROGRAM, require
from commands import lora_profile
from dashboard_app import VIEWS
from figure_texts import crowded
from lora_profiler import Workload, find_model, setup_for
from lora_profiler.dashboard.link import PAGES
from lora_profiler.measuring.records.load import read_records
from lora_profiler.measuring.records.serialize import record_dict
from lora_profiler.report.page import embedded_data
from lora_profiler.report.palette import PAPER
from lora_profiler.trainer_files.writing import written as written_file
from lora_profiler.units import GIB, short_in_unit
from serving import served

pytestmark = pytest.mark.browser

TINY = "model=EleutherAI%2Fpythia-14m&seq-len=32&dtype=float32&method=lora"
PLANNED = "model=gpt2&method=lora&method=qlora&seq-len=256&gpus=t4,rtx_4090&ranks=8,16"
ALONE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
PATIENCE_MS = 60_000
VIEWPORT: Any = {"width": 1280, "height": 900}


SETTLED = """() => document.querySelector('[data-testid="stApp"][data-test-script-state="notRunning"]')
    && !document.querySelector('[data-testid="stSkeleton"], [data-stale="true"]')
    && [...document.querySelectorAll('[data-testid="stButton"] button')].every(b => b.textContent.trim())"""
"""Streamlit fetches the scripts of its parts, words of buttons among them, when the first is drawn."""


@dataclass
class Window:
    """One page of a browser, and what went wrong in it."""

    page: Any
    address: str
    wrong: list[str] = field(default_factory=list)

    def open(self, query: str = "") -> "Window":
        self.page.goto(f"{self.address}/?{query}")
        self.page.locator(".lp h1, .lp-note").first.wait_for()
        return self.settle()

    def settle(self) -> "Window":
        """Waits until no run of the script goes on and what it drew is there."""
        self.page.wait_for_function(SETTLED)
        return self

    def fill(self, label: str, text: str, role: str = "spinbutton") -> None:
        field = self.page.get_by_role(role, name=label, exact=True)
        field.fill(text)
        field.press("Enter")

    def write(self, label: str, text: str) -> None:
        self.fill(label, text, "textbox")

    def type_into(self, label: str, text: str) -> None:
        """A value that is not on the list of a box that takes such."""
        self.settle()  # a run that ends meanwhile draws the box anew
        box = self.page.get_by_role("combobox", name=re.compile(f"{re.escape(label)}$"))
        box.click()
        box.fill(text)
        self.page.get_by_role("option", name=re.compile(f"{re.escape(text)}$")).click()

    def settings(self) -> "Window":
        """With every option in sight."""
        self.page.get_by_text(re.compile("^All [0-9]+ settings$")).click()
        self.page.get_by_role("combobox", name="Engine").wait_for()
        return self.settle()

    def tab(self, name: str) -> "Window":
        """With what is behind it drawn."""
        self.settle()  # a run that ends meanwhile would undo the click
        self.page.get_by_role("tab", name=name, exact=True).click()
        panel = self.page.get_by_role("tabpanel", name=name, exact=True)
        panel.locator('[data-testid="stElementContainer"]').first.wait_for()
        return self.settle()

    def first(self) -> str:
        """What stands on Predict's first screen, without its question."""
        parts = self.page.locator(".st-key-verdict, .st-key-first").all_inner_texts()
        text = "\n".join(parts)
        # the name of an icon is text until its font is there, and none while it is fetched
        return "\n".join(line for line in text.splitlines() if line and line != "expand_more")

    def cards(self) -> str:
        return str(self.page.locator(".lp-cards").inner_text())

    def button(self, name: str) -> Any:
        return self.page.get_by_role("button", name=name, exact=True)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, str, Path, str]]:
    """(process, address, folder of the user's data, address with the token) of `lora-profile app`
    as anybody starts it."""
    require()
    folder = tmp_path_factory.mktemp("data")
    with served(folder) as (process, port, entrance):
        yield process, f"http://127.0.0.1:{port}", folder, entrance


@pytest.fixture(scope="module")
def browser(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        # one for all and with a cache on disk, so that scripts are fetched and compiled once
        context = driver.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("browser"),
            executable_path=PROGRAM,
            args=["--no-sandbox", "--disable-background-networking", "--disable-gpu", ALONE],
            viewport=VIEWPORT,
            reduced_motion="reduce",
        )
        context.set_default_timeout(PATIENCE_MS)
        context.pages[0].goto(server[3])
        yield context
        context.close()


def opened_window(browser: Any, address: str) -> Window:
    """Notes what it asks of another machine, which is cut, what errors it meets, and dialogs."""
    found = Window(browser.new_page(), address)

    def asked(request: Any) -> None:
        if not request.url.startswith((found.address, "data:", "blob:")):
            found.wrong.append(f"asked {request.url}")

    def said(message: Any) -> None:
        if message.type == "error":
            found.wrong.append(f"console: {message.text}")

    found.page.on("request", asked)
    found.page.on("console", said)
    found.page.on("pageerror", lambda e: found.wrong.append(f"page: {e}"))
    found.page.on("dialog", lambda d: (found.wrong.append(f"dialog: {d.message}"), d.dismiss()))
    return found


@pytest.fixture(scope="module")
def idle_windows() -> list[Window]:
    """Between two tests; a page in a window that had one before starts in a third of the time."""
    return []


@pytest.fixture
def window(browser: Any, server: Any, idle_windows: list[Window]) -> Iterator[Callable[[], Window]]:
    """Gives windows; afterwards none of them may have asked another machine, met an error, or
    opened a dialog."""
    given: list[Window] = []

    def give() -> Window:
        given.append(idle_windows.pop() if idle_windows else opened_window(browser, server[1]))
        return given[-1]

    yield give
    wrong = [text for each in given for text in each.wrong]
    for each in given:
        each.wrong.clear()
        each.page.set_viewport_size(VIEWPORT)
        each.page.emulate_media(color_scheme="light")
        idle_windows.append(each)
    assert wrong == []


def command_line(*arguments: str) -> Any:
    whole = () if arguments[0] == "plan" else ("--full",)
    done = lora_profile(*arguments, *whole, "--format", "json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


# --- predict --------------------------------------------------------------------------------------


def test_an_option_changes_the_answer_and_the_address_and_going_back_restores_both(
    window: Any,
) -> None:
    w = window().open("model=gpt2&seq-len=256").settings()
    before = w.first()
    w.fill("Rank", "64")
    w.page.locator(".lp-bars .lp-line", has_text="LoRA r64").wait_for()
    w.page.wait_for_url(re.compile("rank=64"))
    assert w.settle().first() != before
    w.page.go_back()
    w.page.locator(".lp-bars .lp-line", has_text="LoRA r16").wait_for()
    assert w.settle().first() == before
    assert w.page.get_by_role("spinbutton", name="Rank", exact=True).input_value() == "16"


def test_a_link_shows_the_page_again(window: Any) -> None:
    """With what was typed: a card by its size, targets by name, and options of every group."""
    w = window().open(
        "model=gpt2&seq-len=256&batch-size=4&optimizer=sgd&checkpointing=yes&accumulation=2"
    )
    w.write("GPU memory", "8GiB")
    w.page.locator(".lp-scale", has_text="8 GiB GPU").first.wait_for()
    w.settings().type_into("Targets", "c_attn,c_proj")
    w.page.wait_for_url(re.compile("targets=c_attn"))
    w.tab("Explanation").page.get_by_text("targets c_attn, c_proj").first.wait_for()
    assert "token=" not in w.page.url  # it may be handed on
    other = window()
    other.page.goto(w.page.url)
    other.page.locator(".lp-bars").first.wait_for()
    other.settle().tab("Explanation")
    assert other.first() == w.first()
    assert "8 GiB" in w.first(), w.first()
    small, again = (each.page.locator(".lp-small").all_inner_texts() for each in (w, other))
    assert again == small
    for tab, plots in (("Timeline", 1), ("Breakdown", 2), ("Fit map", 2)):
        other.tab(tab).page.locator(".lp-plot").nth(plots - 1).wait_for()
        assert other.page.locator(".lp-plot").count() == plots


def test_downloads_are_what_the_command_line_prints(window: Any) -> None:
    w = window().open("model=gpt2&seq-len=256&gpu=rtx_4090")

    def downloaded(name: str) -> str:
        with w.page.expect_download() as begun:
            w.button(name).click()
        return Path(begun.value.path()).read_text("utf-8")

    w.button("Export").click()
    expected = command_line("gpt2", "--seq-len", "256", "--gpu", "rtx_4090")
    assert json.loads(downloaded("JSON")) == expected
    assert len(downloaded("CSV").splitlines()) == 1 + len(expected["predictions"])
    assert embedded_data(downloaded("Report, HTML"))["predictions"] == expected["predictions"]
    w.page.keyboard.press("Escape")
    w.tab("Breakdown").page.locator(".lp-plot .main-svg").first.wait_for()
    figure = w.page.locator(".figure").first
    picture = figure.get_by_role("button", name="Save this figure as SVG")
    with w.page.expect_download() as begun:
        picture.click()
    saved = Path(begun.value.path()).read_text("utf-8")
    assert "Predicted peak of openai-community/gpt2 on NVIDIA GeForce RTX 4090" in saved
    figure.get_by_role("button", name="Save this figure as PDF").click()
    printed = w.page.frame_locator("iframe.lp-print")
    assert "Predicted peak" in printed.locator("svg").first.text_content()


def test_names_from_a_link_or_a_file_run_nothing_and_fetch_nothing(
    window: Any, tmp_path: Path
) -> None:
    w = window().open(
        "model=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E&gpu=![a](http://foreign.invalid/a.png)&rank=%24x%24"
    )
    assert "onerror=alert(1)" in w.page.get_by_role("alert").first.inner_text()
    w.open("model=gpt2&seq-len=64&gpu=![a](http://foreign.invalid/a.png)")
    assert "foreign.invalid" in w.page.get_by_role("alert").first.inner_text()
    config = {"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 2, "vocab_size": 100}
    name = "$x$ :red[a] ![i](http_foreign.invalid_i.png) <img src=x onerror=alert(1)>.json"
    path = tmp_path / name
    path.write_text(json.dumps(config), "utf-8")
    w.open("model=gpt2&seq-len=64").settings()
    w.page.get_by_text("A config.json", exact=True).click()
    w.page.locator('input[type="file"]').set_input_files(path)
    w.page.locator(".lp-words", has_text="$x$ :red[a]").wait_for()
    assert name.removesuffix(".json") in w.page.locator(".lp-words strong").inner_text()
    head = w.settle().tab("Explanation").page.locator(".lp h2", has_text="$x$ :red[a]")
    assert name.removesuffix(".json") in head.inner_text()
    assert w.page.locator('img[src="x"]').count() == 0


def test_names_in_records_run_nothing_and_fetch_nothing(window: Any, tmp_path: Path) -> None:
    name = "<img src=x onerror=alert(1)> ![i](http://foreign.invalid/i.png) $x$"
    data = record_dict(records.make_record(device=replace(records.CPU, name=name)))
    data["workload"]["model"]["id"] = name
    path = tmp_path / "named.jsonl"
    path.write_text(json.dumps(data) + "\n", "utf-8")
    w = window().open("page=compare")
    w.page.locator('input[type="file"]').set_input_files(path)
    w.page.get_by_text("138 records").wait_for()
    w.page.get_by_text("Bundled runs").click()
    w.page.get_by_text("1 record, predicted").wait_for()
    w.settle()
    w.page.get_by_role("combobox", name="Device").click()
    w.page.get_by_role("option", name=name).click()
    w.page.locator('[data-testid="stDataFrame"] canvas').first.click(
        position={"x": 18, "y": 53}, force=True
    )
    w.page.locator(".lp h2", has_text=f"{name}, full: ok").wait_for()
    w.settle()
    assert w.page.locator('img[src="x"], img[src*="foreign"]').count() == 0


OUTSIDE = """() => {
    const found = [];
    for (const box of document.querySelectorAll('.lp-card, .lp-note, .lp-bars, .lp-trainers, .lp-trust, .lp:has(> h1)')) {
        const style = getComputedStyle(box), around = box.getBoundingClientRect(), seen = [];
        const left = around.left + parseFloat(style.paddingLeft), right = around.right - parseFloat(style.paddingRight);
        const texts = document.createTreeWalker(box, NodeFilter.SHOW_TEXT);
        while (texts.nextNode()) {
            if (!texts.currentNode.data.trim()) continue;
            const range = document.createRange(), cell = texts.currentNode.parentElement;
            range.selectNodeContents(cell);
            for (const r of range.getClientRects()) {
                if (r.left < left - 0.5 || r.right > right + 0.5 || r.top < around.top || r.bottom > around.bottom)
                    found.push(`${cell.innerText}: ${Math.round(Math.max(left - r.left, r.right - right))} px out of its box`);
                for (const [other, o] of seen)
                    if (other !== cell && Math.min(r.right, o.right) - Math.max(r.left, o.left) > 0.5
                        && Math.min(r.bottom, o.bottom) - Math.max(r.top, o.top) > 2)
                        found.push(`${cell.innerText}: over ${other.innerText}`);
                seen.push([cell, r]);
            }
        }
    }
    return found;
}"""
"""Texts that leave their box, or lie on one another."""
TWO_FRAMES = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
"""Over when the page is laid out in its new width."""
WIDTHS = (390, 800, 1280, 1440, 1920)
WIDER = """among => [...document.querySelectorAll(among)]
    .filter(e => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.lp-track, table'))
    .map(e => e.outerHTML.slice(0, 120))"""
"""What reaches beyond the window."""
LARGEST = "model=meta-llama%2FLlama-3.1-405B&method=full&method=lora&method=qlora"


QUERIES = (
    "model=gpt2&gpu=rtx_4090&method=lora",
    "model=meta-llama%2FLlama-3.1-8B&gpu=rtx_4090",
    "model=meta-llama%2FLlama-3.1-8B&gpu=rtx_4090&method=full&method=lora&method=qlora",
    f"{LARGEST}&gpu=h100_sxm_80gb&sharding=fsdp&world-size=64&interconnect=ndr",
    f"{LARGEST}&gpu=rtx_4090&batch-size=4096&rank=1000000&seq-len=1000000",
    f"page=plan&{PLANNED}",
    "page=learn",
    "page=evidence",
    "model=gpt2",
)
"""One to three methods, the longest names and numbers, several ranks, and every page that has
cards."""


@pytest.mark.grid
@pytest.mark.parametrize("query", QUERIES)
def test_no_text_leaves_its_box(window: Any, query: str, tmp_path: Path) -> None:
    w = window()
    w.page.set_viewport_size({"width": WIDTHS[-1], "height": 900})
    w.open(query)
    if query == "model=gpt2":
        long = tmp_path / f"{'a-model-with-a-long-name' * 7}.json"
        config = {"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 2, "vocab_size": 100}
        long.write_text(json.dumps(config), "utf-8")
        w.settings().page.get_by_text("A config.json", exact=True).click()
        w.page.locator('input[type="file"]').set_input_files(long)
        w.page.locator(".lp-words", has_text=long.stem).wait_for()
        w.settle()
    if "page=" not in query:
        w.tab("Explanation")
    w.page.locator(".lp-cards, .lp-verdict").first.wait_for()
    for width in WIDTHS:
        w.page.set_viewport_size({"width": width, "height": 900})
        w.page.evaluate(TWO_FRAMES)
        assert w.page.evaluate(OUTSIDE) == [], width


# --- the first screen -----------------------------------------------------------------------------

FIRST_WORDS = """() => {
    const seen = [];
    for (const part of document.querySelectorAll('.st-key-sentence, .st-key-verdict, .st-key-first')) {
        const figure = part.querySelector('.lp-trainers');
        seen.push(part.innerText.replace(figure ? figure.innerText : '', ''));
    }
    return seen.join(' ');
}"""
MOST_WORDS = 88
"""On the first screen, all texts of buttons, fields and bars among them, but for the names of
trainers; before there were 779."""


def test_the_first_screen_has_few_words_and_all_of_them_in_sight(window: Any) -> None:
    """At the commonest size, with a question that has most to say: three methods, none of which
    fits."""
    w = window()
    w.page.set_viewport_size({"width": 1440, "height": 900})
    w.open()
    w.page.locator(".st-key-offers button:visible").first.wait_for()
    text = w.page.evaluate(FIRST_WORDS)
    words = re.findall(r"[A-Za-z][\w'-]+", text)
    words = [word for word in words if "_" not in word]  # an icon's name, until its font is there
    words = [word for word in words if word != "min"]  # a unit of time; h and s are no words either
    assert 50 < len(words) <= MOST_WORDS, (len(words), words)
    below = w.page.locator(".lp-trainers .lp-scale").bounding_box()
    assert below["y"] < 700
    assert w.page.locator('[data-testid="stSidebar"]').count() == 0


def test_one_click_makes_it_fit(window: Any) -> None:
    w = window().open("model=meta-llama%2FLlama-3.1-8B&gpu=rtx_4090&method=lora&trainer=bare")
    assert " does not fit " in w.page.locator(".lp-verdict h1").inner_text()
    w.page.locator(".st-key-offers button:visible").first.click()
    w.page.locator(".lp-verdict h1", has_text=" fits ").wait_for()
    w.page.wait_for_url(re.compile("checkpointing=yes"))
    w.page.go_back()
    w.page.locator(".lp-verdict h1", has_text=" does not fit ").wait_for()


def test_the_first_field_is_four_tabs_away(window: Any) -> None:
    """Tab and Enter skip to the page; then come the choice of pages, what this is, and the
    question's first field. Before there were 35."""
    w = window().open("model=gpt2&seq-len=256")
    w.page.get_by_role("textbox", name="Model's name").wait_for()
    for key in ("Tab", "Enter", "Tab", "Tab", "Tab"):
        w.page.keyboard.press(key)
    named = "() => document.activeElement.getAttribute('aria-label')"
    assert "Model's name" in str(w.page.evaluate(named))


def test_a_trainer_s_file_is_what_the_command_line_writes(window: Any, tmp_path: Path) -> None:
    w = window().open("model=meta-llama%2FLlama-3.1-8B&gpu=rtx_4090&method=lora&trainer=axolotl")
    w.button("Export").click()
    with w.page.expect_download() as begun:
        w.button("Trainer's file").click()
    text = Path(begun.value.path()).read_text("utf-8")
    workload = Workload(
        model=find_model("meta-llama/Llama-3.1-8B"),
        setup=setup_for(find_model("meta-llama/Llama-3.1-8B"), "axolotl"),
    )
    assert text == written_file("axolotl", workload, "x.yaml")


def test_nothing_is_wider_than_the_window(window: Any) -> None:
    """Opened in the narrowest, which then grows."""
    w = window()
    w.page.set_viewport_size({"width": WIDTHS[0], "height": 900})
    w.open("model=meta-llama%2FLlama-3.1-70B&gpu=rtx_4090&method=full&method=lora&method=qlora")
    for width in WIDTHS:
        w.page.set_viewport_size({"width": width, "height": 900})
        w.page.evaluate(TWO_FRAMES)
        assert (
            w.page.evaluate(
                WIDER, ".st-key-sentence *, .st-key-verdict *, .st-key-first *, .st-key-settings *"
            )
            == []
        ), width


def test_a_trainer_s_file_is_the_question_and_comes_back(window: Any, tmp_path: Path) -> None:
    """Dropped, listed by line where it is not understood, and written again."""
    path = tmp_path / "qlora.yml"
    path.write_text(f"{AXOLOTL}lora_what: 3\n", "utf-8")
    w = window().open("model=gpt2&seq-len=64&gpu=rtx_4090")
    w.button("Read a trainer's file").click()
    w.page.locator('input[type="file"]').set_input_files(path)
    w.page.locator(".lp-note", has_text="qlora.yml:22: lora_what").wait_for()
    w.page.wait_for_url(re.compile("trainer=axolotl"))
    w.page.keyboard.press("Escape")
    w.page.locator(".lp-bars .lp-line", has_text="QLoRA r32").wait_for()
    w.settle().button("Export").click()
    with w.page.expect_download() as begun:
        w.button("Trainer's file").click()
    written = tmp_path / begun.value.suggested_filename
    written.write_bytes(Path(begun.value.path()).read_bytes())
    assert "lora_r: 32" in written.read_text("utf-8")
    one, other = (command_line(str(file))["predictions"] for file in (path, written))
    assert [p["setup"] for p in one] == [p["setup"] for p in other]


# --- plan -----------------------------------------------------------------------------------------


ASKED = (
    "--method", "lora", "--method", "qlora", "--seq-len", "256", "--gpus", "t4,rtx_4090",
    "--ranks", "8,16", "--tokens", "2M", "--epochs", "3",
)  # fmt: skip
"""As `PLANNED`, which the page completes with how much is trained on."""


@pytest.mark.parametrize("width", (390, 1440))
def test_a_plan_is_asked_in_a_form_and_taken_to_predict(window: Any, width: int) -> None:
    """As the command line answers, in a window of any width."""
    w = window()
    w.page.set_viewport_size({"width": width, "height": 900})
    w.open(f"page=plan&{PLANNED}")
    w.page.locator(".lp-verdict", has_text="Take ").wait_for()
    w.page.locator(".lp-plot .main-svg").first.wait_for()
    w.fill("Hours at most", "0.001")
    w.page.locator(".lp-verdict", has_text="No plan is within 0.001 h").wait_for()
    w.page.wait_for_url(re.compile("max-hours=0.001"))
    w.fill("Hours at most", "")
    w.page.locator(".lp-verdict", has_text="Take ").wait_for()
    assert w.settle().page.evaluate(WIDER, ".st-key-sentence *, .st-key-plan *") == []
    expected = command_line("plan", "gpt2", *ASKED)["recommended"]["run"]
    shown = w.page.locator('[data-testid="stCode"]').first.inner_text()
    assert shown.split() == expected["command"].split()
    w.button("See it in Predict").click()
    w.page.locator(".lp-verdict", has_text=" fits ").wait_for()
    assert short_in_unit(expected["peak_bytes"], GIB) in w.settle().first()


FRONT = (
    "page=plan&model=meta-llama%2FLlama-3.1-8B&method=lora&method=qlora"
    "&gpus=rtx_4090,+l40s,+a100_sxm_80gb"
)
"""Runs near one another, two of which would be named across others."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_names_in_a_plan_s_figure_lie_over_nothing(window: Any, scheme: Any) -> None:
    """Boxes of its texts against each other, against the marks, and against the figure."""
    w = window()
    w.page.emulate_media(color_scheme=scheme)
    w.page.set_viewport_size({"width": WIDTHS[0], "height": 900})
    w.open(FRONT)
    w.page.locator(".lp-plot text", has_text="LoRA r").first.wait_for()
    for width in WIDTHS:
        w.page.set_viewport_size({"width": width, "height": 900})
        assert crowded(w.page) == [], width


def test_a_plan_takes_a_file_of_data(window: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": "word " * n}) + "\n" for n in (9, 80)), "utf-8")
    w = window().open(f"page=plan&{PLANNED}")
    w.page.locator(".lp-verdict", has_text="Take ").wait_for()
    w.settle().button("Data file").click()
    w.page.locator('input[type="file"]').set_input_files(path)
    w.page.locator(".lp-small", has_text="rows.jsonl, column text").wait_for()
    w.settle().page.keyboard.press("Escape")
    code = w.page.locator('[data-testid="stCode"]').first
    assert "--data rows.jsonl --epochs 3" in code.inner_text()
    path.write_text("no rows\n", "utf-8")
    w.settle().button("Data file").click()
    w.page.locator('input[type="file"]').set_input_files(path)
    alert = w.page.locator(".lp-problem", has_text="rows.jsonl, line 1, is not valid JSON")
    alert.wait_for()
    assert "This plan cannot be made" in alert.inner_text()


# --- compare --------------------------------------------------------------------------------------


def test_one_record_is_drilled_into_and_has_a_link(window: Any) -> None:
    w = window().open("page=compare")
    assert "records, predicted against measured" in w.page.locator(".lp h1").inner_text()
    table = w.page.locator('[data-testid="stDataFrame"] canvas').first
    table.scroll_into_view_if_needed()
    table.click(
        position={"x": 18, "y": 35 * 3 + 18}, force=True
    )  # what is drawn has an invisible scroller over it
    w.page.locator(".lp h2", has_text="Memory, phase by phase").wait_for()
    w.page.wait_for_url(re.compile("record="))
    w.settle()
    shown = w.page.locator(".lp-small", has_text="record ").first.inner_text()
    w.page.get_by_text("Machine and software").click()
    w.page.locator("caption", has_text="Environment").wait_for()
    other = window()
    other.page.goto(w.page.url)
    other.page.locator(".lp h2", has_text="Memory, phase by phase").wait_for()
    assert other.page.locator(".lp-small", has_text="record ").first.inner_text() == shown


def test_pages_are_reached_by_the_keyboard(window: Any) -> None:
    w = window().open("model=gpt2&seq-len=256")
    w.page.get_by_role("radio", name="Predict").or_(w.button("Predict")).first.focus()
    for _ in range(PAGES.index("Compare")):
        w.page.keyboard.press("ArrowRight")
    w.page.keyboard.press("Enter")
    w.page.locator(".lp h1", has_text="predicted against measured").wait_for()


# --- measure --------------------------------------------------------------------------------------


def measured(folder: Path) -> list[str]:
    return [
        record.measurement.status
        for record in read_records(folder / "lora_profiler" / "records.jsonl").records
    ]


def test_a_measurement_is_followed_cancelled_and_kept(window: Any, server: Any) -> None:
    w = window().open(f"page=measure&{TINY}")
    w.button("Start measuring").click()
    w.button("Cancel").wait_for()
    w.page.get_by_role("cell", name=re.compile(r"^step \d+: ")).wait_for()
    assert w.button("Start measuring").is_disabled()
    assert int(w.page.get_by_role("progressbar").first.get_attribute("aria-valuenow")) > 0
    w.page.get_by_role("img", name=re.compile("^A line through .* peak so far")).wait_for()
    w.page.locator(".lp-plot text", has_text="predicted peak: ").wait_for()
    w.button("Cancel").click()
    w.page.locator(".lp h2", has_text="Cancelled").wait_for(timeout=40_000)
    w.page.locator(".lp h2", has_text="interrupted").wait_for()
    assert "interrupted" in measured(server[2])


def test_running_out_of_memory_is_a_result_beside_its_prediction(window: Any, server: Any) -> None:
    w = window().open(f"page=measure&{TINY}")
    w.write("Memory budget", "60MiB")
    w.button("Start measuring").click()
    w.page.locator(".lp h2", has_text="LoRA r16: out of memory").wait_for(timeout=60_000)
    w.page.locator(".lp p", has_text="Predicted: ").wait_for()
    w.page.locator(".lp p", has_text="To try: a smaller batch").wait_for()
    assert "oom" in measured(server[2])


def test_a_refusal_stands_where_it_was_asked(window: Any) -> None:
    w = window().open(f"page=measure&{TINY}")
    w.write("Memory budget", "much")
    w.page.get_by_role("alert").wait_for()
    assert "'much' is not a memory size" in w.page.get_by_role("alert").inner_text()
    w.settle()
    assert w.button("Start measuring").is_disabled()
    w.write("Memory budget", "")
    w.page.get_by_text("How long a step takes is not known").wait_for()
    w.settle()
    assert w.button("Start measuring").is_enabled()


# --- accessibility --------------------------------------------------------------------------------


NAMELESS = """() => [...document.querySelectorAll('input, textarea, select, button, [role=combobox]')].filter(e => {
    if (e.type === 'file' || e.closest('[aria-hidden=true]') || !e.offsetParent) return false;
    const by = e.getAttribute('aria-labelledby');
    return !(e.getAttribute('aria-label') || (by && document.getElementById(by.split(' ')[0])) || e.labels?.length
             || e.textContent.trim() || e.title);
}).map(e => e.outerHTML.slice(0, 200))"""
"""What takes input and has no name."""


@pytest.mark.parametrize(
    "page",
    [
        "evidence",
        "compare",
        "crossover&model=gpt2",
        f"plan&{PLANNED}",
        f"measure&{TINY}",
        "learn",
        "catalogue",
    ],
)
def test_axe_finds_nothing_serious_and_all_that_takes_input_has_a_name(
    window: Any, page: str
) -> None:
    w = window().open(f"page={page}")
    drawn = w.page.locator('.lp-plot .main-svg, [data-testid="stDataFrame"] canvas')
    drawn.or_(w.button("Start measuring")).first.wait_for()
    assert serious(w.settle().page) == []
    assert w.page.evaluate(NAMELESS) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_predict_and_its_tabs(window: Any, scheme: Any) -> None:
    """Whose figures follow the theme."""
    w = window()
    w.page.emulate_media(color_scheme=scheme)
    w.open("model=gpt2&seq-len=256&gpu=rtx_4090&method=full&method=lora&method=qlora")
    for tab in VIEWS:
        w.tab(tab)
        assert serious(w.page) == [], tab
        for plot in w.page.locator(".lp-plot").all():
            plot.locator(".main-svg").first.wait_for()
            paper = plot.evaluate("plot => plot.querySelector('.main-svg').style.background")
            shades = {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 24, 29)"}
            assert paper == shades[scheme], tab
    w.settings().button("Export").click()
    w.button("CSV").wait_for()
    assert serious(w.settle().page) == []
    assert w.page.evaluate(NAMELESS) == []


COLOURS = """() => [document.querySelector('.js-plotly-plot .main-svg')?.style.background,
    getComputedStyle(document.querySelector('.lp')).getPropertyValue('--lp-paper')].join()"""


def test_an_open_page_turns_dark_with_the_browser(window: Any) -> None:
    w = window().open("page=compare")
    w.page.locator(".js-plotly-plot .main-svg").first.wait_for()
    assert w.page.evaluate(COLOURS) == f"rgb(255, 255, 255),{PAPER.light}"
    w.page.emulate_media(color_scheme="dark")
    w.page.wait_for_function(f"({COLOURS})() === 'rgb(22, 24, 29),{PAPER.dark}'")
    assert serious(w.settle().page) == []


BESIDE_WORDS_PX = """among => Math.min(...[...document.querySelectorAll(among)].map(button => {
    const words = document.createRange(), around = button.getBoundingClientRect();
    words.selectNodeContents(button.querySelector('p'));
    const inside = words.getBoundingClientRect();
    return Math.min(inside.left - around.left, around.right - inside.right);
}))"""


def test_on_a_phone_pages_and_settings_have_the_window_s_width(window: Any) -> None:
    w = window()
    w.page.set_viewport_size({"width": 390, "height": 900})
    w.open("model=gpt2").settings()
    assert w.page.evaluate(BESIDE_WORDS_PX, ".st-key-page button") >= 5
    assert w.page.locator(".st-key-settings").bounding_box()["width"] >= 350


def test_a_mark_says_what_it_stands_for_when_it_is_pointed_at(window: Any) -> None:
    """Within the window, also at its right edge, and no more once the pointer is gone."""
    w = window()
    w.page.set_viewport_size({"width": 390, "height": 900})
    w.open("page=crossover&model=gpt2&gpu=rtx_4090&method=full&method=lora")
    w.page.locator(".lp-plot .main-svg").first.wait_for()
    w.settle()
    tip = w.page.locator(".hoverlayer .hovertext")
    assert tip.count() == 0
    for place, words in ((0, "full128 tokens: "), (-1, "LoRA r161,024 tokens: ")):
        mark = w.page.locator(".scatterlayer path.point").nth(place)
        mark.scroll_into_view_if_needed()
        at = mark.bounding_box()
        w.page.mouse.move(at["x"] + at["width"] / 2, at["y"] + at["height"] / 2)
        w.page.mouse.move(at["x"] + at["width"] / 2 + 1, at["y"] + at["height"] / 2)
        said = w.page.locator(".hoverlayer .hovertext", has_text=words)
        said.wait_for()
        box = said.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    w.page.locator(".lp h1").hover()
    tip.wait_for(state="detached")


EVERY_PAGE = {
    "crossover": "page=crossover&model=gpt2&gpu=rtx_4090&method=full&method=lora&method=qlora",
    "plan": f"page=plan&{PLANNED}",
    "compare": "page=compare",
    "measure": f"page=measure&{TINY}",
    "learn": "page=learn",
    "evidence": "page=evidence",
    "catalogue": "page=catalogue",
    **{
        f"predict, {tab}": "model=meta-llama%2FLlama-3.1-8B&gpu=rtx_4090&method=full&method=lora&method=qlora"
        for tab in VIEWS
    },
}
TOO_WIDE = """() => [document.documentElement, document.querySelector('[data-testid="stMain"]')]
    .some(e => e.scrollWidth > e.clientWidth + 1)"""


@pytest.mark.grid(share=1 / 24)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 800, 1440, 1920])
@pytest.mark.parametrize("name", EVERY_PAGE)
def test_a_page_is_readable(window: Any, name: str, width: int, scheme: Any) -> None:
    """No wider than its window, no words of a figure over others or cut, nothing serious for
    axe."""
    w = window()
    w.page.emulate_media(color_scheme=scheme)
    w.page.set_viewport_size({"width": width, "height": 900})
    w.open(EVERY_PAGE[name])
    drawn = w.page.locator('.lp-plot .main-svg, [data-testid="stDataFrame"] canvas')
    drawn.or_(w.button("Start measuring")).first.wait_for()
    if name.startswith("predict"):
        w.tab(name.removeprefix("predict, "))
    w.settle()
    assert not w.page.evaluate(TOO_WIDE)
    assert w.page.get_by_role("main").count() == 1
    assert crowded(w.page) == []
    assert serious(w.page) == []


# --- learn ----------------------------------------------------------------------------------------


def test_a_layer_is_changed_by_keys_and_a_claim_is_begun_and_cancelled(window: Any) -> None:
    w = window().open("page=learn")
    assert re.search(r"LoRA r8\s+65,536\b", w.cards())
    w.page.get_by_role("slider", name="r, rank of B and A").focus()
    w.page.keyboard.press("ArrowRight")
    w.page.locator(".lp-card th", has_text="LoRA r16").first.wait_for()
    w.page.wait_for_url(re.compile("r=16"))
    w.settle()
    assert re.search(r"LoRA r16\s+131,072\b", w.cards())
    drawn = w.page.get_by_role("img", name=re.compile("^Two paths .* A of 16 x 4096"))
    assert drawn.evaluate("image => image.complete && image.naturalWidth") > 0
    w.page.locator(".lp-plot .main-svg").first.wait_for()
    w.button("Check this claim").click()
    w.button("Cancel").wait_for()
    w.page.get_by_role(
        "row", name=re.compile("Getting the model training it, [0-9]+ of 150")
    ).wait_for(timeout=90_000)
    assert w.button("Check this claim").is_disabled()
    w.button("Cancel").click()
    w.page.locator(".lp h2", has_text="Cancelled").wait_for(timeout=40_000)


def test_the_server_s_process_has_loaded_no_torch(server: Any) -> None:
    """By what is mapped into it, after all that stands above."""
    maps = Path(f"/proc/{server[0].pid}/maps")
    if not maps.exists():
        pytest.skip("only Linux shows what a process has loaded")
    assert "libtorch" not in maps.read_text()
    assert "pyarrow" in maps.read_text()  # what it does have loaded
