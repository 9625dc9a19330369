"""The page without a server, opened from disk in Chromium: its peaks and verdicts are those of the
command, its reserves those of the simulated allocator, and it asks nobody."""

import json
import os
import re
import shlex
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from random import Random
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from accessibility import serious
from browser import launched
from commands import in_python, lora_profile
from conftest import THE_BUNDLE
from lora_profiler import Platform, UsageError, Workload, find_gpu, find_model, predict, step_time
from lora_profiler.dashboard.answered import workloads as asked_by
from lora_profiler.dashboard.link import parsed
from lora_profiler.facts.stacks import GUIDE, as_guided, find_stack, spelled
from lora_profiler.memory.compiled import evaluation, library
from lora_profiler.memory.compiled.allocator import GRAIN
from lora_profiler.planning.fit import judged_on, largest, smallest_card
from lora_profiler.planning.guided import guided_lines
from lora_profiler.planning.reserve import PART, Judged
from lora_profiler.planning.setups import DEFAULTS, workloads
from lora_profiler.question.support.check import check
from lora_profiler.question.workload import Method
from space import page as static_page
from space.peaks import NOT_HERE
from space.times import OFF

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(900),  # the page is made in a minute or two
    pytest.mark.usefixtures("the_bundle"),
]

SOME = ("meta-llama/Llama-3.1-8B", "google/gemma-3-1b-it", "openai-community/gpt2")
"""One of the usual kind, one whose rules change with the length, one that is small."""
WITHOUT_RULES = "bigscience/bloom-560m"
"""A model that laws and estimates describe."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with launched() as found:
        yield found


def opened(
    chromium: Any, path: Path, width: int = 1280, scheme: Any = "light", url: str = ""
) -> Any:
    context = chromium.new_context(
        offline=True, viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    page = context.new_page()
    page.wrong = []
    own, folder = (path.as_uri(), url), (path.parent / static_page.FOLDER).as_uri()

    def is_own(address: str) -> bool:
        return address in own or address.startswith(folder)

    page.on("request", lambda r: page.wrong.append(r.url) if not is_own(r.url) else None)
    page.on("pageerror", lambda e: page.wrong.append(str(e)))
    page.on("console", lambda m: page.wrong.append(m.text) if m.type == "error" else None)
    page.goto(url or path.as_uri())
    page.wait_for_function("globalThis.loraProfiler !== undefined")
    page.locator("#verdict", has_text=re.compile(".")).wait_for()
    return page


def written(folder: Path, *models: str) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(library, "BUNDLED", THE_BUNDLE)
        evaluation.forget()
        static_page.write(folder / "predict.html", models)
    return folder / "predict.html"


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of one model, which is made in seconds."""
    return written(tmp_path_factory.mktemp("page"), SOME[0])


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of several, which takes five times as long."""
    return written(tmp_path_factory.mktemp("larger"), *SOME, WITHOUT_RULES)


on_larger = pytest.mark.slow("the larger page")


ANSWER = """async ([id, key, trainer, method, checkpointing, batch, length, rank]) => {
    if (loraProfiler.data.model.id !== id) await loraProfiler.choose(id);
    const { data, answer, smallestCard } = loraProfiler;
    const way = {
        model: data.model,
        card: data.cards.find((each) => each.key === key) ?? null,
        trainer: data.trainers.find((each) => each.name === trainer),
        checkpointing: checkpointing ?? undefined,
        method, batch, length, rank,
    };
    const found = answer(way);
    if (found.refusal) return [found.refusal];
    if (!way.card) return [found.size, found.on, smallestCard(way)?.key ?? null];
    return [found.size, found.on, found.verdict, found.reserve, found.trials !== null];
}"""
Asked = tuple[str, str | None, str, Method, bool | None, int, int, int]


def workload_of(asked: Asked) -> Workload:
    """What the command answers. Raises UsageError."""
    name, key, trainer, method, on, batch, length, rank = asked
    platform = find_gpu(key).platform() if key else Platform()
    stack = as_guided(find_stack(trainer))
    if trainer == GUIDE:
        stack = find_stack(GUIDE)
    given = {"methods": (method,), "batch_size": batch, "seq_len": length}
    if method != "full":
        given["rank"] = rank
    if on is not None:
        given["checkpointing"] = on
    options, names = spelled(stack, {**DEFAULTS, **given}, given)
    model = find_model(name, offline=True)
    stack.check_model(model)
    (workload,) = workloads(model, options, names, platform, stack)
    check(workload, "auto")
    return workload


def judged_of(asked: Asked) -> Judged:
    assert asked[1] is not None
    prediction = predict(workload_of(asked), may_trace=False)
    judged = judged_on(prediction, find_gpu(asked[1]))
    assert judged is not None
    return judged


def edge_of(asked: Asked) -> int:
    """The longest sequence of which the tensors alone would have room, near which an allocator
    decides."""

    def has_room(length: int) -> bool:
        return judged_of((*asked[:6], length, asked[7])).verdict != "does_not_fit"

    return largest(has_room, guess=1024, limit=16384)


def holds_up(page: Any, models: tuple[str, ...], count: int) -> dict[str, int]:
    """Compares `count` random questions with the command's answers, of those on a GPU two of three
    at the edge of what fits. Reserves are found by bisection, which depends on what was asked
    before: to a part of the peak. Returns how many verdicts of each kind the allocator decided, as
    "bounded" how many it did not, and as "absent" how many questions the page leaves to the
    command."""
    draw = Random(os.environ.get("LORA_PROFILER_ORACLE_SEED", "page"))
    keys = page.evaluate("loraProfiler.data.cards.map((card) => card.key)")
    decided: dict[str, int] = {}
    for n in range(count):
        asked: Asked = (
            models[n % len(models)],
            None if n % 5 == 0 else draw.choice(keys),
            draw.choice(static_page.TRAINERS),
            draw.choice(static_page.METHODS),
            draw.choice([None, None, True, False]),
            draw.choice([1, 1, 2, 3, 4, 7, 16, 57, 700]),
            draw.choice([64, 65, 127, 129, 257, 511, 512, 1000, 2048, 8191, 40000]),
            draw.choice([1, 2, 16, 257]),
        )
        try:
            workload = workload_of(asked)
        except UsageError as e:
            assert page.evaluate(ANSWER, asked) == [str(e)], asked
            continue
        if page.evaluate(ANSWER, asked) == [NOT_HERE]:
            decided["absent"] = decided.get("absent", 0) + 1
            continue
        prediction = predict(workload, may_trace=False)
        assert prediction.is_whole, asked
        if asked[1] is None:
            card = smallest_card(prediction)
            expected = [
                prediction.peak.total_bytes,
                workload.setup.checkpointing,
                card.key if card else None,
            ]
            assert page.evaluate(ANSWER, asked) == expected, asked
            continue
        if n % 3:
            length = max(64, int(edge_of(asked) * draw.uniform(0.8, 1)))
            asked = (*asked[:6], length, asked[7])
        answer = judged_of(asked)
        size, on, verdict, reserve, has_tape = page.evaluate(ANSWER, asked)
        assert on == workload.setup.checkpointing, asked
        assert (size, verdict, has_tape) == (answer._peak, answer.verdict, answer.has_tape), asked
        assert abs(reserve - answer.reserve.total_bytes) <= max(GRAIN, size // PART), asked
        if answer.reserve.is_simulated:
            decided[verdict] = decided.get(verdict, 0) + 1
        else:
            assert reserve == answer.reserve.total_bytes, asked
            decided["bounded"] = decided.get("bounded", 0) + 1
    return decided


def test_its_peaks_and_verdicts_are_the_command_s(chromium: Any, file: Path) -> None:
    page = opened(chromium, file)
    decided = holds_up(page, SOME[:1], 30)
    assert sum(decided.values()) > 3 and "absent" not in decided, decided
    assert page.wrong == []


@on_larger
def test_peaks_and_verdicts_of_models_are_the_command_s(chromium: Any, larger: Path) -> None:
    page = opened(chromium, larger)
    decided = holds_up(page, SOME, 150)
    by_allocator = sum(decided.values()) - decided.get("bounded", 0)
    assert by_allocator > 3 and "absent" not in decided, decided
    assert page.wrong == []


@on_larger
def test_a_model_without_rules_is_answered_by_laws_and_estimates(
    chromium: Any, larger: Path
) -> None:
    page = opened(chromium, larger)
    decided = holds_up(page, (WITHOUT_RULES,), 40)
    assert decided.get("absent", 0) < 10 and page.wrong == []


TIME = """async ([id, key, trainer, method, checkpointing, batch, length, rank]) => {
    if (loraProfiler.data.model.id !== id) await loraProfiler.choose(id);
    const { data, answer, timeOf } = loraProfiler;
    const way = {
        model: data.model,
        card: data.cards.find((each) => each.key === key),
        trainer: data.trainers.find((each) => each.name === trainer),
        checkpointing: checkpointing ?? undefined,
        method, batch, length, rank,
    };
    const found = answer(way);
    return found.refusal ? null : timeOf(way, found.on)?.seconds ?? null;
}"""


@on_larger
def test_its_times_are_near_the_command_s(chromium: Any, larger: Path) -> None:
    """Nearly equal at sizes that the page has, and within the bound that it states between them."""
    page, draw, compared = opened(chromium, larger), Random("times"), 0
    keys = page.evaluate("loraProfiler.data.cards.map((card) => card.key)")
    for n in range(80):
        at_hand = n % 3 == 0
        asked: Asked = (
            (*SOME, WITHOUT_RULES)[n % 4],
            draw.choice(keys),
            draw.choice(static_page.TRAINERS),
            draw.choice(static_page.METHODS),
            draw.choice([None, True, False]),
            *((1, 2048) if at_hand else draw.choice([(1, 300), (2, 1000), (3, 777), (8, 4096)])),
            16,
        )
        try:
            workload = workload_of(asked)
        except UsageError:
            continue
        found = page.evaluate(TIME, asked)
        step = step_time(workload, asked[1]).step
        assert (found is None) == (step is None), asked
        if step is not None:
            off = found / step.time.seconds - 1
            assert abs(off) < (0.02 if at_hand else OFF), (asked, off)
            compared += 1
    assert compared > 60, compared


def test_its_link_and_its_command_ask_the_same(chromium: Any, file: Path) -> None:
    """Of every trainer and method: the peak that is shown is the command's and that of the
    dashboard's address, in which nothing is passed over."""
    page = opened(chromium, file)
    for key, length, methods in (
        ("rtx_4090", 1000, static_page.METHODS),
        ("t4", 2048, ("lora", "qlora")),
    ):
        page.get_by_label("on", exact=True).select_option(key)
        page.get_by_role("spinbutton", name="Length").fill(str(length))
        for trainer, method in product(static_page.TRAINERS, methods):
            page.get_by_label("in", exact=True).select_option(trainer)
            page.get_by_label("with").select_option(method)
            program, *words = shlex.split(page.locator("#command").inner_text())
            assert program == "lora-profile"
            command = lora_profile(*words, "--full", "--format", "json").stdout
            size = json.loads(command)["predictions"][0]["peak"]["total_bytes"]
            asked: Asked = (SOME[0], key, trainer, method, None, 1, length, 16)
            assert page.evaluate(ANSWER, asked)[0] == size, words
            address = urlsplit(page.locator("#dashboard").get_attribute("href"))
            link = parsed(parse_qs(address.query))
            assert link.complaints == () and link.question.gpu == key, address.query
            (workload,) = asked_by(find_model(SOME[0], offline=True), link.question)
            assert predict(workload, may_trace=False).peak.total_bytes == size, address.query


@on_larger
@pytest.mark.parametrize("key", ["rtx_4090", "t4", None])
def test_its_trainers_are_those_of_the_command(
    chromium: Any, larger: Path, key: str | None
) -> None:
    page = opened(chromium, larger)
    gpu = find_gpu(key) if key else None
    for name, method in product(SOME, static_page.METHODS):
        length = page.evaluate("async (id) => (await loraProfiler.choose(id)).model.length", name)
        asked: Asked = (name, key, GUIDE, method, None, 1, length, 16)
        on = workload_of(asked)
        lines = guided_lines(on.model, DEFAULTS, {"methods"}, method, on, gpu)
        for line in lines:
            found = page.evaluate(ANSWER, (name, key, line.stack.name, *asked[3:]))
            if line.foreseen is None:
                assert found == [line.refusal]
                continue
            judged = line.foreseen.judged
            assert found[0] == line.foreseen.prediction.peak.total_bytes, line
            assert judged is None or found[2] == judged.verdict, line


@on_larger
def test_another_model_is_loaded_where_it_is_chosen(chromium: Any, larger: Path) -> None:
    """And where the address names it; a file that is not there is said."""
    page = opened(chromium, larger)
    page.get_by_label("Fine-tune").select_option(SOME[2])
    page.locator("#command", has_text=SOME[2]).wait_for()
    assert page.get_by_role("spinbutton", name="Length").input_value() == "1024"
    assert page.locator("#command").inner_text().split() == [
        *("lora-profile", SOME[2], "--method", "lora", "--gpu", "rtx_4090")
    ]
    text = said(page)
    assert text != said(opened(chromium, larger)) and page.wrong == []
    assert said(opened(chromium, larger, url=page.url)) == text
    lone = larger.parent / "lone.html"
    lone.write_bytes(larger.read_bytes().replace(b"predict-models/", b"nowhere/"))
    alone = opened(chromium, lone)
    alone.get_by_label("Fine-tune").select_option(SOME[2])
    alone.locator("#verdict", has_text="Not possible").wait_for()
    assert "is not beside this page" in alone.locator("#numbers").inner_text()
    alone.get_by_label("Fine-tune").select_option(SOME[0])
    alone.locator("#verdict", has_text="Fits").wait_for()


def test_the_first_question(chromium: Any, file: Path) -> None:
    """LoRA of an 8B model in the loop of the guides, as the README has it from the command."""
    page = opened(chromium, file)
    assert page.locator("#verdict").inner_text() == "Fits"
    assert page.locator("#numbers").inner_text().startswith("Peak 18.89 + ")
    page.get_by_text("Smallest GPU that fits: RTX 3090 Ti, 24 GB").wait_for()
    assert "LoRA r16 fits with 7 of 8 trainers, does not fit with LitGPT." in said(page)
    assert page.locator("#trainers tr", has_text="Unsloth").inner_text().split()[1] == "15.78"


@pytest.mark.timeout(5400)
def test_every_model_of_the_whole_page(
    chromium: Any, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    if not pytestconfig.getoption("--whole"):
        pytest.skip("hours of processor; --whole runs it")
    models = static_page.all_models()
    path = tmp_path / "predict.html"
    static_page.write(path, models)
    assert path.stat().st_size < 250_000 and len(models) > 240
    page = opened(chromium, path)
    holds_up(page, tuple(models), 4 * len(models))
    assert page.wrong == []


def said(page: Any) -> str:
    page.get_by_text(re.compile("Smallest GPU that fits: [^…]")).wait_for()
    return " ".join(page.locator("main").inner_text().split())


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (800, "light"), (1440, "dark")])
def test_a_question_is_asked_applied_and_kept_in_the_address(
    chromium: Any, file: Path, width: int, scheme: Any
) -> None:
    page = opened(chromium, file, width, scheme)
    page.get_by_label("gradient checkpointing").select_option("off")
    assert page.locator("#verdict").inner_text() == "Does not fit"
    assert "--no-checkpointing" in page.locator("#command").inner_text()
    page.get_by_role("button", name="Apply").first.click()
    assert page.locator("#verdict").inner_text() == "Fits"
    assert "--checkpointing" in page.locator("#command").inner_text()
    page.get_by_role("spinbutton", name="Length").fill("4096")
    page.get_by_label("with").select_option("qlora")
    page.get_by_label("in", exact=True).select_option("unsloth")
    assert page.locator(".row.chosen").inner_text().startswith("QLoRA r16")
    text = said(page)
    again = opened(chromium, file, width, scheme, page.url)
    assert said(again) == text
    wide = page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert wide and serious(page) == [] and page.wrong == []


SHOWN = """() => [...document.querySelectorAll('.row')].map((bar) => [
    bar.innerText, ...[...bar.querySelectorAll('i')].map((part) => part.style.cssText)
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
        label = "rank" if name == "Rank" else name
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
    other.locator("#verdict.does_not_fit").wait_for()
    assert other.locator("img").count() == 0
    assert other.get_by_label("Fine-tune").input_value() == SOME[0]
    for text in ("", "0", "-1", "1.5", "99999999999"):
        other.get_by_role("spinbutton", name="Length").fill(text)
        assert "GiB" in other.locator("#numbers").inner_text()
    assert wrong == []


def test_it_is_the_same_whenever_it_is_made() -> None:
    code = (
        "from space import page as s;"
        "import sys; sys.stdout.write(s.packed_model('openai-community/gpt2'))"
    )
    made = {in_python(code, env={**os.environ, "PYTHONHASHSEED": seed}) for seed in ("1", "2")}
    assert len(made) == 1


def test_the_docs_build_it_without_streamlit() -> None:
    """The extra `docs` brings none of what the dashboard needs."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('streamlit', 'plotly', 'pandas', 'torch')));"
        " import space.page"
    )
    in_python(code)
