"""What a card holds beside tensors: the table of contexts, the bound on fragmentation against the
simulations that it is taken from, and the verdict by the simulated allocator."""

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.rows import read_rows
from benchmarks.truth import fragmentation
from lora_profiler import LoraConfig, TrainSetup, Workload, find_gpu, find_model
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import bundled_gpus, model_from_config
from lora_profiler.facts.catalog.gpus import (
    context_of,
    multiprocessors,
    processor_table,
    published_contexts,
)
from lora_profiler.memory.compiled.allocator import EMPTY_CACHE, GRAIN, Trials, replay
from lora_profiler.memory.compiled.requests import requests_for
from lora_profiler.planning import reserve
from lora_profiler.planning.engine import on_card, peak_bytes, predict
from lora_profiler.planning.fit import fit
from lora_profiler.planning.reserve import (
    FRAGMENTATION_BYTES,
    FRAGMENTATION_PERCENT,
    PART,
    PRODUCT_WORDS,
    Judged,
    judge,
    reserve_for,
    usable_bytes,
)
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.units import GIB, MIB

SETUP = TrainSetup(lora=LoraConfig(), batch_size=4, seq_len=512)
ASKED = Workload(model=find_model("SmolLM2-135M", offline=True), setup=SETUP)
PEAK = peak_bytes(ASKED)
CARD = find_gpu("a10")


pytestmark = pytest.mark.usefixtures("the_bundle")


# --- the driver's context -------------------------------------------------------------------------


def test_the_table_of_contexts_names_cards_of_the_catalogue_and_sources() -> None:
    known = {gpu.key for gpu in bundled_gpus()}
    for row in published_contexts():
        assert row.key in known
        assert 50 < row.mebibytes < 1000
        assert row.what in ("context", "process")
        assert row.confidence in ("high", "medium", "low")
        assert row.source.startswith("https://") or row.confidence == "low"


def test_a_published_context_lies_within_what_its_card_is_said_to_take() -> None:
    for row in published_contexts():
        context = context_of(row.key)
        assert context.least_bytes <= row.mebibytes * MIB + 1 <= context.most_bytes + 2, row.key


def test_a_card_without_a_published_context_takes_what_its_class_does() -> None:
    """RTX 3060: 28 multiprocessors of compute capability 8.6, of which an A10 takes the fewest bytes
    and a 3080 the most."""
    counts = multiprocessors()
    assert "rtx_3060_12gb" not in {row.key for row in published_contexts()}
    least, most = 223 * MIB / counts["a10"], 257 * MIB / counts["rtx_3080_10gb"]
    context = context_of("rtx_3060_12gb")
    assert (context.least_bytes, context.most_bytes) == (round(28 * least), round(28 * most))


def test_a_card_of_unknown_multiprocessors_takes_what_any_card_may() -> None:
    sizes = [row.mebibytes * MIB for row in published_contexts()]
    assert context_of("custom:24GiB").least_bytes == min(sizes)
    assert context_of("mi300x").most_bytes == max(sizes)
    assert reserve_for(find_gpu("apple_m1"), GIB).context_bytes == 0
    assert set(processor_table()) == {g.key for g in bundled_gpus() if g.vendor == "nvidia"}


# --- the bound ------------------------------------------------------------------------------------


def test_nineteen_in_twenty_simulated_questions_lose_less_than_the_bound() -> None:
    rows = [row for row in read_rows(fragmentation.BENCHMARK.path) if "refused" not in row]
    assert len(rows) >= 100
    assert {"full", "lora", "qlora"} == {row["setup"]["method"] for row in rows}
    covered = [
        fragmentation.beyond(row)
        <= reserve_for(CARD, row["peak_bytes"], row["held_bytes"]).fragmentation_bytes
        for row in rows
    ]
    assert sum(covered) >= 0.95 * len(rows)


def test_the_page_of_fragmentation_is_that_of_its_rows() -> None:
    assert fragmentation.BENCHMARK.page_path.read_text("utf-8") == fragmentation.page(
        read_rows(fragmentation.BENCHMARK.path)
    )


@pytest.mark.parametrize("number", range(3))
def test_a_row_of_fragmentation_is_what_is_simulated_today(number: int) -> None:
    rows = [row for row in read_rows(fragmentation.BENCHMARK.path) if "refused" not in row]
    small = sorted(rows, key=lambda row: row["peak_bytes"])[number * 7]
    setup = fragmentation.setup_from_dict(small["setup"])
    again = fragmentation.answered(small["model"], setup, small["card"])
    assert again["smallest_bytes"] == small["smallest_bytes"]


# --- the verdict ----------------------------------------------------------------------------------


def judged(usable: int) -> Judged:
    return Judged(ASKED, PEAK, usable, CARD)


def test_fits_is_what_the_simulated_allocator_completes() -> None:
    asked = requests_for(ASKED)
    assert asked is not None
    context = context_of(CARD.key).most_bytes
    least = Trials(*asked).smallest_capacity()
    assert Trials(*asked).completes(least)
    assert judged(least + context).verdict == "fits"
    assert judged(least + context - 2 * MIB).verdict == "tight"
    assert judge(PEAK, least + context, CARD) == "tight"  # the bound alone could not tell


def test_tight_ends_where_tensors_and_the_least_context_have_no_room() -> None:
    reserve = reserve_for(CARD, PEAK)
    least = PEAK + reserve.workspace_bytes + reserve.least_context_bytes
    assert judged(least).verdict == "tight"
    assert judged(least - 1).verdict == "does_not_fit"


def test_the_reserve_of_what_fits_is_what_the_allocator_reserves_there() -> None:
    found = judged(PEAK + GIB).reserve
    assert found.is_simulated
    asked = requests_for(ASKED)
    assert asked is not None
    room = PEAK + GIB - found.context_bytes
    reserved = replay(asked.sizes, asked.events, capacity_bytes=room).reserved_bytes
    assert PEAK + found.workspace_bytes + found.fragmentation_bytes == reserved
    bound = Judged(ASKED, PEAK, PEAK + GIB, CARD, "analytic").reserve
    assert not bound.is_simulated
    assert bound.fragmentation_bytes == PEAK * FRAGMENTATION_PERCENT // 100 + FRAGMENTATION_BYTES


def test_the_reserve_of_a_tight_run_is_what_it_needs() -> None:
    asked = requests_for(ASKED)
    assert asked is not None
    least = Trials(*asked).smallest_capacity()
    tight = judged(least + context_of(CARD.key).most_bytes - 2 * MIB)
    assert tight.verdict == "tight"
    total = PEAK + tight.reserve.workspace_bytes + tight.reserve.fragmentation_bytes
    assert least <= total < least + max(GRAIN, PEAK // PART)


def test_nothing_is_simulated_far_from_the_boundary(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> None:
        raise AssertionError

    monkeypatch.setattr(reserve, "_trials", never)
    assert judged(2 * PEAK + GIB).verdict == "fits"
    assert judged(PEAK // 2).verdict == "does_not_fit"


def test_one_sample_is_asked_for_as_several_are_where_only_they_were_traced() -> None:
    """Every profile answers two samples; the labels of one are a view, of several a copy."""
    alone = replace(ASKED, setup=replace(SETUP, batch_size=1))
    asked = requests_for(alone)
    assert asked is not None
    most = live = 0
    for event in (event for event in asked.events if event != EMPTY_CACHE):
        live += asked.sizes[event] if event >= 0 else -asked.sizes[~event]
        most = max(most, live)
    assert abs(most - peak_bytes(alone) - 2 * 8_519_680) < 0.01 * most


def test_a_card_of_several_memory_sizes_is_refused_everywhere_in_the_same_words() -> None:
    unsure = replace(CARD, memory_bytes_usable=None, memory_gib_marketed=None)
    with pytest.raises(UsageError, match="several memory sizes") as raised:
        usable_bytes(unsure)
    with pytest.raises(UsageError) as other:
        fit(ASKED, unsure)
    assert str(other.value) == str(raised.value)


@pytest.mark.parametrize(
    ("card", "scratch"),
    [("a10", (4_718_592, 2_359_296, 2_359_296)), ("h100_sxm_80gb", (4_792_320,))],
)
def test_attention_backward_asks_for_what_a_rehearsal_asked_for(
    card: str, scratch: tuple[int, ...]
) -> None:
    """As torch's CUDA build recorded it in a rehearsal of this workload: flash's sum in float32,
    keys and values for all heads; cuDNN's workspace. Once a layer and step, given back at once."""
    asked = requests_for(on_card(ASKED, find_gpu(card)))
    assert asked is not None
    scratches = 0
    for n, event in enumerate(asked.events):
        if event >= 0 and asked.events[n + len(scratch)] == ~(event + len(scratch) - 1):
            sizes = asked.sizes[event : event + len(scratch)]
            scratches += tuple(sizes) == scratch
    assert scratches == 3 * ASKED.model.num_layers


# --- workspaces of products, from torch 2.15 on ----------------------------------------------------

TINY = {
    "model_type": "llama", "num_hidden_layers": 2, "vocab_size": 512, "hidden_size": 64,
    "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}  # fmt: skip
REHEARSED_TINY = {"full": 11_857_256, "lora": 10_419_944}
"""Requested by torch 2.15's CUDA build on a pretended T4, 1 x 128 tokens."""


def tiny(method: str, torch: tuple[int, int], **options: Any) -> Workload:
    lora = LoraConfig() if method == "lora" else None
    setup = TrainSetup(lora=lora, seq_len=128, **{"dtype": "float32", **options})
    model = model_from_config(TINY, id="tiny", source="test")
    return Workload(model=model, setup=setup, platform=Platform(capability=75, torch=torch))


@pytest.mark.parametrize("method", REHEARSED_TINY)
def test_a_workspace_larger_than_the_step_is_within_the_bound(method: str) -> None:
    dtype = "float16" if method == "lora" else "float32"
    found = predict(tiny(method, (2, 15), dtype=dtype), "analytic")
    assert found.exactness == "estimate"
    assert found.error_bound is not None
    highest = found.peak.total_bytes * (1 + found.error_bound)
    assert found.peak.total_bytes < REHEARSED_TINY[method] <= highest
    assert PRODUCT_WORDS in found.assumptions
    before = predict(tiny(method, (2, 13), dtype=dtype), "analytic")
    assert PRODUCT_WORDS not in before.assumptions


def test_a_peak_in_the_loss_leaves_room_for_the_workspace() -> None:
    """Rehearsed equal to the byte in `test_rehearsal_cuda.py`."""
    model = find_model("SmolLM2-135M", offline=True)
    setup = TrainSetup(lora=LoraConfig(), batch_size=2, seq_len=256)
    platform = Platform(capability=80, torch=(2, 15))
    found = predict(Workload(model=model, setup=setup, platform=platform), "analytic")
    assert found.exactness == "exact" and PRODUCT_WORDS not in found.assumptions
