"""The page without a server, opened from disk in Chromium: its peaks and verdicts are those of the
command, its reserves those of the simulated allocator, and it asks nobody."""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from accessibility import serious
from benchmarks import static_page
from browser import launched
from commands import in_python
from conftest import THE_BUNDLE
from lora_profiler import LoraConfig, Workload, answers, find_gpu, find_model, predict
from lora_profiler.compiled import evaluation, library
from lora_profiler.compiled.allocator import GRAIN
from lora_profiler.planning.engine import peak_bytes
from lora_profiler.planning.fit import largest
from lora_profiler.planning.reserve import held_bytes
from lora_profiler.planning.simulated import PART, Judged

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("the_bundle")]

SOME = ("meta-llama/Llama-3.1-8B", "google/gemma-3-1b-it", "openai-community/gpt2")
"""One of the usual kind, one whose rules change with the length, one that is small."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with launched() as found:
        yield found


def opened(chromium: Any, path: Path, width: int = 1280, scheme: Any = "light") -> Any:
    context = chromium.new_context(
        offline=True, viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    page = context.new_page()
    page.wrong = []
    page.on("request", lambda r: page.wrong.append(r.url) if r.url != path.as_uri() else None)
    page.on("pageerror", lambda e: page.wrong.append(str(e)))
    page.on("console", lambda m: page.wrong.append(m.text) if m.type == "error" else None)
    page.goto(path.as_uri())
    page.wait_for_function("globalThis.loraProfiler !== undefined")
    page.locator(".lp-verdict[class*=lp-is-]").wait_for()
    return page


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The page of some models, which is made in seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(static_page, "MODELS", SOME)
        patch.setattr(library, "BUNDLED", THE_BUNDLE)
        evaluation.forget()
        path = tmp_path_factory.mktemp("page") / "predict.html"
        path.write_text(static_page.page.__wrapped__(), "utf-8")
    yield path


ANSWER = """([id, key, method, checkpointing, batch, length, rank]) => {
    const { data, answer } = loraProfiler;
    const model = data.models.find((each) => each.id === id);
    const card = data.cards.find((each) => each.key === key);
    const found = answer({ model, card, method, checkpointing, batch, length, rank });
    return [found.size, found.verdict, found.reserve, found.trials !== null];
}"""


def asked_of(name: str, key: str, method: str, **sizes: Any) -> tuple[Workload, Judged]:
    """The question of the command, and its answer."""
    gpu, rank = find_gpu(key), sizes.pop("rank")
    ways = static_page.ways(find_model(name, offline=True), gpu.platform())
    way = next(way for way in ways if way.setup.method == method)
    lora = LoraConfig(r=rank) if way.setup.lora else None
    workload = replace(way, setup=replace(way.setup, lora=lora, **sizes))
    held = held_bytes(predict(workload, may_trace=False))
    peak, usable = peak_bytes(workload), gpu.usable_bytes
    assert usable is not None
    return workload, Judged(workload, peak, usable, gpu, held=held)


def edge_of(name: str, key: str, method: str, **sizes: Any) -> int:
    """The longest sequence of which the tensors alone would have room, near which an allocator
    decides."""

    def has_room(length: int) -> bool:
        _, answer = asked_of(name, key, method, seq_len=length, **sizes)
        return answer.verdict != "does_not_fit"

    return largest(has_room, guess=1024, limit=16384)


def holds_up(page: Any, models: tuple[str, ...], count: int) -> dict[str, int]:
    """Compares `count` random questions with the command's answers, two of three at the edge of
    what fits. Reserves are found by bisection, which depends on what was asked before: to a part of
    the peak. Returns how many verdicts of each kind the allocator decided."""
    draw = Random(os.environ.get("LORA_PROFILER_ORACLE_SEED", "page"))
    keys = page.evaluate("loraProfiler.data.cards.map((card) => card.key)")
    decided: dict[str, int] = {}
    for n in range(count):
        name, key = models[n % len(models)], draw.choice(keys)
        method, on = draw.choice(["full", "lora", "qlora"]), draw.random() < 0.5
        batch = draw.choice([1, 1, 2, 3, 16, 57])
        length, rank = draw.choice([64, 65, 511, 512, 1000, 2048, 8191]), draw.choice([1, 16, 257])
        sizes = {"batch_size": batch, "checkpointing": on}
        if n % 3:
            edge = edge_of(name, key, method, rank=rank, **sizes)
            length = max(64, int(edge * draw.uniform(0.8, 1)))
        _, answer = asked_of(name, key, method, rank=rank, seq_len=length, **sizes)
        asked = [name, key, method, on, batch, length, rank]
        size, verdict, reserve, has_tape = page.evaluate(ANSWER, asked)
        assert (size, verdict, has_tape) == (answer._peak, answer.verdict, answer.has_tape), asked
        assert abs(reserve - answer.reserve.total_bytes) <= max(GRAIN, size // PART), asked
        if answer.reserve.is_simulated:
            decided[verdict] = decided.get(verdict, 0) + 1
        else:
            assert reserve == answer.reserve.total_bytes, asked
    return decided


def test_its_peaks_and_verdicts_are_the_package_s(chromium: Any, file: Path) -> None:
    page = opened(chromium, file)
    decided = holds_up(page, SOME, 60)
    assert decided.get("fits", 0) > 5 and decided.get("tight", 0) > 0, decided
    assert page.wrong == []


def test_its_reserve_is_the_command_s(chromium: Any, file: Path) -> None:
    """Of LoRA on an RTX 4090, which the bound would have at 6.02 GiB, and on a card of 40 GB, where
    it does not fit by the bound; and a card without bfloat16 is there."""
    page = opened(chromium, file)
    for key in ("rtx_4090", "a100_sxm_40gb"):
        page.get_by_label("on", exact=True).select_option(key)
        (answer,) = answers(
            [
                asked_of(
                    SOME[0], key, "lora", rank=16, batch_size=1, seq_len=2048, checkpointing=False
                )[0]
            ],
            find_gpu(key),
        )
        assert answer.fit is not None
        text = page.locator("#verdict").inner_text()
        said = re.search(r"([0-9.]+) reserve", text)
        assert said and float(said[1]) == round(answer.fit.reserve_bytes / 2**30, 2), text
    assert text.startswith("Fits: 36.40 and ")
    page.get_by_label("on", exact=True).select_option("t4")
    page.get_by_label("with").select_option("qlora")
    page.get_by_label("gradient checkpointing").check()
    assert page.locator("#verdict").inner_text().startswith("Fits: 9.25 and up to ")


def test_every_model_of_the_whole_page(chromium: Any, tmp_path: Path) -> None:
    path = tmp_path / "predict.html"
    path.write_text(static_page.page(), "utf-8")
    assert path.stat().st_size < 500_000
    page = opened(chromium, path)
    holds_up(page, static_page.MODELS, 3 * len(static_page.MODELS))
    assert page.wrong == []


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (800, "light"), (1440, "dark")])
def test_a_question_is_asked_applied_and_kept_in_the_address(
    chromium: Any, file: Path, width: int, scheme: Any
) -> None:
    page = opened(chromium, file, width, scheme)
    assert page.locator("#verdict").inner_text().startswith("Does not fit: 36.40 and")
    page.get_by_role("button", name="Apply").first.click()
    assert page.locator("#verdict").inner_text().startswith("Fits: 18.89 and")
    assert "--checkpointing" in page.locator("#command").inner_text()
    page.get_by_role("spinbutton", name="Length").fill("4096")
    page.get_by_label("with").select_option("qlora")
    assert page.locator(".lp-chosen").inner_text().startswith("QLoRA r16")
    said = page.locator("main").inner_text()
    again = chromium.new_context(offline=True).new_page()
    again.goto(page.url)
    again.wait_for_function("globalThis.loraProfiler !== undefined")
    again.locator(".lp-chosen", has_text="QLoRA").wait_for()
    assert again.locator("main").inner_text().split() == said.split()
    wide = page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert wide and serious(page) == [] and page.wrong == []


SHOWN = """() => [...document.querySelectorAll('.lp-bar')].map((bar) => [
    bar.innerText, ...[...bar.querySelectorAll('.lp-part')].map((part) => part.style.cssText)
])"""
DRAG = """(slider, place) => {
    slider.value = place;
    slider.dispatchEvent(new Event('input', {bubbles: true}));
}"""


@pytest.mark.parametrize("name", ["Length", "Batch", "Rank"])
def test_a_slider_moves_the_bars_while_it_is_dragged(chromium: Any, file: Path, name: str) -> None:
    """To what is shown where each of its stops is typed, and the address waits until it is let
    go."""
    page = opened(chromium, file, 390)
    typed = opened(chromium, file)
    slider = page.get_by_role("slider", name=name)
    before, address = page.evaluate(SHOWN), page.url
    seen = set()
    for place in range(int(slider.get_attribute("max")) + 1):
        slider.evaluate(DRAG, place)
        stop = str(slider.get_attribute("aria-valuetext")).replace(",", "")
        label = "of rank" if name == "Rank" else name
        assert page.get_by_role("spinbutton", name=label).input_value() == stop
        typed.get_by_role("spinbutton", name=label).fill(stop)
        assert page.evaluate(SHOWN) == typed.evaluate(SHOWN), stop
        assert page.locator("#verdict").inner_text() == typed.locator("#verdict").inner_text()
        assert page.locator("#command").inner_text() == typed.locator("#command").inner_text()
        seen.add(str(page.evaluate(SHOWN)))
    assert len(seen) > 5 and str(before) in seen and page.url == address
    slider.evaluate("slider => slider.dispatchEvent(new Event('change', {bubbles: true}))")
    assert page.url == typed.url != address
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(SHOWN) != typed.evaluate(SHOWN)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.wrong == [] and typed.wrong == []


def test_broken_addresses_and_numbers_are_borne(chromium: Any, file: Path) -> None:
    page = opened(chromium, Path(file))
    other = page.context.new_page()
    wrong: list[str] = []
    other.on("pageerror", lambda e: wrong.append(str(e)))
    other.goto(f"{file.as_uri()}#model=<img src=x>&card=none&batch=-7&length=abc&rank=1e99&x=1")
    other.locator(".lp-verdict.lp-is-does_not_fit").wait_for()
    assert other.locator("img").count() == 0
    assert other.get_by_label("Fine-tune").input_value() == SOME[0]
    for text in ("", "0", "-1", "1.5", "99999999999"):
        other.get_by_role("spinbutton", name="Length").fill(text)
        assert "GiB" in other.locator("#verdict").inner_text()
    assert wrong == []


def test_it_is_the_same_whenever_it_is_made() -> None:
    code = (
        "from benchmarks import static_page as s; s.MODELS = ('openai-community/gpt2',);"
        "import sys; sys.stdout.write(s.packed(s.data()))"
    )
    made = {in_python(code, env={**os.environ, "PYTHONHASHSEED": seed}) for seed in ("1", "2")}
    assert len(made) == 1


def test_the_docs_build_it_without_streamlit() -> None:
    """The extra `docs` brings none of what the dashboard needs."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('streamlit', 'plotly', 'pandas', 'torch')));"
        " import benchmarks.static_page; import lora_profiler.dashboard.answered"
    )
    in_python(code)
