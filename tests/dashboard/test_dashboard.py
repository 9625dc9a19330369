"""The pages of the dashboard, run without a browser: every option, every empty and every broken
state, and the same numbers."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from streamlit.dataframe_util import convert_arrow_bytes_to_pandas_df
from streamlit.testing.v1 import AppTest

import lora_profiler
import records
from commands import in_python, lora_profile
from dashboard_app import (
    ROOT,
    VIEWS,
    all_texts,
    asked,
    cautions,
    choose,
    drawings,
    figures,
    opened,
    problems,
    sound,
    tags_of,
    text_of,
    texts,
    viewed,
    with_all_settings,
    written,
)
from lora_profiler.dashboard import link, predict_page
from lora_profiler.dashboard.question import SETUP_OPTIONS, completed
from lora_profiler.facts.catalog import bundled_gpus, bundled_models, find_gpu, find_model
from lora_profiler.facts.evidence import (
    interval,
    measured_memory,
    measured_steps,
    not_rehearsed,
    own_rows,
)
from lora_profiler.measuring.records.record import Failure
from lora_profiler.measuring.records.serialize import record_dict
from lora_profiler.planning.answers import Answer, activation_excess, answers
from lora_profiler.planning.fit import smallest_cards
from lora_profiler.planning.setups import setup_for
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.report import labels
from lora_profiler.report.answer.predictions import model_blocks
from lora_profiler.report.answer.short_answer import room
from lora_profiler.report.blocks import Paragraph
from lora_profiler.report.first_screen import verdict
from lora_profiler.units import (
    GIB,
    bytes_text,
    bytes_texts,
    error_text,
    in_unit,
    percent_text,
    rate_text,
    seconds_text,
    short_in_unit,
)

pytestmark = pytest.mark.usefixtures("own_window")

HOSTILE = (
    "<script>alert(1)</script> $x$ :red[y] [a](http://x.invalid) ![i](http://x.invalid/i.png) <img"
    " src=x onerror=1> `c` **b**"
)
GPT2 = {"model": "openai-community/gpt2", "seq_len": "256"}


def of_gpt2(gpu: str | None = None, methods: str = "full lora", **more: Any) -> list[Answer]:
    """The answers to `GPT2`, worked out without the page."""
    lora = replace(TrainSetup(seq_len=256), lora=LoraConfig())
    ways = {
        "full": TrainSetup(seq_len=256),
        "lora": lora,
        "qlora": replace(lora, quantization=Quantization()),
    }
    workloads = [Workload(model=find_model("gpt2"), setup=ways[m]) for m in methods.split()]
    return answers(workloads, find_gpu(gpu) if gpu else None, **more)


def sums_of_bars(figure: dict[str, Any]) -> list[float]:
    """How long each stack of bars is, from the first."""
    sums: dict[float, float] = {}
    for trace in figure["data"]:
        if trace["type"] == "bar":
            for place, length in zip(trace["y"], trace["x"], strict=True):
                sums[place] = sums.get(place, 0.0) + length
    return [sums[place] for place in sorted(sums)]


def all_figures(app: AppTest) -> dict[str, dict[str, Any]]:
    """Of all tabs of Predict."""
    return {key: drawn for view in VIEWS for key, drawn in figures(viewed(app, view)).items()}


# --- predict --------------------------------------------------------------------------------------


def test_the_first_page_answers_the_first_question(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every method on the usual card, where this machine has none: the verdict first, and the
    rest behind tabs."""
    monkeypatch.setattr(link, "_card", lambda: "rtx_4090")
    app = sound(opened())
    assert asked(app) == link.first_question()
    assert {"gpu", "model", "method"} == set(app.query_params)
    model, gpu = find_model("meta-llama/Llama-3.1-8B"), find_gpu("rtx_4090")
    setups = [setup_for(model, "guide", method) for method in ("full", "lora", "qlora")]
    found = answers([Workload(model=model, setup=s) for s in setups], gpu)
    above = texts(app).partition("Memory over one step")[0]
    assert "✓ LoRA r16 fits an RTX 4090 with 7 of 8 trainers (not LitGPT): " in above
    for answer in found:
        assert f"\n{short_in_unit(answer.prediction.peak.total_bytes, GIB)} + " in above
    shown = all_texts(app)
    assert "meta-llama/Llama-3.1-8B: llama, 32 layers, 8.03 B parameters" in shown
    full, *others = (a.prediction.peak.total_bytes for a in found)
    sizes = [in_unit(size, GIB) for size in (full, *others)]
    shares = [percent_text(other / full) for other in others]
    assert "\t".join(("peak", *sizes, *shares)) in shown
    every = {"composition", "curve", "levers", "held", "fit_map", "times"}
    assert every <= set(all_figures(app))


def test_where_a_trainer_fits_it_is_one_click_away() -> None:
    app = sound(opened(model="google/gemma-4-E4B", method="qlora", gpu="t4"))
    assert "! QLoRA r16 fits a T4 with TRL and Unsloth: " in texts(app)
    offer = app.button(key="apply.trainer")
    assert offer.label.startswith("Unsloth: ")
    sound(offer.click().run())
    assert app.query_params["trainer"] == "unsloth"
    assert "✓ QLoRA r16 fits a T4" in texts(app)


def test_without_a_card_the_page_says_what_is_enough_and_offers_it() -> None:
    app = sound(opened(model="meta-llama/Llama-3.1-8B", method="qlora", trainer="bare"))
    setup = TrainSetup(lora=LoraConfig(), quantization=Quantization())
    (answer,) = answers([Workload(model=find_model("meta-llama/Llama-3.1-8B"), setup=setup)])
    card = smallest_cards(answer.prediction)[0]
    says = verdict(answer)
    assert f"{says.words}{says.rest}" in texts(app)
    assert f" {card.memory_gib_marketed:g} GB GPU" in says.words
    assert "Choose a GPU" in texts(viewed(app, "Fit map"))
    sound(app.button(key="apply.0").click().run())
    assert asked(app).gpu == card.key and "QLoRA r16 fits " in texts(app)


OPTIONS: list[tuple[str, str, Any, str, str]] = [
    ("number_input", "batch_size", 4, "batch-size", "4"),
    ("number_input", "seq_len", 128, "seq-len", "128"),
    ("number_input", "accumulation", 2, "accumulation", "2"),
    ("toggle", "checkpointing", True, "checkpointing", "yes"),
    ("number_input", "rank", 8, "rank", "8"),
    ("number_input", "alpha", 32.0, "alpha", "32"),
    ("number_input", "dropout", 0.1, "dropout", "0.1"),
    ("selectbox", "targets", "attention", "targets", "attention"),
    ("toggle", "use_rslora", True, "use-rslora", "yes"),
    ("selectbox", "adapter_dtype", "bfloat16", "adapter-dtype", "bfloat16"),
    ("text_input", "modules_to_save", "lm_head", "modules-to-save", "lm_head"),
    ("toggle", "double_quant", False, "double-quant", "no"),
    ("selectbox", "recipe", "kbit", "recipe", "kbit"),
    ("selectbox", "quant_type", "int8", "quant-type", "int8"),
    ("toggle", "use_dora", True, "use-dora", "yes"),
    ("selectbox", "peft_type", "vera", "peft-type", "vera"),
    ("selectbox", "dtype", "float32", "dtype", "float32"),
    ("selectbox", "precision", "amp", "precision", "amp"),
    ("selectbox", "optimizer", "sgd", "optimizer", "sgd"),
    ("selectbox", "optimizer_impl", "fused", "optimizer-impl", "fused"),
    ("selectbox", "attention", "eager", "attention", "eager"),
    ("selectbox", "device", "cpu", "device", "cpu"),
    ("selectbox", "engine", "analytic", "engine", "analytic"),
    ("text_input", "revision", "main", "", ""),
    ("toggle", "offline", True, "offline", "yes"),
]


def test_a_trainer_fills_in_what_nobody_has_set() -> None:
    app = opened(**GPT2, method="lora", rank="4")
    choose(app.selectbox(key="ask.trainer"), "trl-sft")
    question = asked(app)
    assert (question.trainer, question.options["rank"]) == ("trl-sft", 4)
    assert (question.options["seq_len"], question.options["loss"]) == (256, "trl")
    shown = {e.key: e.value for e in (*app.number_input, *app.toggle, *app.selectbox)}
    assert (shown["ask.batch_size"], shown["ask.checkpointing"]) == (8, True)
    assert shown["ask.loss"] == "trl"
    assert question.explicit == {"methods", "rank", "seq_len"}
    assert app.query_params["trainer"] in ("trl-sft", ["trl-sft"])
    assert "batch-size" not in app.query_params
    assert "Trained by TRL 1.16's SFTTrainer" in texts(viewed(app, "Explanation"))
    sound(app.selectbox(key="ask.trainer").set_value(None).run())
    assert asked(app).options == completed(
        None, {"methods": ("lora",), "rank": 4, "seq_len": 256}, asked(app).model
    )


def test_another_optimizer_takes_no_implementation_of_the_trainer_s_own() -> None:
    """And the trainer's own brings it back."""
    app = opened(**GPT2, method="lora", trainer="trl-sft")
    assert asked(app).options["optimizer_impl"] == "fused"
    for optimizer, implementation in (("adamw_8bit", "foreach"), ("adamw", "fused")):
        choose(app.selectbox(key="ask.optimizer"), optimizer)
        question = asked(app)
        assert question.options["optimizer"] == optimizer
        assert question.options["optimizer_impl"] == implementation
        shown = {e.key: e.value for e in app.selectbox}
        assert shown["ask.optimizer_impl"] == implementation
        assert "optimizer_impl" not in question.explicit


@pytest.mark.grid
@pytest.mark.parametrize(
    ("kind", "name", "value", "parameter", "text"), OPTIONS, ids=[o[1] for o in OPTIONS]
)
def test_every_option_reaches_the_question_the_address_and_the_answer(
    kind: str, name: str, value: Any, parameter: str, text: str
) -> None:
    asked_methods = {"method": ["full", "lora", "qlora"], "trainer": "bare"}
    app = with_all_settings(opened("Explanation", **GPT2, **asked_methods))
    before = texts(app)
    found = next(element for element in getattr(app, kind) if element.key == f"ask.{name}")
    sound(found.set_value(value).run())
    question = asked(app)
    assert question.options.get(name, getattr(question, name, None)) == value
    if parameter:
        assert app.query_params[parameter] == [text] or app.query_params[parameter] == text
    # cost nothing, or change words that stand in closed drawers
    silent = {"alpha", "engine", "revision", "offline", "device"}
    assert (texts(app) != before) or name in silent


def test_every_option_has_a_widget() -> None:
    names = set()
    for sharding in ("zero2", "fsdp", "fsdp1"):
        asked = {"method": ["full", "lora", "qlora"], "sharding": sharding, "world_size": "2"}
        app = with_all_settings(opened(**GPT2, **asked))
        widgets = [*app.number_input, *app.selectbox, *app.text_input, *app.toggle]
        names |= {str(widget.key).removeprefix("ask.") for widget in widgets}
    assert set(SETUP_OPTIONS) <= names


def test_every_sentence_of_the_command_line_is_on_the_page_once() -> None:
    both = of_gpt2("l4", levers="all")
    excess = activation_excess(*(answer.prediction for answer in both))
    paragraphs = [b for b in model_blocks(both) if isinstance(b, Paragraph)]
    shown = all_texts(sound(opened(model="gpt2", seq_len="256", gpu="l4", trainer="bare"))).split(
        "\n"
    )
    lines = [line for block in paragraphs for line in block.lines]
    own = ("Expect ", "full, one by one: ", "LoRA r16, one by one: ", "Plain PyTorch loop")
    lines = [line for line in lines if not line.startswith(own)]
    assert len(lines) > 10 and excess is not None
    assert {line: shown.count(line.strip()) for line in lines} == dict.fromkeys(lines, 1)


def test_layers_are_chosen_with_a_list_of_names() -> None:
    app = sound(opened(**GPT2, targets="c_attn", layers_to_transform="0-3"))
    assert asked(app).options["layers_to_transform"] == "0-3"
    assert "layers 0, 1, 2, 3" in texts(viewed(app, "Explanation"))


def test_methods_stand_side_by_side_and_bring_their_options() -> None:
    app = sound(opened(**GPT2, method=["full"], trainer="bare"))
    assert not [n for n in app.number_input if n.key == "ask.rank"]
    methods = app.pills(key="ask.methods")
    sound(methods.set_value(["full", "qlora"]).run())
    assert [n.value for n in app.number_input if n.key == "ask.rank"] == [16]
    assert app.query_params["method"] == ["full", "qlora"]
    found = of_gpt2(methods="full qlora")
    peaks = bytes_texts([answer.prediction.peak.total_bytes for answer in found])
    shown = texts(viewed(app, "Explanation"))
    assert "\t".join(("peak", *(peak.split()[0] for peak in peaks))) in shown
    assert {peak.split()[1] for peak in peaks} == {"GiB"}


def test_options_come_back_with_their_method() -> None:
    app = opened(**GPT2, rank="64")
    choose(app.pills(key="ask.methods"), ["full"])
    assert asked(app).options["rank"] == 16 and "rank" not in app.query_params
    choose(app.pills(key="ask.methods"), ["full", "lora"])
    assert asked(app).options["rank"] == 64


def test_a_card_brings_a_verdict_and_a_map_of_what_fits() -> None:
    app = opened(**GPT2, trainer="bare")
    choose(app.selectbox(key="ask.gpu"), "rtx_4090")
    assert app.query_params["gpu"] in ("rtx_4090", ["rtx_4090"])
    answer = of_gpt2("rtx_4090")[1]
    shown = texts(viewed(app, "Fit map"))
    assert answer.fit is not None
    assert f"verdict\t{labels.VERDICT_LABELS[answer.fit.verdict]}" in shown
    assert f"headroom\t{room(answer.fit).headroom}\n" in shown
    assert "fit_map" in figures(app)


def test_what_the_verdict_rests_on_adds_up_on_the_page() -> None:
    """Peak, reserve and headroom, as they stand, to the card's memory; here rounding alone would
    miss by a hundredth."""
    asked = {"model": "meta-llama/Llama-3.1-8B", "gpu": "h100_sxm_80gb", "seq_len": "512"}
    app = sound(opened(**asked, method=["full", "lora", "qlora"]))
    shown = texts(viewed(app, "Fit map"))
    usable, *parts = (
        re.search(words, shown)[1]  # type: ignore[index]
        for words in (
            *(r"([0-9.]+) GiB usable", r"\tpeak\t([0-9.]+)"),
            *(r"\treserve [^\t]*\t([0-9.]+)", r"\theadroom\t(-?[0-9.]+)"),
        )
    )
    assert sum(map(Decimal, parts)) == Decimal(usable)


def test_a_card_brings_the_time_of_a_step_with_its_interval() -> None:
    assert "times" not in all_figures(sound(opened(**GPT2)))
    app = sound(opened(**GPT2, gpu="rtx_4090", trainer="bare"))
    drawn_times = figures(app)["times"]
    steps = [a.timing.step for a in of_gpt2("rtx_4090") if a.timing]
    times = [step.time for step in steps if step]
    assert len(times) == 2
    lora_time = times[1]
    assert f"{lora_time.tokens_per_second:,.0f} tokens/s" in texts(app)
    shown = all_texts(app)
    assert "One step on NVIDIA GeForce RTX 4090" in shown and labels.BASIS_LABELS["fitted"] in shown
    longest = max(time.high for time in times)
    for time, label in zip(times, ("full", "LoRA r16"), strict=True):
        assert label in shown
        for seconds in (time.seconds, time.low, time.high):
            assert f"\t{seconds_text(seconds, longest)}" in shown
        assert rate_text(time.tokens_per_second) in shown
    sums = [milliseconds / 1000 for milliseconds in sums_of_bars(drawn_times)]
    assert sums == pytest.approx([time.seconds for time in times])
    assert shown.count("LoRA r16 makes ") == 1


def test_a_time_on_a_card_that_has_no_room_says_so_beside_it() -> None:
    asked = {"model": "meta-llama/Llama-3.1-8B", "gpu": "rtx_4090", "checkpointing": "yes"}
    app = sound(opened(**asked, method=["full", "lora", "qlora"]))
    assert ", if it fitted" not in texts(app)
    assert ", if it fitted" in texts(choose(app.selectbox(key="ask.about"), "full"))
    assert "full: speed if it fitted." in texts(viewed(app, "Timeline"))
    assert "speed if it fitted" not in all_texts(sound(opened(**GPT2, gpu="rtx_4090")))


def test_a_card_of_unknown_speed_is_told_and_gets_no_time() -> None:
    app = sound(opened(**GPT2, gpu="custom:24GiB"))
    assert "the time of a step on custom:24GiB is not known" in texts(app)
    drawn = all_figures(app)
    assert "times" not in drawn and "fit_map" in drawn


def test_figures_show_the_numbers_of_the_answer() -> None:
    """The bars of the peak add up to the peak of every method, and the levers are those of the
    answer."""
    drawn = all_figures(sound(opened(**GPT2, method=["full", "lora"], trainer="bare")))
    found = of_gpt2(levers="all")
    sums = [round(gib * GIB) for gib in sums_of_bars(drawn["composition"])]
    assert sums == [a.prediction.peak.total_bytes for a in found]
    words = json.dumps(drawn["levers"])
    levers = found[1].levers
    assert levers and all(bytes_text(lever.saved_bytes) in words for lever in levers)


def test_the_page_is_about_the_method_of_the_sentence() -> None:
    """Which is asked beside the others where it was not, and is in the address where it is not the
    usual one."""
    app = sound(opened(**GPT2))
    assert "Memory over one step, LoRA r16" in texts(app) and "about" not in app.query_params
    for method, label in (("full", "full"), ("qlora", "QLoRA r16")):
        choose(app.selectbox(key="ask.about"), method)
        assert f"Memory over one step, {label}" in texts(app)
        assert app.query_params["about"] in (method, [method])
    assert asked(app).options["methods"] == ("full", "lora", "qlora")
    choose(app.pills(key="ask.methods"), ["full", "lora"])
    assert "Memory over one step, LoRA r16" in texts(app) and "about" not in app.query_params


@pytest.mark.parametrize(
    ("view", "drawer", "says"),
    [
        ("Explanation", "explain", "How full was worked out"),
        ("Breakdown", "layer_tables", "Trained weights per layer"),
    ],
)
def test_a_drawer_is_filled_when_it_is_opened(view: str, drawer: str, says: str) -> None:
    app = viewed(sound(opened(**GPT2)), view)
    assert says not in texts(app)
    app.session_state[drawer] = True
    assert says in texts(sound(app.run()))


def test_what_is_refused_is_said_and_the_page_stays_alive() -> None:
    app = opened(**GPT2, optimizer="adafactor", optimizer_impl="fused")
    assert "adafactor has no fused implementation" in problems(app)[0]
    choose(app.selectbox(key="ask.optimizer_impl"), "foreach")


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"gpu": "rtx_4090", "device": "cpu"}, "--gpu and --device cpu exclude each other"),
        ({"gpu": "rtx_409"}, "unknown GPU rtx_409"),
        ({"engine": "traced"}, "command line"),
        ({"engine": "compiled"}, "compile"),
        ({"model": "meta-llama/Llama-3.1-8C"}, "Did you mean meta-llama/Llama-3.1-8B"),
    ],
)
def test_what_has_no_answer_is_refused_in_words(asked: dict[str, Any], says: str) -> None:
    assert says in problems(opened(**{**GPT2, **asked}))[0]


def test_what_a_link_says_in_vain_is_shown_until_the_question_changes() -> None:
    app = opened(**GPT2, rank="zero", records="/etc/passwd")
    (told,) = cautions(app)
    assert "rank is 'zero'" in told and "no option 'records'" in told
    choose(app.number_input(key="ask.batch_size"), 2)
    assert not cautions(app)


def test_the_ends_of_what_a_link_may_say_can_be_shown() -> None:
    """And the order of methods, which is the page's own."""
    ends = {"dropout": "0.9999999", "alpha": "9007199254740991", "nonsense": "1"}
    ends |= dict.fromkeys(("rank", "accumulation"), "2147483647")
    app = sound(opened(**GPT2, method=["lora", "full"], **ends))
    assert asked(app).options["methods"] == ("full", "lora")
    assert asked(app).options["dropout"] == 0.9999999
    assert any("nonsense" in text for text in cautions(app))


def test_an_address_changed_from_outside_is_followed() -> None:
    """As by the browser's button for going back."""
    app = sound(opened(**GPT2, rank="8"))
    app.query_params["rank"] = "32"
    sound(app.run())
    assert asked(app).options["rank"] == 32
    assert [n.value for n in app.number_input if n.key == "ask.rank"] == [32]
    app.query_params["page"] = "catalogue"
    assert "262 of 262 models" in texts(sound(app.run()))


def upload(app: AppTest, name: str, content: bytes) -> AppTest:
    """The page with a config.json of the user's own."""
    app.segmented_control(key="ask.origin").set_value("A config.json").run()
    app.file_uploader(key="config_json").set_value((name, content, "application/json"))
    return app.run()


def test_a_config_is_uploaded_and_has_no_link() -> None:
    app = opened(**GPT2)
    choose(app.segmented_control(key="ask.origin"), "A config.json")
    assert "A config.json is needed" in texts(app) and "model" not in app.query_params
    content = json.dumps(dict(find_model("Qwen/Qwen2.5-0.5B").published)).encode()
    sound(upload(app, "mine.json", content))
    assert "Fine-tune mine" in texts(app)
    assert "mine: qwen2, 24 layers" in texts(viewed(app, "Explanation"))
    bad = b'{"model_type": "llama", "hidden_size": "<b>"}'
    assert "hidden_size" in problems(upload(app, "bad.json", bad))[0]


def test_a_model_that_torch_would_build_is_told_where_to_ask() -> None:
    app = upload(opened(**GPT2), "x.json", b'{"model_type": "mamba"}')
    assert "ask on the command line" in problems(app)[0]


def test_an_error_that_nobody_expected_spoils_one_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    app = sound(opened(**GPT2))

    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("secret detail")

    with monkeypatch.context() as patch:
        patch.setattr(predict_page, "answered", broken)
        app.run()
        assert "not expected (ZeroDivisionError)" in problems(app)[0]
        assert "secret" not in texts(app)
    sound(app.run())


# --- compare --------------------------------------------------------------------------------------


def stored(path: Path, *found: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(records.jsonl(found), "utf-8")
    return path


Keep = Callable[..., Path]


@pytest.fixture
def keep(tmp_path: Path) -> Keep:
    """Writes records into the user's own store."""
    return partial(stored, tmp_path / "data" / "lora_profiler" / "records.jsonl")


@pytest.fixture
def without_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in an installed wheel."""
    place = tmp_path / "site-packages" / "lora_profiler" / "__init__.py"
    monkeypatch.setattr(lora_profiler, "__file__", str(place))


installed = pytest.mark.usefixtures("without_checkout")


def frame(app: AppTest) -> Any:
    return app.dataframe[0].value


def test_the_committed_records_are_compared_as_the_command_line_does() -> None:
    app = sound(opened(page="compare"))
    folder = ROOT / "benchmarks" / "records"
    texts_of = (path.read_text("utf-8") for path in folder.rglob("*.jsonl"))
    lines = sum(bool(line.strip()) for text in texts_of for line in text.splitlines())
    assert len(frame(app)) == lines
    told = json.loads(lora_profile("compare", str(folder), "--format", "json").stdout)
    of_peaks = (c for c in told["comparisons"] if c["metric"] == "peak_requested_bytes")
    errors = [100 * c["relative_error"] for c in of_peaks]
    assert frame(app)["error, %"].dropna().tolist() == pytest.approx(errors)
    assert f"{lines} records, predicted against measured" in texts(app)
    assert {"scatter", "strip"} <= set(figures(app))


def test_bundled_runs_are_one_click_away() -> None:
    app = sound(opened(page="compare"))
    app.pills(key="sources").set_value([]).run()
    assert not app.dataframe
    (button,) = (b for b in app.button if b.label == "Show the 137 bundled runs")
    assert len(frame(sound(button.click().run()))) == 137


def test_guides_are_read_without_a_network() -> None:
    app = sound(opened(page="docs"))
    guides = list((ROOT / "docs" / "guide").glob("*.md"))
    choice = app.selectbox(key="docs.guide")
    assert len(choice.options) == len(guides) and choice.value == "Does it fit?"
    for title in choice.options[:3]:
        (text,) = sound(app.selectbox(key="docs.guide").set_value(title).run()).markdown
        assert text.value.startswith(f"# {title}") and ".md)" not in text.value


@installed
def test_filters_narrow_what_is_shown(keep: Keep) -> None:
    failed = {"status": "oom", "failure": Failure(reason="no room")}
    keep(
        records.make_record(),
        records.make_record(records.LORA_WORKLOAD),
        records.make_record(device=records.H100),
        records.make_record(repeat=1, **failed),
    )
    app = sound(opened(page="compare"))
    assert len(frame(app)) == 4
    assert {"predicted, MiB", "measured, MiB"} <= set(frame(app))
    assert "Not compared because the run failed: 1 out of memory" in texts(app)
    for name, value, left in (
        ("method", "lora", 1),
        ("device", records.H100.name, 1),
        ("status", "oom", 1),
        ("model", "tiny-gpt2", 4),
    ):
        choose(app.multiselect(key=f"filter.{name}"), [value])
        assert len(frame(app)) == left, name
        app.multiselect(key=f"filter.{name}").set_value([]).run()
    app.multiselect(key="filter.method").set_value(["lora"]).run()
    app.multiselect(key="filter.status").set_value(["oom"]).run()
    assert "None of the 4 records" in texts(sound(app))


def test_what_was_chosen_is_still_chosen_after_another_page() -> None:
    app = sound(opened(page="compare"))
    app.multiselect(key="filter.method").set_value(["qlora"]).run()
    few = len(frame(app))
    page = app.segmented_control(key="page")
    sound(page.set_value("Predict").run())
    app.number_input(key="ask.rank").set_value(5).run()
    for name in ("Compare", "Predict"):
        sound(app.segmented_control(key="page").set_value(name).run())
        if name == "Compare":
            assert len(frame(app)) == few
    assert [n.value for n in app.number_input if n.key == "ask.rank"] == [5]
    assert app.query_params["rank"] in ("5", ["5"])


@installed
def test_one_record_in_full(keep: Keep) -> None:
    """By the link to it: its error table, its figures, its machine."""
    record = records.make_record()
    keep(record, records.make_record(repeat=1))
    app = sound(opened(page="compare", record=record.id))
    shown = texts(app)
    assert f"record {record.id}" in shown and "tiny-gpt2, full: ok" in shown
    assert "peak of each phase" in shown
    assert {"record.peak", "record.steps-1"} <= set(figures(app))
    app.session_state["record.environment"] = True
    shown = texts(sound(app.run()))
    assert "torch\t2.13.0" in shown and "A processor" in shown and "0123abc" in shown


@installed
def test_two_records_stand_side_by_side(keep: Keep) -> None:
    """In what they differ, and every number of both with its change: 1,000,000 is half of
    2,000,000."""
    first = records.make_record()
    second = records.make_record(records.LORA_WORKLOAD, peak_requested_bytes=1_000_000)
    keep(first, second)
    app = sound(opened(page="compare", record=first.id))
    assert "Two records side by side" not in texts(app)
    app.selectbox(key="compare.against").set_value(second.id).run()
    shown = texts(sound(app))
    assert "Two records side by side" in shown
    assert "method\tfull\tlora\t" in shown and "batch size\t" not in shown
    assert "peak, measured\t1.91 MiB\t976.56 KiB\t-50.0 %" in shown
    assert {f"pair.{first.id}", f"pair.{second.id}", "record.step-1"} <= set(figures(app))


@installed
def test_two_sets_of_records_are_before_and_after(
    keep: Keep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(records.make_record())
    other = stored(tmp_path / "after.jsonl", records.make_record(peak_requested_bytes=1_500_000))
    monkeypatch.setattr(sys, "argv", ["app.py", "--records", str(other)])
    app = sound(opened(page="compare"))
    app.session_state["sets"] = True
    app = sound(app.run())
    app.selectbox(key="sets.before").set_value("My records").run()
    app.selectbox(key="sets.after").set_value("after.jsonl").run()
    shown = texts(sound(app))
    assert "-25.00 %" in shown, shown


def test_a_link_to_a_record_that_is_not_there_is_told() -> None:
    app = opened(page="compare", record="<b>nothing</b>")
    assert any("<b>nothing</b>" in text for text in cautions(app))
    assert len(frame(app))


def test_a_link_that_names_a_file_reads_none(tmp_path: Path) -> None:
    path = stored(tmp_path / "elsewhere.jsonl", records.make_record())
    app = opened(page="compare", records=str(path))
    assert "no option 'records'" in cautions(app)[0]
    assert "tiny-gpt2" not in str(frame(app)["model"].tolist())


@installed
def test_without_any_records_the_page_says_where_they_come_from() -> None:
    app = sound(opened(page="compare"))
    shown = texts(app)
    assert "There are no records yet" in shown and "lora-profile bench" in shown
    assert "`" not in shown


@pytest.mark.grid
@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("nonsense\n", "no JSON"),
        ('{"schema_version": "9.9"}\n', "schema is '9.9'"),
        ('[{"a": 1}]\n', "must be an object"),
        ('{"torch": "foreign"}\n', "schema_version"),
        ("\x00\x01\x02", "no JSON"),
    ],
    ids=["empty", "blank", "no JSON", "newer", "a list", "foreign", "binary"],
)
def test_a_store_that_cannot_be_read_is_told_and_the_rest_is_shown(
    content: str, said: str, keep: Keep
) -> None:
    keep().write_text(content, "utf-8")
    app = opened(page="compare")
    assert any(said in text for text in problems(app)), problems(app)
    assert len(frame(app)) > 100
    assert not app.exception


@installed
def test_torn_older_and_unknown_records_are_passed_over_by_name(keep: Keep) -> None:
    good, foreign = record_dict(records.make_record()), record_dict(records.make_record(repeat=1))
    foreign["workload"]["model"] = {"id": "nobody/knows-this", "config": {"model_type": "mamba"}}
    longer = replace(records.WORKLOAD, setup=replace(records.WORKLOAD.setup, seq_len=16))
    older = {**record_dict(records.make_record(longer)), "schema_version": "1.0"}
    for name in ("conditions", "case_key", "environment_key", "id", "repeat"):
        older.pop(name)
    path = keep()
    lines = [*map(json.dumps, (good, foreign, older)), json.dumps(good)[:99]]
    path.write_text("\n".join(lines), "utf-8")
    app = sound(opened(page="compare"))
    told = "\n".join(cautions(app))
    assert "line 2" in told and "mamba" in told and "no JSON, as a crash leaves them" in told
    assert len(frame(app)) == 2


@installed
def test_named_files_and_folders_are_shown_and_missing_ones_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = stored(tmp_path / "named.jsonl", records.make_record())
    stored(tmp_path / "more" / "a.jsonl", records.make_record(repeat=1))
    stored(tmp_path / "not-named.jsonl", records.make_record(repeat=2))
    paths = (named, tmp_path / "more", tmp_path / "gone.jsonl")
    arguments = [word for path in paths for word in ("--records", str(path))]
    monkeypatch.setattr(sys, "argv", ["app.py", *arguments])
    app = opened(page="compare")
    assert len(frame(app)) == 2
    assert "gone.jsonl" in problems(app)[0]


@installed
def test_a_file_of_records_is_uploaded(tmp_path: Path) -> None:
    app = opened(page="compare")
    line = records.jsonl([records.make_record()]).strip()
    app.file_uploader(key="records_file").set_value(
        ("up.jsonl", f"{line}\nbroken\n".encode(), "application/json")
    )
    sound(app.run())
    assert len(frame(app)) == 1 and "one of its lines is no JSON" in cautions(app)[0]
    assert not list(tmp_path.rglob("up*"))
    app.file_uploader(key="records_file").set_value(("up.jsonl", b"\xff\xff", "application/json"))
    app.run()
    assert "not UTF-8" in problems(app)[0]


@installed
def test_names_from_elsewhere_are_text(keep: Keep) -> None:
    """Markup of HTML, Markdown and LaTeX in every place of a record that a page shows."""
    data = record_dict(
        records.make_record(
            device=replace(records.CPU, name=HOSTILE),
            environment={"packages": {HOSTILE: HOSTILE}, "cpu": HOSTILE},
        )
    )
    data["workload"]["model"]["id"] = HOSTILE
    failed = json.loads(json.dumps(data)) | {"repeat": 1}
    failed["measurement"] |= {"status": "crash", "failure": {"reason": HOSTILE, "phase": HOSTILE}}
    path = keep()
    path.write_text(json.dumps(data) + "\n" + json.dumps(failed) + "\n", "utf-8")
    app = opened(page="compare", record=json_id(path, 1))
    assert not app.exception
    assert frame(app)["model"].tolist() == [HOSTILE] * 2
    assert "It ended in <script>alert(1)</script>" in texts(app)
    app = opened(page="compare", record=json_id(path, 0))
    app.session_state["record.environment"] = True
    app.run()
    assert not app.exception
    assert texts(app).count("<script>alert(1)</script>") >= 4
    allowed = {"div", "h1", "h2", "h3", "p", "table", "caption", "thead", "tbody"}
    allowed |= {"tr", "th", "td", "section", "strong", "b", "span", "code"}
    assert all(tags_of(html) <= allowed for html in written(app))
    for element in (*app.markdown, *app.caption, *app.error, *app.warning, *app.info):
        assert "http://x.invalid" not in element.value
    drawn = figures(app)
    for trace in (trace for figure in drawn.values() for trace in figure["data"]):
        trace.pop("customdata", None)  # ids, which are not shown
    shown = json.dumps(drawn, ensure_ascii=False)
    assert "alert(1)" in shown  # the name of the run, and `<br>` is read
    assert not re.search(r"<(script|img|a)\b", shown)


def json_id(path: Path, place: int) -> str:
    from lora_profiler.measuring.records.load import read_records

    return read_records(path).records[place].id


# --- catalogue ------------------------------------------------------------------------------------


def test_models_and_cards_are_searchable() -> None:
    app = sound(opened(page="catalogue"))
    models, cards = (table.value for table in app.dataframe)
    assert (len(models), len(cards)) == (len(bundled_models()), len(bundled_gpus()))
    app.text_input(key="models_text").set_value("llama 8b").run()
    names = app.dataframe[0].value["model"].tolist()
    rows = app.dataframe[0].value.values.tolist()
    assert "meta-llama/Llama-3.1-8B" in names and all("8b" in str(row).lower() for row in rows)
    app.text_input(key="GPUs_text").set_value("h100").run()
    assert 0 < len(sound(app).dataframe[1].value) < 10
    app.text_input(key="models_text").set_value("<b>nothing").run()
    assert "No bundled model is called '<b>nothing'" in texts(sound(app))


# --- evidence -------------------------------------------------------------------------------------


def rows_of(app: AppTest, column: str = "measured, GiB") -> Any:
    """The first table with that column."""
    return next(table.value for table in app.dataframe if column in table.value)


def test_evidence_is_all_there_with_an_address_each() -> None:
    app = sound(opened(page="evidence", model="gpt2"))
    table = rows_of(app)
    assert list(table["published"]) == [row.url for row in measured_memory()]
    assert json.loads(app.dataframe[0].proto.columns)["published"]["type_config"]["type"] == "link"
    shown, found = texts(app), interval()
    assert f"{found.inside} of {found.rows} lie inside" in shown
    for part in (
        *("the other sources' 15 peaks", "Misses, and what is known of them", "fsdp_qlora:649"),
        *("qwen:1.8B:LoRA:1024", "what holds them was not found"),
    ):
        assert part in shown
    peaks = [row for row in measured_memory() if row.reading == "peak"]
    drawn = figures(app)
    for key, rows in (("memory", peaks), ("steps", measured_steps())):
        traces = drawn[f"evidence.{key}"]["data"]
        ids = [id_ for trace in traces for id_ in trace.get("customdata", ())]
        assert sorted(ids) == sorted(row.id for row in rows)
    app.session_state["evidence.left_out"] = True
    assert "cards, FSDP FULL_SHARD: communication is not modelled" in texts(app.run())


def test_the_figures_of_evidence_fill_what_the_headlines_count_and_no_more() -> None:
    """What is not counted is hollow, named in the plot, and explained under it and when pointed
    at."""
    app = sound(opened(page="evidence"))
    shown, drawn = texts(app), figures(app)
    peaks = {row.id: row for row in measured_memory() if row.reading == "peak"}
    counted = {
        "evidence.memory": {row.id for row in peaks.values() if row.is_graded},
        "evidence.steps": {row.id for row in measured_steps() if row.left_out == "model"},
    }
    assert len(counted["evidence.memory"]) == interval().rows
    assert "all conditions published" in shown and not re.search("tier [0-9]", shown)
    assert f"{labels.LEFT_OUT_LABELS['model']}\t{len(counted['evidence.steps'])}\t" in shown
    for key, ids in counted.items():
        filled, hollow = set(), set()
        for trace in drawn[key]["data"]:
            is_open = str(trace.get("marker", {}).get("symbol", "")).endswith("-open")
            (hollow if is_open else filled).update(trace.get("customdata", ()))
            assert not is_open or "not counted" in trace["name"]
            assert not is_open or all("not counted: " in text for text in trace["hovertext"])
        assert filled == ids and hollow and not hollow & ids
        assert f"{len(ids)} of the {len(ids | hollow)} public" in shown
    named = {note["text"] for note in drawn["evidence.memory"]["layout"]["annotations"]}
    apart = {row.model.partition("/")[2] for row in peaks.values() if row.apart}
    assert named == apart == {"gpt_bigcode-santacoder"}
    assert re.search(
        r"hollow: bigcode/gpt_bigcode-santacoder, QLoRA, 8 peaks off by -25\.48 % to -10\.61 %:"
        r" that outputs",
        shown,
    )


def cells(app: AppTest) -> Any:
    """The first table as its reader sees it."""
    return convert_arrow_bytes_to_pandas_df(app.dataframe[0].proto.arrow_data.styler.display_values)


def test_a_number_of_a_table_reads_as_it_does_in_the_text() -> None:
    app = sound(opened(page="evidence"))
    rows = measured_memory()
    errors = [error_text(row.error).removesuffix(" %") for row in rows]
    assert list(cells(app)["error, %"]) == errors
    assert list(cells(app)["measured, GiB"]) == [f"{row.measured_bytes / GIB:,.2f}" for row in rows]
    app.segmented_control(key="evidence.kind").set_value("steps").run()
    times = [seconds_text(row.measured_seconds) for row in measured_steps()]
    assert list(cells(app)["measured"]) == times
    app = sound(opened(page="compare"))
    errors = [text for text in cells(app)["error, %"] if text != "-"]
    assert errors and not any(text in ("+0.00", "-0.00") for text in errors)


def test_evidence_is_narrowed_by_source_method_and_card() -> None:
    app = sound(opened(page="evidence"))
    app.multiselect(key="evidence.source").set_value(["fms"]).run()
    app.multiselect(key="evidence.method").set_value(["qlora"]).run()
    expected = [row.id for row in measured_memory() if (row.source, row.method) == ("fms", "qlora")]
    assert list(rows_of(app)["id"]) == expected
    assert f"{len(expected)} of {len(measured_memory())} rows" in texts(app)
    app.multiselect(key="evidence.card").set_value(["l40s"]).run()
    assert "No row is of all that was chosen." in texts(sound(app))


def test_evidence_of_steps_is_another_table() -> None:
    app = sound(opened(page="evidence"))
    app.segmented_control(key="evidence.kind").set_value("steps").run()
    assert list(rows_of(app, "measured")["id"]) == [row.id for row in measured_steps()]
    app.multiselect(key="evidence.source").set_value(["qwen"]).run()
    assert set(rows_of(sound(app), "measured")["source"]) == {"Qwen's README"}
    app.segmented_control(key="evidence.kind").set_value("memory").run()  # which has none of Qwen's
    assert len(rows_of(sound(app))) == len(measured_memory())


def test_evidence_names_the_worst_of_each_kind_first() -> None:
    app = sound(opened(page="evidence"))
    shown = texts(app)
    memory = measured_memory()
    groups = [
        [row for row in memory if row.is_graded],
        [row for row in memory if row.apart],
        measured_steps(),
        own_rows("rehearsed"),
        own_rows("recorded"),
    ]
    at = 0
    for rows in groups:
        for row in sorted(rows, key=lambda row: -abs(row.error))[:5]:
            at = shown.index(f"\t{error_text(row.error)}\t", at)
    assert at < shown.index("By how much is published")


def test_what_was_rehearsed_never_passes_for_measured() -> None:
    app = sound(opened(page="evidence"))
    drawn = figures(app)
    for kind, word in (("rehearsed", "rehearsed"), ("recorded", "measured")):
        figure, rows = drawn[f"evidence.{kind}"], own_rows(kind)  # type: ignore[arg-type]
        marks = [trace for trace in figure["data"] if trace["mode"] == "markers"]
        points = [pair for t in marks for pair in zip(t["x"], t["y"], strict=True)]
        assert sorted(points) == sorted((r.counted_bytes, r.predicted_bytes) for r in rows)
        assert figure["layout"]["xaxis"]["title"]["text"] == f"{word} peak"
        told = [text for trace in figure["data"] for text in trace.get("hovertext", ())]
        assert told and all(f", {word} " in text for text in told)
    choice = app.segmented_control(key="evidence.kind")
    choice.set_value("rehearsed").run()
    table = rows_of(sound(app), "counted, GiB")
    assert len(table) == len(own_rows("rehearsed")) and "measured, GiB" not in table
    app.session_state["evidence.not_run"] = True
    assert not_rehearsed()[0][:40] in texts(app.run())


def test_the_nearest_rows_stand_beside_an_answer() -> None:
    model = "mistralai/Mistral-7B-v0.1"
    sizes = {"batch_size": "4", "seq_len": "4096", "checkpointing": "yes"}
    app = sound(opened(model=model, gpu="a100_sxm_80gb", **sizes))
    viewed(app, "Explanation")
    peaks, steps = rows_of(app), rows_of(app, "measured")
    assert list(peaks["method"]) == ["full", "LoRA"]
    assert set(peaks["model"]) == set(steps["model"]) == {model}
    addresses = (*peaks["published"], *steps["published"])
    assert all(address.startswith("https://github.com/") for address in addresses)
    shown = texts(app)
    assert shown.count("Expect full ") == 1
    assert not viewed(opened(model="gpt2", device="cpu"), "Explanation").dataframe


# --- all of them ----------------------------------------------------------------------------------


def test_no_page_loads_torch() -> None:
    """In a process of its own: every page, a model that torch would build, and a record of one."""
    code = f"""
import json, sys
sys.path[:0] = {[str(Path(__file__).parents[1]), str(ROOT)]!r}
sys.argv = ["app.py"]
from dashboard_app import all_texts, opened
for page in ("predict", "plan", "crossover", "compare", "measure", "learn", "evidence", "catalogue", "docs"):
    assert not opened(page=page, **({{}} if page in ("compare", "learn") else {{"model": "gpt2"}})).exception
app = opened(model="gpt2", gpu="rtx_4090")
app.session_state["numbers"] = app.session_state["explain"] = app.session_state["layer_tables"] = True
app.session_state["export"] = True
assert "What lowers the peak" in all_texts(app) and app.download_button
app.segmented_control(key="ask.origin").set_value("A config.json").run()
app.file_uploader(key="config_json").set_value(("x.json", b'{{"model_type": "mamba"}}', "application/json"))
assert not app.run().exception
app = opened(page="compare")
app.file_uploader(key="records_file").set_value(("up.jsonl", {_record_of_mamba()!r}, "application/json"))
assert not app.run().exception
print(sorted(set(sys.modules) & {{"torch", "transformers", "peft", "accelerate", "bitsandbytes"}}))
"""
    assert in_python(code, timeout=240).strip() == "[]"


def _record_of_mamba() -> bytes:
    data = record_dict(records.make_record())
    data["workload"]["model"] = {"id": "nobody/knows-this", "config": {"model_type": "mamba"}}
    return json.dumps(data).encode()


def test_every_widget_and_figure_has_words() -> None:
    """For people who do not see it."""
    for page in map(str.lower, link.PAGES):
        alone = page in ("compare", "learn")
        app = opened(page=page, **({} if alone else {"model": "gpt2", "gpu": "rtx_4090"}))
        if page == "predict":
            app.session_state["export"] = True
            for view in VIEWS:
                named(viewed(app, view))
        named(app)


def named(app: AppTest) -> None:
    """Every widget, figure and table of the page."""
    kinds = (
        "button selectbox number_input text_input toggle multiselect pills segmented_control"
        " select_slider download_button file_uploader expander"
    )
    widgets = [widget for kind in kinds.split() for widget in getattr(app, kind)]
    assert widgets and all(widget.label.strip() for widget in widgets)
    assert all(shown["says"].strip() for shown in drawings(app).values())
    assert all(table.proto.alt.strip() for table in app.dataframe)


def test_downloads_stand_on_every_page() -> None:
    names = {
        "predict": {"JSON", "CSV", "CSV by layer", "Report, HTML", "Trainer's file"},
        "plan": {"JSON", "Trainer's file"},
        "compare": {"JSON", "CSV of runs", "CSV of errors", "Report, HTML"},
        "catalogue": {"JSON", "CSV"},
        "evidence": {"JSON", "CSV"},
    }
    for page, expected in names.items():
        app = sound(opened(page=page, **({} if page == "compare" else {"model": "gpt2"})))
        if page in ("predict", "plan"):
            app.session_state["export"] = True
            sound(app.run())
        assert {button.label for button in app.download_button} == expected


def test_text_of_reads_what_a_reader_reads() -> None:
    """The tests' own eyes."""
    html = "<p>a &lt;b&gt;</p><table><tr><th>c</th><td>d</td></tr></table>"
    assert text_of(html) == "a <b>\n\tc\td"
