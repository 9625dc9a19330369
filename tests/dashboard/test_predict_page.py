"""Predict's new parts and Crossover, run without a browser: Apply, the training's length, A against
B, and what is taken along."""

import json
import re
from urllib.parse import parse_qs

import pytest
from streamlit.testing.v1 import AppTest

from dashboard_app import asked, figures, opened, problems, sound, texts, viewed
from lora_profiler import LoraConfig, TrainSetup, Workload, crossover, find_gpu, find_model
from lora_profiler.dashboard import measuring
from lora_profiler.dashboard.answered import answered, workloads
from lora_profiler.dashboard.first_screen import taken, trainer_bars
from lora_profiler.dashboard.link import parsed, written
from lora_profiler.dashboard.question import Question, completed
from lora_profiler.report.decision.crossover import sentences
from lora_profiler.units import GIB

pytestmark = pytest.mark.usefixtures("own_window")

LLAMA = {"model": "meta-llama/Llama-3.1-8B", "gpu": "rtx_4090"}
SMALL = {"model": "openai-community/gpt2", "seq_len": "256", "gpu": "rtx_4090"}


def widgets_text(label: str) -> str:
    """A label without the escapes of Markdown."""
    return label.replace("\\", "")


def address(app: AppTest) -> dict[str, list[str]]:
    return {n: [v] if isinstance(v, str) else list(v) for n, v in app.query_params.items()}


# --- apply ----------------------------------------------------------------------------------------


def test_apply_makes_it_fit_and_shows_in_the_settings_and_the_address() -> None:
    app = sound(opened(**LLAMA, method=["full", "lora", "qlora"], trainer="bare"))
    assert "LoRA r16 does not fit an RTX 4090: needs at least 36.8 GiB" in texts(app)
    assert not app.toggle(key="ask.checkpointing").value
    sound(app.button(key="apply.0").click().run())
    assert "LoRA r16 fits an RTX 4090: 18.9 GiB + up to" in texts(app)
    assert app.toggle(key="ask.checkpointing").value
    assert address(app)["checkpointing"] == ["yes"]
    again = opened(**{name.replace("-", "_"): v for name, v in address(app).items()})
    assert asked(again) == asked(app) and texts(again) == texts(app)


def test_apply_of_another_method_asks_it_beside_and_is_about_it() -> None:
    app = sound(opened(**LLAMA, method="lora", trainer="bare"))
    change = app.button(key="apply.1")
    assert widgets_text(change.label).startswith(
        "A 4-bit base (QLoRA) and PEFT's default targets: 18.8 GiB"
    )
    sound(change.click().run())
    question = asked(app)
    assert question.options["methods"] == ("lora", "qlora")
    assert question.options["targets"] == "default"
    assert app.selectbox(key="ask.about").value == "qlora"
    assert address(app)["about"] == ["qlora"]
    assert "QLoRA r16 fits an RTX 4090: 18.8 GiB" in texts(app)


def test_apply_keeps_an_uploaded_model() -> None:
    app = opened(gpu="custom:1GiB", method="lora", seq_len="256", trainer="bare")
    sound(app.segmented_control(key="ask.origin").set_value("A config.json").run())
    content = json.dumps(dict(find_model("gpt2").published)).encode()
    app.file_uploader(key="config_json").set_value(("mine.json", content, "application/json"))
    sound(app.run())
    assert "may run out of memory" in texts(app)
    sound(app.button(key="apply.0").click().run())
    assert "Fine-tune mine" in texts(app) and " fits an RTX" in texts(app)
    assert not address(app)
    app.session_state["export"] = True
    commands = [code.value for code in sound(app.run()).code]
    assert len(commands) == 1 and "mine.json" in commands[0]


# --- the training ---------------------------------------------------------------------------------


def test_rows_epochs_and_price_make_hours_and_cost_and_are_in_the_address() -> None:
    app = sound(opened(**SMALL))
    assert "rows" not in address(app) and "costs" not in texts(app)
    asked_for = {"rows": 5_000, "mean_length": 500, "epochs": 2.0, "price": 0.4}
    for name, value in asked_for.items():
        sound(app.number_input(key=f"ask.{name}").set_value(value).run())
    found = address(app)
    assert [found[n] for n in ("mean-length", "epochs", "price")] == [["500"], ["2"], ["0.4"]]
    assert "rows" not in found  # as nobody said it
    shown = texts(app)
    assert "for 2 epochs of 2.50 M tokens" in shown and "costs 0." in shown
    again = opened(**{name.replace("-", "_"): v for name, v in found.items()})
    assert texts(again) == shown
    for n in ("Catalogue", "Predict"):  # what was typed is still there after another page
        sound(app.segmented_control(key="page").set_value(n).run())
    assert app.number_input(key="ask.epochs").value == 2.0 and texts(app) == shown


# --- A against B ----------------------------------------------------------------------------------


def test_what_is_pinned_is_compared_with_what_is_asked_next() -> None:
    app = viewed(sound(opened(**SMALL)), "Compare")
    assert "Click Compare with this" in texts(app)
    sound(app.button(key="pin").click().run())
    assert "nothing differs yet" in texts(app)
    sound(app.number_input(key="ask.rank").set_value(64).run())
    shown = texts(app)
    assert "A, LoRA r16, and B, LoRA r64" in shown
    rows = [line.strip() for line in shown.splitlines()]
    peak = next(line for line in rows if re.match(r"peak\t[\d.]+ MiB\t[\d.]+ MiB", line))
    assert re.fullmatch(r"peak\t[\d.]+ MiB\t[\d.]+ MiB\t\+\d+\.\d %", peak)
    assert "rank\t16\t64" in rows
    assert not [row for row in rows if row.startswith(("verdict\t", "GPU\t", "model\t"))]


# --- what is taken along --------------------------------------------------------------------------


def test_link_command_and_trainer_s_file_ask_the_same() -> None:
    app = opened(**SMALL, method="lora", checkpointing="yes", trainer="trl-sft")
    assert not app.code
    app.session_state["export"] = True
    link, command = (code.value for code in sound(app.run()).code)
    found = parsed(parse_qs(link.partition("?")[2]))
    assert found.question == asked(app) and not found.complaints
    assert command == (
        "lora-profile openai-community/gpt2 --trainer trl-sft --method lora --seq-len 256"
        " --gpu rtx_4090"
    )
    sound(app.selectbox(key="trainer_file").set_value("trl").run())
    (file,) = [button for button in app.download_button if button.label == "Trainer's file"]
    assert file.proto.url
    sound(app.selectbox(key="trainer_file").set_value("torchtune").run())
    assert "torchtune has no builder of openai-community/gpt2" in texts(app)
    assert "Trainer's file" not in [button.label for button in app.download_button]


# --- crossover ------------------------------------------------------------------------------------


def test_crossover_says_what_the_command_line_does() -> None:
    app = sound(
        opened(
            page="crossover",
            model="openai-community/gpt2",
            method=["full", "lora"],
            gpu="rtx_4090",
            trainer="bare",
        )
    )
    model, gpu = find_model("gpt2"), find_gpu("rtx_4090")
    ways = [
        Workload(model=model, setup=setup)
        for setup in (TrainSetup(), TrainSetup(lora=LoraConfig()))
    ]
    shown = texts(app)
    of_memory = [line for line in sentences(crossover(ways, gpu)) if "memory" in line]
    assert of_memory and all(line in shown for line in of_memory)
    assert "takes longer" not in shown and "Highest rank at which" in shown
    assert "no checkpointing." in shown  # whatever the settings beside it say of each method
    (drawn,) = figures(app).values()
    assert {trace["name"] for trace in drawn["data"]} == {"full", "LoRA r16"}
    sound(app.toggle(key="crossover.timed").set_value(True).run())
    assert all(line in texts(app) for line in sentences(crossover(ways, gpu)))


def test_crossover_of_one_method_is_refused_in_words() -> None:
    app = opened(page="crossover", model="openai-community/gpt2", method="lora")
    assert "a crossover is between methods" in problems(app)[0]
    assert written("Crossover", asked(app))["page"] == ["crossover"]
    sound(app.pills(key="ask.methods").set_value(["full", "lora"]).run())


# --- the settings beside the page -----------------------------------------------------------------


def test_a_switch_whose_default_is_each_method_s_own_says_so_and_can_be_set_for_all() -> None:
    """Guides checkpoint with LoRA, and not in full fine-tuning."""
    app = sound(opened(model="openai-community/gpt2", method=["full", "lora"], seq_len="256"))
    switch = app.selectbox(key="ask.checkpointing")
    assert switch.value is None and switch.proto.placeholder == "full off, LoRA on"
    assert [a.setup.checkpointing for a in made(app)] == [False, True]
    for value, word in ((False, "no"), (True, "yes")):
        sound(app.selectbox(key="ask.checkpointing").set_value(value).run())
        assert [a.setup.checkpointing for a in made(app)] == [value, value]
        assert address(app)["checkpointing"] == [word]
    sound(app.pills(key="ask.methods").set_value(["lora"]).run())
    assert app.toggle(key="ask.checkpointing").value is True


def made(app: AppTest) -> list[Workload]:
    return workloads(find_model(asked(app).model), asked(app))


def test_reset_leaves_everything_to_its_default() -> None:
    app = sound(opened(**SMALL, method="lora", rank="64", dropout="0.5"))
    assert not app.button(key="reset").disabled
    sound(app.button(key="reset").click().run())
    options = completed(None, {"methods": ("lora",)}, SMALL["model"])
    assert asked(app) == Question(model=SMALL["model"], gpu="rtx_4090", options=options)
    assert app.button(key="reset").disabled and "rank" not in address(app)


def test_another_model_s_defaults_hold_for_what_nobody_has_set() -> None:
    """BERT was made for 512 tokens, and its weights are trained as they are published."""
    app = sound(opened(model="meta-llama/Llama-3.2-1B", method="lora", rank="64"))
    for model, tokens, dtype in (("bert-base-uncased", 512, None), ("gpt2", 1024, "bfloat16")):
        sound(app.text_input(key="ask.model").set_value(model).run())
        options = asked(app).options
        assert (options["seq_len"], options["dtype"], options["rank"]) == (tokens, dtype, 64)
        assert {*address(app)} == {"model", "method", "rank"}
        (setup,) = (workload.setup for workload in made(app))
        assert (setup.seq_len, setup.dtype) == (tokens, dtype or "float32")


def test_settings_are_what_the_trainer_sets_and_others_are_found_by_words() -> None:
    app = sound(opened(**SMALL, method="lora"))
    shown = {str(e.key) for e in (*app.number_input, *app.toggle, *app.selectbox)}
    assert {"ask.rank", "ask.targets", "ask.loss"} <= shown
    assert not {"ask.beta", "ask.images", "ask.oft_block_size", "ask.world_size"} & shown
    sound(app.text_input(key="settings.search").set_value("grpo beta").run())
    shown = {str(e.key) for e in (*app.number_input, *app.toggle, *app.selectbox)}
    assert "ask.beta" in shown and "ask.rank" not in shown
    sound(app.text_input(key="settings.search").set_value("").run())
    assert asked(app).options["seq_len"] == 256


def test_a_gpu_of_any_size_is_asked_by_its_memory() -> None:
    app = sound(opened(**SMALL))
    sound(app.text_input(key="gpu_memory").set_value("12GiB").run())
    assert asked(app).gpu == "custom:12GiB" and address(app)["gpu"] == ["custom:12GiB"]


# --- the model's name -----------------------------------------------------------------------------


def test_words_find_a_model_and_a_mistake_is_mended_by_a_button() -> None:
    app = sound(opened(**SMALL))
    sound(app.text_input(key="ask.model").set_value("qwen2.5 7b").run())
    assert "openai" not in texts(app).partition("Settings")[0]
    before = texts(app)
    app.text_input(key="ask.model").set_value("qwen2.5 77b").run()
    assert "There is no model 'qwen2.5 77b' here" in problems(app)[0]
    assert "Below is still qwen2.5 7b" in texts(app)
    verdict = before[before.index("✓") : before.index("GiB")]
    assert verdict in texts(app)  # the last answer stays
    sound(app.button(key="suggest.Qwen/Qwen2.5-7B").click().run())
    assert asked(app).model == "Qwen/Qwen2.5-7B"


# --- by trainer -----------------------------------------------------------------------------------


def test_a_click_takes_the_trainer_as_its_bar_has_it() -> None:
    question = Question(
        model=SMALL["model"],
        gpu="rtx_4090",
        options=completed(None, {"methods": ("full", "lora"), "seq_len": 256}, SMALL["model"]),
    )
    model = find_model(question.model)
    result = answered(model, question)
    bars = trainer_bars(result, result.about("lora"), model)
    assert len(bars) == 6  # torchtune and LitGPT have no GPT-2
    assert not any(bar.is_chosen for bar in bars)
    totals = [each.bar.total_bytes for each in bars]
    assert totals == sorted(totals)
    for bar in bars:
        wanted = taken(bar, question, model)
        assert wanted.trainer == bar.trainer
        after = answered(model, wanted)
        (own,) = [b for b in trainer_bars(after, after.about("lora"), model) if b.is_chosen]
        assert own.bar.peak_bytes == after.about("lora").prediction.peak.total_bytes
        for name in ("name", "parts", "sign", "speed"):
            assert getattr(own.bar, name) == getattr(bar.bar, name), bar.trainer


# --- other pages, and words -----------------------------------------------------------------------


def test_keys_of_other_pages_pass_silently() -> None:
    """Also those of Plan on Predict; what no page knows is told."""
    foreign = {"model": ["gpt2"], "rows": ["9"], "gpus": ["t4"], "record": ["x"], "alpha": ["32"]}
    for page in ("learn", "compare", "evidence", "predict"):
        assert parsed({"page": [page], **foreign}).complaints == (), page
        (told,) = parsed({"page": [page], **foreign, "nonsense": ["1"]}).complaints
        assert "'nonsense'" in told


def test_what_cannot_be_measured_here_is_replaced_by_one_click(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measuring, "physical_memory_bytes", lambda: 16 * GIB)
    app = opened(page="measure", model="meta-llama/Llama-3.1-8B")
    assert "This machine cannot measure it" in problems(app)[0]
    sound(app.button(key="measure.small").click().run())
    assert asked(app).model == "HuggingFaceTB/SmolLM2-135M"
    assert not app.button(key="measure.start").disabled
