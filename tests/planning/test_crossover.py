"""Where one way overtakes another: each end of a span against the predictions on both sides of it."""

import json
from dataclasses import replace

import pytest

from benchmarks.rehearsed import crossover as crossover_points
from benchmarks.rows import read_rows
from commands import Run, lora_profile
from lora_profiler import (
    LoraConfig,
    Quantization,
    TrainSetup,
    UsageError,
    Workload,
    crossover,
    find_gpu,
    find_model,
    predict,
    step_time,
)
from lora_profiler.planning.crossover import HIGHEST_RANK, Crossover
from lora_profiler.planning.engine import peak_bytes
from lora_profiler.question.workload import Method
from lora_profiler.report.decision.crossover import crossover_blocks, sentences
from lora_profiler.report.terminal import plain

MODEL = find_model("Qwen/Qwen2.5-0.5B")
LORA = TrainSetup(lora=LoraConfig())
WAYS = {"full": TrainSetup(), "lora": LORA, "qlora": replace(LORA, quantization=Quantization())}
LENGTHS, BATCHES = (128, 1024, 8192), (1, 8)


@pytest.fixture(scope="module")
def found() -> Crossover:
    ways = [Workload(model=MODEL, setup=setup) for setup in WAYS.values()]
    return crossover(ways, lengths=LENGTHS, batch_sizes=BATCHES)


def peak(method: str, batch: int, length: int, rank: int = 16) -> int:
    setup = replace(WAYS[method], batch_size=batch, seq_len=length)
    if setup.lora:
        setup = replace(setup, lora=LoraConfig(r=rank))
    return predict(Workload(model=MODEL, setup=setup)).peak.total_bytes


def test_a_span_begins_and_ends_where_the_peaks_cross(found: Crossover) -> None:
    assert {(s.dearer, s.cheaper) for s in found.crossings} == {("lora", "full"), ("qlora", "full")}
    for span in found.crossings:
        for length, dearer in ((span.first - 1, False), (span.first, True)):
            one, other = (peak(m, span.batch_size, length) for m in (span.dearer, span.cheaper))
            assert (one > other) is dearer
        assert span.last is None


def test_points_are_predictions(found: Crossover) -> None:
    assert [(p.batch_size, p.seq_len) for p in found.points] == [
        (batch, length) for batch in BATCHES for length in LENGTHS
    ]
    for point in found.points:
        sizes = point.batch_size, point.seq_len
        assert point.peak_bytes == {method: peak(method, *sizes) for method in WAYS}
        costs: dict[Method, int] = point.peak_bytes
        assert point.least("memory") == min(costs, key=lambda m: costs[m])
        assert point.seconds == {} and point.least("time") is None


def test_the_highest_rank_is_the_last_that_needs_no_more(found: Crossover) -> None:
    ranks = {(p.batch_size, p.seq_len): p.highest_rank for p in found.points}
    assert ranks[1, 8192] == 0
    for (batch, length), rank in ranks.items():
        assert rank is not None and rank < HIGHEST_RANK
        full = peak("full", batch, length)
        assert rank == 0 or peak("lora", batch, length, rank) <= full
        assert peak("lora", batch, length, rank + 1) > full


def test_a_card_brings_times() -> None:
    gpu = find_gpu("a100_sxm_80gb")
    model = find_model("meta-llama/Llama-3.1-8B")
    ways = [Workload(model=model, setup=WAYS[method]) for method in ("full", "lora")]
    found = crossover(ways, gpu, lengths=(128, 8192), batch_sizes=(4,))
    span = next(s for s in found.crossings if s.quantity == "time")
    for length, slower in ((span.first - 1, False), (span.first, True)):
        full, lora = (
            step_time(replace(w, setup=replace(w.setup, batch_size=4, seq_len=length)), gpu).step
            for w in ways
        )
        assert full and lora and (lora.time.seconds > full.time.seconds) is slower


def test_sentences_say_where(found: Crossover) -> None:
    lora_full, _, qlora_lora = sentences(found)
    first = {s.batch_size: s.first for s in found.crossings if s.dearer == "lora"}
    assert lora_full == (
        "LoRA r16 needs more memory than full:"
        f" from {first[1]:,} tokens at batch 1, {first[8]:,} at 8."
    )
    assert qlora_lora == "QLoRA r16 needs less memory than LoRA r16: at every length."


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-0.5B", "meta-llama/Llama-3.1-8B"])
def test_the_screen_has_25_lines_of_80_columns(name: str) -> None:
    """With all three methods and times; maps of fewer batches where all would not fit."""
    gpu, model = find_gpu("t4"), find_model(name)
    workloads = [Workload(model=model, setup=setup) for setup in WAYS.values()]
    lines = plain(crossover_blocks(crossover(workloads, gpu)), 80).splitlines()
    assert len(lines) <= 25 and max(map(len, lines)) <= 80, lines
    assert all(line[:2] in ("✓ ", "! ", "✗ ", "  ") for line in lines[: lines.index("")])


def test_one_method_and_no_length_are_refused() -> None:
    way = Workload(model=MODEL, setup=LORA)
    with pytest.raises(UsageError, match="at least two"):
        crossover([way])
    with pytest.raises(UsageError, match="context length"):
        crossover([way, Workload(model=MODEL)], lengths=(10**6,))


def test_both_sides_of_an_end_are_as_rehearsed_to_the_byte() -> None:
    """On either side of where LoRA begins to need more, full and LoRA, as
    `benchmarks/rehearsed/crossover.py` ran them."""
    rows = read_rows(crossover_points.BENCHMARK.path)
    assert len(rows) >= 30
    for row in rows:
        ways = crossover_points.ways(row["model"], row["batch_size"], row["seq_len"])
        assert [peak_bytes(way) for way in ways] == [row["full_bytes"], row["lora_bytes"]], row
    sides = {row["lora_bytes"] > row["full_bytes"] for row in rows}
    assert sides == {True, False}


@pytest.mark.parametrize(
    "words", ["", "--no-checkpointing", "--trainer trl-sft", "--trainer litgpt"]
)
def test_the_command_compares_methods_with_checkpointing_in_all_or_none(words: str) -> None:
    """Guides pass it for adapters alone, whose steps are then slower for its sake."""
    asked = (MODEL.id, *words.split(), "--lengths", "128", "--batches", "1", "--format", "json")
    setups = json.loads(lora_profile("crossover", *asked).stdout)["setups"]
    on = {setup["checkpointing"] for setup in setups}
    assert on == {words in ("", "--trainer trl-sft")}


@pytest.mark.parametrize("verb", [("crossover", "--batches", "1"), ("plan", "--gpus", "t4")])
def test_one_model_may_be_several_words(verb: tuple[str, ...]) -> None:
    command, *options = verb
    spaced = lora_profile(command, "llama", "3.2", "1b", *options, "--format", "json")
    named = lora_profile(command, "meta-llama/Llama-3.2-1B", *options, "--format", "json")
    assert spaced.stdout == named.stdout != ""


def test_lengths_without_an_answer_are_named_with_the_reason(run: Run) -> None:
    """gpt2 was made for 1,024 tokens (its config.json's n_positions)."""
    words = ("crossover", "gpt2", "--batches", "1", "--lengths")
    said = " ".join(run(*words, "512,2048,4096").stdout.split())
    assert (
        "Left out 2,048, 4,096 tokens: the context length of openai-community/gpt2 is 1,024."
        in (said)
    )
    assert "Left out" not in run(*words, "512,1024").stdout
