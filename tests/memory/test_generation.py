"""Generation between steps beside transformers' own generate, rehearsed at full size."""

import json
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.rehearsed.generation import (
    BENCHMARK,
    error,
    page,
    predicted,
    questions,
    workload_of,
)
from benchmarks.rows import read_rows
from commands import Run
from lora_profiler import TrainSetup, Workload, find_model, predict, setup_for
from lora_profiler.memory.analytic.predict import EVALUATED_LAYER_ERROR, peak_polynomials
from lora_profiler.planning.engine import peak_bytes

ALL = read_rows(BENCHMARK.path)
GPT2 = find_model("gpt2", offline=True)
SMALL, MADE = find_model("HuggingFaceTB/SmolLM2-135M", offline=True), "end_of_forward"
SETUP = TrainSetup(seq_len=64, generation_batch_size=4, max_completion_length=16)


def generation(setup: TrainSetup) -> Any:
    moments = predict(Workload(model=GPT2, setup=setup)).moments
    return next((m for m in moments if m.moment == "generation" and m.step == "steady"), None)


def test_the_page_says_what_the_rows_say() -> None:
    assert BENCHMARK.page_path.read_text("utf-8") == page(ALL)


def test_every_question_was_rehearsed() -> None:
    asked = [
        {name: row[name] for name in question}
        for row, question in zip(ALL, questions(), strict=True)
    ]
    assert asked == list(questions())
    assert all(
        row["status"] == "done" and row["tokens"] == row["prompt"] + row["completion"]
        for row in ALL
    )


@pytest.mark.parametrize(
    "row", ALL, ids=lambda row: f"{row['model']} {row['rank']} {row['prompt']}"
)
def test_what_generation_adds_is_what_generate_asked_for(row: dict[str, Any]) -> None:
    """The last token but for a split kernel's accumulators; the prompts' pass within the error that
    is stated of a layer of evaluation."""
    told = predicted(row, row["torch"])
    assert told == {name: row[name] for name in told}
    bound = 3e-4 if told["peak_in"] == "last token" else EVALUATED_LAYER_ERROR
    assert abs(error(row)) <= bound


def test_both_parts_are_among_what_was_rehearsed() -> None:
    """And none of it is as far off as docs/guide/trainers.md says."""
    assert max(abs(error(row)) for row in ALL) < 0.004
    assert {row["peak_in"] for row in ALL} == {"prompts", "last token"}


def test_the_cache_by_hand() -> None:
    """gpt2: 12 layers, 768 features for keys and for values, in bfloat16; the last token has none,
    and one layer has its values twice."""
    setup = replace(SETUP, seq_len=1024, max_completion_length=1000)
    assert generation(setup).bytes["activations"] == 4 * 25 * 768 * 2 * 1023
    without = replace(SETUP, generation_batch_size=None, max_completion_length=None)
    assert generation(without) is None


def test_generation_can_hold_the_peak() -> None:
    """And then searches for what fits know it."""
    setup = replace(SETUP, generation_batch_size=512, seq_len=1024, max_completion_length=900)
    workload = Workload(model=GPT2, setup=setup)
    answer = predict(workload)
    assert answer.peak.moment == "generation"
    assert peak_bytes(workload) == answer.peak.total_bytes
    assert any("512 completions at once" in text for text in answer.assumptions)


def grpo(method: Any = "lora", **options: Any) -> Workload:
    more = {"batch_size": 4, "seq_len": 256, "max_completion_length": 64, **options}
    return Workload(model=SMALL, setup=setup_for(SMALL, "trl-grpo", method, **more))


def test_grpo_generates_for_a_whole_step_at_once() -> None:
    """batch x accumulation, whatever batch a search tries."""
    one, two = (grpo(batch_size=rows, accumulation=3) for rows in (4, 8))
    assert (one.setup.completions_at_once, two.setup.completions_at_once) == (12, 24)
    said = grpo(batch_size=8, accumulation=3, generation_batch_size=24)
    assert generation_of(two) == generation_of(said)
    at = (8, 256, two.setup.lora.r if two.setup.lora else 0)
    assert max(p.evaluate(*at) for p in peak_polynomials(one)) == peak_bytes(two)


def generation_of(workload: Workload) -> Any:
    moments = predict(workload).moments
    found = (m.bytes for m in moments if m.moment == "generation" and m.step == "steady")
    return next(found, None)


@pytest.mark.parametrize("length", [512, 100])
def test_a_completion_is_grpos_own_where_a_row_has_room(length: int) -> None:
    setup = setup_for(SMALL, "trl-grpo", seq_len=length + 1)
    assert setup.max_completion_length == (512 if length == 512 else None)


def test_where_vllm_generates_there_is_no_such_moment(run: Run) -> None:
    assert generation_of(grpo()) and not generation_of(grpo(use_vllm=True))
    asked = ("HuggingFaceTB/SmolLM2-135M", "--trainer", "trl-grpo", "--method", "lora")
    shown = run(*asked, "--gpu", "l4", "--vllm-share", "0.3", "--full", "--format", "json").stdout
    (found,) = json.loads(shown)["predictions"]
    assert found["setup"]["use_vllm"] and found["exactness"] == "estimate"


def test_beta_brings_a_frozen_copy_where_no_adapter_can_be_switched_off() -> None:
    sizes = [
        predict(grpo(method, beta=beta)).persistent_bytes["parameters"]
        for method in ("full", "lora")
        for beta in (0.0, 0.04)
    ]
    assert sizes[1] == 2 * sizes[0] and sizes[3] == sizes[2]


def test_the_loss_is_of_completions_alone() -> None:
    """TRL's head keeps a copy of the hidden state of each token that is scored, and five numbers of
    it, one of them of 8 bytes: 64 tokens more of four rows."""
    ends = [
        next(m.bytes["logits_and_loss"] for m in predict(grpo(**more)).moments if m.moment == MADE)
        for more in ({}, {"max_completion_length": 128})
    ]
    width, tile, of_each = 576 * 4, 32_768 * 2, 8 + 7 * 4
    assert ends[1] - ends[0] == 4 * 64 * (width + tile + of_each + 576 * 2)


def test_vllm_takes_its_share_of_the_card_before_it_is_judged(run: Run) -> None:
    asked = (
        "gpt2", "--method", "lora", "-s", "64", "--gpu", "custom:1GiB", "--full", "--format",
        "json",
    )  # fmt: skip
    alone, beside = (
        json.loads(run(*asked, *more).stdout) for more in ((), ("--vllm-share", "0.5"))
    )
    (fit,), (less,) = ([p["fit"] for p in found["predictions"]] for found in (alone, beside))
    assert less["usable_bytes"] == fit["usable_bytes"] // 2
    assert "less 50% for vLLM" in run(*asked[:-2], "--vllm-share", "0.5").stdout


def test_workloads_of_the_benchmark_are_those_of_its_rows() -> None:
    setup = workload_of(ALL[0], ALL[0]["torch"]).setup
    assert (setup.generation_batch_size, setup.max_completion_length) == (8, 128)
