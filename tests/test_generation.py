"""Generation between steps beside transformers' own generate, rehearsed at full size."""

import json
from dataclasses import replace
from typing import Any

import pytest

from benchmarks.rehearsed_generation import (
    PAGE,
    ROWS,
    error,
    page,
    predicted,
    questions,
    workload_of,
)
from commands import Run
from lora_profiler import TrainSetup, UsageError, Workload, find_model, peak_bytes, predict
from lora_profiler.analytic.predict import EVALUATED_LAYER_ERROR
from lora_profiler.planning.engine import engines_for

ALL = [json.loads(line) for line in ROWS.read_text("utf-8").splitlines()]
GPT2 = find_model("gpt2", offline=True)
SETUP = TrainSetup(seq_len=64, generation_batch_size=4, max_completion_length=16)


def generation(setup: TrainSetup) -> Any:
    moments = predict(Workload(model=GPT2, setup=setup)).moments
    return next((m for m in moments if m.moment == "generation" and m.step == "steady"), None)


def test_the_page_says_what_the_rows_say() -> None:
    assert PAGE.read_text("utf-8") == page(ALL)


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


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"generation_batch_size": None}, "add --generation-batch-size"),
        ({"max_completion_length": 64}, "leave nothing of 64 for the prompt"),
        ({"sharding": "fsdp", "world_size": 2}, "where each rank has all weights"),
    ],
)
def test_what_cannot_be_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        predict(Workload(model=GPT2, setup=replace(SETUP, **change)))


@pytest.mark.parametrize("engine", ["compiled", "traced"])
def test_only_rules_know_it(engine: str) -> None:
    with pytest.raises(UsageError, match="take --engine analytic"):
        engines_for([Workload(model=GPT2, setup=SETUP)], engine)


def test_vllm_takes_its_share_of_the_card_before_it_is_judged(run: Run) -> None:
    asked = ("gpt2", "--method", "lora", "-s", "64", "--gpu", "custom:1GiB", "--format", "json")
    alone, beside = (
        json.loads(run(*asked, *more).stdout) for more in ((), ("--vllm-share", "0.5"))
    )
    (fit,), (less,) = ([p["fit"] for p in found["predictions"]] for found in (alone, beside))
    assert less["usable_bytes"] == fit["usable_bytes"] // 2
    assert "less 50% for vLLM" in run(*asked[:-2], "--vllm-share", "0.5").stdout


def test_workloads_of_the_benchmark_are_those_of_its_rows() -> None:
    setup = workload_of(ALL[0], ALL[0]["torch"]).setup
    assert (setup.generation_batch_size, setup.max_completion_length) == (8, 128)
