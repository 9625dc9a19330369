"""The short answer: 25 lines of 80 columns; its advice held against every set of changes; its cards
against all of the catalogue."""

import itertools
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import commands
from lora_profiler import (
    Gpu,
    LoraConfig,
    TrainSetup,
    Workload,
    find_gpu,
    find_model,
    fit,
    predict,
    step_time,
)
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import bundled_gpus
from lora_profiler.facts.stacks import Stack
from lora_profiler.planning import advise as advising
from lora_profiler.planning import guided as guiding
from lora_profiler.planning.advise import advise
from lora_profiler.planning.answers import answers
from lora_profiler.planning.engine import on_card, peak_bytes
from lora_profiler.planning.fit import smallest_card, smallest_cards
from lora_profiler.planning.reserve import held_bytes, judge
from lora_profiler.report.answer.verdicts import size_text
from lora_profiler.report.json.predict import answer_dict

MODELS = (
    "meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-70B", "Qwen/Qwen2.5-0.5B",
    "mistralai/Mistral-7B-v0.1", "google/gemma-2-2b", "openai-community/gpt2",
    "EleutherAI/pythia-1.4b", "facebook/opt-1.3b", "mistralai/Mixtral-8x7B-v0.1",
    "microsoft/Phi-3.5-mini-instruct",
)  # fmt: skip
LLAMA = "meta-llama/Llama-3.1-8B"
OFFLINE = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | {"HF_HUB_OFFLINE": "1"}


def answer(*arguments: str) -> str:
    done = commands.in_this_process(*arguments, environment=OFFLINE)
    assert "Traceback" not in done.stderr
    return done.stdout


def narrow(*arguments: str) -> list[str]:
    """An answer's lines, 25 of 80 columns at most."""
    text = answer(*arguments)
    lines = text.splitlines()
    assert len(lines) <= 25 and max(map(len, lines)) <= 80, text
    return lines


ALL_METHODS = ("-s", "1024", "-b", "4", "--method", "full,lora,qlora", "--gpu", "rtx_4090")


@pytest.mark.grid
@pytest.mark.parametrize("model", MODELS)
def test_it_is_25_lines_of_80_columns(model: str) -> None:
    lines = narrow(model, *ALL_METHODS)
    assert lines[0][:2] in ("✓ ", "! ", "✗ ") and " an RTX 4090 " in lines[0]
    assert sum(line[:2] in ("✓ ", "! ", "✗ ") for line in lines) == 3
    head = next(line for line in lines if line.startswith("trainer "))
    assert [head.find(name) > 0 for name in ("full", " LoRA", "QLoRA")] == [True] * 3
    of_one = narrow(model, *ALL_METHODS, "--trainer", "bare")
    verdicts = " ".join(itertools.takewhile(lambda line: line, of_one))
    assert verdicts[:2] in ("✓ ", "! ", "✗ ") and " an RTX 4090" in verdicts
    assert all(name in verdicts for name in ("Full", "LoRA r16", "QLoRA r16"))


@pytest.mark.parametrize("model", ["unsloth/Meta-Llama-3.1-8B-bnb-4bit", LLAMA])
def test_bars_by_trainer_and_their_key_keep_to_80_columns(model: str) -> None:
    text = "\n".join(narrow(model, "--method", "qlora", "--gpu", "t4"))
    assert "w weights" in text and ". overhead" in text


def test_the_speed_of_several_gpus_is_that_of_each() -> None:
    """Under DDP a step sends the gradients of the adapters: over a slow link it takes as long as
    that, by hand, whatever the trainer."""
    words = ("gpt2", "--method", "lora", "--gpu")
    alone = answer(*words, "t4")
    several = answer(*words, "2xt4", "--sharding", "ddp")
    assert "tokens/s each" in several and "tokens/s each" not in alone
    slow = answer(
        *words, "2xt4", "--sharding", "ddp", "--interconnect", "0.001GB/s", "--rank", "8",
        "--targets", "c_attn", "--batch-size", "1", "--seq-len", "1024", "--accumulation", "1",
    )  # fmt: skip
    sent_seconds = 12 * 8 * (768 + 3 * 768) * 4 / 1e6  # each of two sends a float32 gradient once
    rates = re.findall(r" ([0-9,]+) to ([0-9,]+)  ✓$", slow, re.M)
    assert len(rates) > 4
    for low, high in ([float(r.replace(",", "")) for r in pair] for pair in rates):
        assert 0.5 * high < low < high == pytest.approx(1024 / sent_seconds, abs=0.5)
    assert "tokens/s each" in answer(*words, "2xt4", "--trainer", "trl", "--sharding", "ddp")


def test_what_it_says_of_a_card_that_is_too_small() -> None:
    text = answer(LLAMA, "--method", "lora", "--gpu", "rtx_4090", "--trainer", "bare")
    lines = text.splitlines()
    verdict = "✗ LoRA r16 does not fit an RTX 4090: needs at least 36.8 GiB, the GPU has 23.5."
    assert lines[0] == verdict
    assert lines[1].startswith("→ LoRA r16 fits with --checkpointing: 18.9 GiB + overhead, ")
    assert "\nExpect " in text and "exact" not in text and "byte for byte" not in text


def test_the_bar_is_in_proportion() -> None:
    text = answer(LLAMA, "--trainer", "bare")
    full, lora = (
        next(line for line in text.splitlines() if line.startswith(f"{name:<10}w"))
        for name in ("Full", "LoRA r16")
    )
    letters = {letter: full[10:62].count(letter) for letter in "wgot"}
    whole = sum(letters.values())
    parts = {"w": 14.96, "g": 14.96, "o": 29.92, "t": 14.96}  # of 74.79 GiB
    for letter, gib in parts.items():
        assert abs(letters[letter] - whole * gib / 74.79) <= 2, (letter, letters)
    drawn = sum(lora[10:62].count(letter) for letter in "walr")
    assert abs(drawn - whole * 36.40 / 74.79) <= 2


CASES = [
    ("rtx_4090", TrainSetup(lora=LoraConfig())),
    ("a100_sxm_80gb", TrainSetup(batch_size=2, seq_len=4096)),
    ("l4", TrainSetup(lora=LoraConfig(lora_dropout=0.1), batch_size=2, seq_len=1024)),
]


@pytest.mark.parametrize(("card", "setup"), CASES)
def test_no_change_or_pair_is_quicker_than_the_first_advice(card: str, setup: TrainSetup) -> None:
    """Against all single changes and pairs of those that learn the same, written out here."""
    gpu, workload = find_gpu(card), Workload(model=find_model(LLAMA), setup=setup)
    remedies = advise(workload, gpu)
    assert remedies
    for remedy in remedies:
        verdict = fit(remedy.workload, gpu)
        assert verdict is not None and verdict.verdict == "fits"
        assert remedy.peak_bytes == peak_bytes(remedy.workload)
    singles: list[dict[str, object]] = [
        {"checkpointing": True},
        {"loss": "fused"},
        {"optimizer_impl": "fused"},
    ]
    if setup.batch_size > 1:
        singles.append({"batch_size": setup.batch_size // 2, "accumulation": 2})
    alone = [fields for fields in singles if _fits(_with(workload, fields, gpu), gpu)]
    pairs = ({**one, **other} for one, other in itertools.combinations(singles, 2))
    needed = [pair for pair in pairs if not any(one.items() <= pair.items() for one in alone)]
    fitting = [w for fields in (*alone, *needed) if _fits(w := _with(workload, fields, gpu), gpu)]
    rates = [step.time.tokens_per_second for w in fitting if (step := step_time(w, gpu).step)]
    first = remedies[0]
    assert first.learns_the_same == bool(rates)
    if rates:
        assert first.tokens_per_second == pytest.approx(max(rates))


def _with(workload: Workload, fields: dict[str, object], gpu: Gpu) -> Workload:
    return on_card(replace(workload, setup=replace(workload.setup, **fields)), gpu)  # type: ignore[arg-type]


def _fits(workload: Workload, gpu: Gpu) -> bool:
    assert gpu.usable_bytes is not None
    held = held_bytes(predict(workload))
    return judge(peak_bytes(workload), gpu.usable_bytes, gpu, held) == "fits"


def test_a_set_holds_no_change_that_it_does_not_need() -> None:
    workload = Workload(model=find_model(LLAMA), setup=TrainSetup(lora=LoraConfig()))
    sets = [frozenset(r.options) for r in advise(workload, find_gpu("rtx_4090"))]
    assert not any(one < other for one in sets for other in sets)


@pytest.mark.parametrize("sizes", [{"seq_len": 512}, {"batch_size": 4}, {"dtype": "float32"}])
@pytest.mark.parametrize("lora", [None, LoraConfig()])
@pytest.mark.parametrize("model", [LLAMA, "meta-llama/Llama-3.2-3B"])
def test_what_is_not_searched_has_no_remedy(
    model: str, lora: LoraConfig | None, sizes: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What no change takes away ends a search that finds nothing without it, and only such."""
    setup = TrainSetup(lora=lora, **sizes)  # type: ignore[arg-type]
    workload = Workload(model=find_model(model), setup=setup)
    cards = [
        find_gpu(key) for key in ("rtx_3060_12gb", "rtx_4090", "a100_sxm_40gb", "h100_sxm_80gb")
    ]
    asked = [(card, besides) for card in cards for besides in ((), ("lora", "qlora"))]
    found = [advise(workload, card, besides=besides) for card, besides in asked]
    monkeypatch.setattr(advising, "_lasting_bytes", lambda *_: 0)
    assert found == [advise(workload, card, besides=besides) for card, besides in asked]


@pytest.mark.grid
@pytest.mark.parametrize("batch", [1, 4])
def test_the_smallest_cards_are_those_that_fit(batch: int) -> None:
    """Against the verdict of every card of NVIDIA's."""
    setup = TrainSetup(lora=LoraConfig(), batch_size=batch, seq_len=512)
    workload = Workload(model=find_model(LLAMA), setup=setup)
    cards = [c for c in bundled_gpus() if c.vendor == "nvidia" and c.usable_bytes]
    able = [c for c in cards if on_card(workload, c).platform.has_bfloat16]
    fitting = [
        c
        for c in able
        if (found := fit(on_card(workload, c), c)) is not None and found.verdict == "fits"
    ]
    least = min(c.memory_gib_marketed or 0 for c in fitting)
    expected = {c.key for c in fitting if c.memory_gib_marketed == least}
    found = smallest_cards(predict(workload))
    assert {c.key for c in found} == expected
    assert smallest_card(predict(workload)) == found[0]


def test_no_advice_leads_to_a_method_that_is_asked_about() -> None:
    """Alone full fine-tuning is told of LoRA; beside LoRA it is not, in text and JSON alike."""
    full, lora = (
        Workload(model=find_model(LLAMA), setup=TrainSetup(lora=adapter))
        for adapter in (None, LoraConfig())
    )
    card = find_gpu("a100_sxm_40gb")
    beside = answers([full, lora], card)[0]
    alone, asked = (
        {option for remedy in found.remedies for option in remedy.options}
        for found in (answers([full], card)[0], beside)
    )
    assert "--method lora" in alone and "--method lora" not in asked
    assert {o for r in answer_dict(beside)["remedies"] for o in r["options"]} == asked


@pytest.mark.parametrize("arguments", [("--trainer", "trl-grpo"), ("--generation-batch-size", "4")])
def test_a_step_that_completions_come_before_says_that_they_are_not_timed(
    arguments: tuple[str, ...],
) -> None:
    asked = (LLAMA, "--method", "qlora", "-s", "1024", "--gpu", "h100_sxm_80gb")
    assert "Times are without the generation of completions." in answer(*asked, *arguments)
    assert "generation" not in answer(*asked)


TYPED = [
    ("lora", "rtx_4090", (LLAMA, "--trainer", "trl-sft")),
    ("lora", "rtx_4090", (LLAMA, "--trainer", "transformers")),
    ("lora", "rtx_4090", (LLAMA, "--trainer", "llamafactory")),
    ("lora", "rtx_4090", (LLAMA, "--trainer", "litgpt")),
    ("lora", "rtx_3060_12gb", (LLAMA, "--trainer", "torchtune")),
    ("lora", "rtx_3060_12gb", (LLAMA, "--trainer", "unsloth")),
    ("lora", "rtx_4090", (LLAMA, "--trainer", "axolotl", "-b", "6")),
    ("lora", "t4", ("Qwen/Qwen2.5-1.5B", "--trainer", "trl-dpo", "-s", "2048")),
    ("lora", "rtx_3060_12gb", ("Qwen/Qwen2.5-3B", "--trainer", "trl-orpo", "-s", "2048")),
    ("full", "t4", ("Qwen/Qwen2.5-1.5B", "--trainer", "trl-sft")),
    ("full", "rtx_4090", ("Qwen/Qwen2.5-3B", "--trainer", "transformers")),
    ("full", "t4", ("Qwen/Qwen2.5-1.5B", "--eval-batch-size", "8")),
    ("qlora", "t4", ("Qwen/Qwen2.5-7B", "--recipe", "kbit", "-s", "3072")),
    ("qlora", "rtx_3060_12gb", (LLAMA, "--trainer", "transformers", "--recipe", "kbit")),
]


@pytest.mark.parametrize(("method", "card", "asked"), TYPED)
def test_advice_typed_behind_the_question_gives_what_it_says(
    method: str, card: str, asked: tuple[str, ...]
) -> None:
    """By each trainer's own defaults; some change by method, some count pairs as one sample."""

    def ask(method: str, *more: str) -> dict[str, Any]:
        given = [word for word in asked]
        for name in (name for name in more if name in given):  # an option is given once
            place = given.index(name)
            del given[place : place + 2]
        question = (*given, "--method", method, *more, "--gpu", card, "--full", "--format", "json")
        done = commands.in_this_process(*question, environment=OFFLINE)
        assert done.exit_code in (0, 1), done.stderr
        (found,) = json.loads(done.stdout)["predictions"]
        return found  # type: ignore[no-any-return]

    remedies = ask(method)["remedies"]
    assert remedies
    for remedy in remedies:
        words = " ".join(remedy["options"]).split()
        other = method
        if "--method" in words:
            place = words.index("--method")
            other = words[place + 1]
            del words[place : place + 2]
        found = ask(other, *words)
        assert found["peak"]["total_bytes"] == remedy["peak_bytes"], remedy
        assert found["fit"]["verdict"] == "fits", remedy


def test_advice_changes_the_update_as_little_as_it_can() -> None:
    """TRL loads float32 weights, which autocast multiplies in bfloat16 anyway."""
    text = answer(LLAMA, "--method", "lora", "--trainer", "trl-sft", "--gpu", "rtx_4090")
    line = text.splitlines()[1]
    assert line.startswith("→ LoRA r8 fits with --dtype bfloat16: 18.9 GiB + overhead, ")
    asked = Workload(
        model=find_model(LLAMA), setup=TrainSetup(batch_size=6, seq_len=1024, checkpointing=True)
    )
    for card in ("a100_sxm_40gb", "a100_sxm_80gb"):
        departures = [remedy.departure for remedy in advise(asked, find_gpu(card))]
        assert departures == sorted(departures) != []


FILES = {
    "axolotl": {
        "base_model": "NousResearch/Meta-Llama-3-8B", "load_in_4bit": True, "adapter": "qlora",
        "lora_r": 32, "lora_target_linear": True, "sequence_len": 8192, "micro_batch_size": 1,
        "optimizer": "adamw_bnb_8bit", "bf16": "auto", "gradient_checkpointing": False,
    },
    "llamafactory": {
        "model_name_or_path": "Qwen/Qwen2.5-7B", "stage": "sft", "do_train": True,
        "finetuning_type": "lora", "lora_target": "all", "cutoff_len": 2048, "bf16": True,
        "per_device_train_batch_size": 1, "template": "qwen", "disable_gradient_checkpointing": True,
    },
}  # fmt: skip


@pytest.mark.parametrize("framework", FILES)
def test_advice_on_a_file_is_in_its_words_and_holds(framework: str, tmp_path: Path) -> None:
    """The keys are put into the file, which is then answered anew."""
    path = tmp_path / "run.yml"
    path.write_text(yaml.safe_dump(FILES[framework]))
    asked = (str(path), "--gpu", "rtx_4090")
    text = answer(*asked).partition("\n\n")[0]
    assert text.startswith("✗ run.yml does not fit an RTX 4090: ")
    advice = " ".join(text.partition("→ Set ")[2].split())
    keys, _, outcome = advice.partition(f" in {path.name}: ")
    changes = yaml.safe_load("\n".join(re.split(r", (?=\w+: )| and (?=\w+: )", keys)))
    path.write_text(yaml.safe_dump(FILES[framework] | changes))
    (mended,) = json.loads(answer(*asked, "--full", "--format", "json"))["predictions"]
    assert mended["fit"]["verdict"] == "fits"
    assert outcome.startswith(f"{size_text(mended['peak']['total_bytes'])} + overhead, ")


def test_what_a_file_s_keys_cannot_say_is_advised_as_options(tmp_path: Path) -> None:
    """LLaMA-Factory's keys know no fused loss without Liger's other kernels."""
    path = tmp_path / "run.yml"
    larger = {"cutoff_len": 4096, "per_device_train_batch_size": 2}
    path.write_text(yaml.safe_dump(FILES["llamafactory"] | larger))
    text = answer(str(path), "--gpu", "rtx_4090")
    assert text.splitlines()[1].startswith("→ LoRA r8 fits with --checkpointing --loss fused: ")


@pytest.mark.parametrize("options", [("--rank", "8"), ("--targets", "attention")])
def test_an_adapter_s_options_change_nothing_of_full_fine_tuning(options: tuple[str, ...]) -> None:
    def full(*methods: str) -> list[dict[str, Any]]:
        said = json.loads(answer(LLAMA, "--gpu", "a100_sxm_80gb", "--format", "json", *methods))
        return [line for line in said["by_trainer"] if line["method"] == "full"]

    lines = full("--method", "full,lora", *options)
    assert lines == full("--method", "full") and all(line["peak_bytes"] for line in lines)


def test_a_method_that_no_trainer_can_run_has_the_verdict_of_the_guides_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked_of = guiding.asked_of

    def refusing_full(stack: Stack, *asked: Any) -> Workload:
        if (workload := asked_of(stack, *asked)).setup.method == "full":
            raise UsageError(f"{stack.title} trains adapters alone")
        return workload

    monkeypatch.setattr(guiding, "asked_of", refusing_full)
    lora, full, *_ = answer(LLAMA, "--gpu", "rtx_4090").splitlines()
    assert lora.startswith("✓ LoRA r16 fits an RTX 4090 with ")
    assert full.startswith("✗ Full does not fit an RTX 4090: needs at least 60")


@pytest.mark.parametrize("trainer", [(), ("--trainer", "trl-sft")])
def test_several_gpus_are_counted_where_they_are_named(trainer: tuple[str, ...]) -> None:
    asked = ("Qwen/Qwen2.5-7B", "--gpu", "2xt4", *trainer)
    verdict = " ".join(answer(*asked).partition("\n\n")[0].split())
    assert (
        " 2 × T4" in verdict and ("each GPU has 14.6" if trainer else "which has 14.6") in verdict
    )
    assert "2 × T4, 14.6 GiB each ▼" in answer(*asked, "--method", "lora")


@pytest.mark.parametrize(
    ("model", "card"), [("Qwen/Qwen3-30B-A3B", "rtx_4090"), ("Qwen/Qwen2.5-7B", "7GiB")]
)
def test_what_surely_fits_with_no_trainer_has_a_way_in_that_holds_when_typed(
    model: str, card: str
) -> None:
    asked = (model, "--method", "qlora", "--gpu", card)
    text = " ".join(answer(*asked).split())
    found = re.search(r"QLoRA r16 fits with (--trainer .*?): ([\d.]+) GiB \+ overhead", text)
    assert text[0] in "✗!" and found, text
    typed = answer(*asked, *found[1].split())
    assert f"fits a{'n' * (card == 'rtx_4090')} " in typed and f" {found[2]} GiB" in typed
    for name in ("-b", "--batch-size"):
        assert text.count(f" {name} ") <= 1
