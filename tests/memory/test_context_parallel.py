"""Context parallelism: rules against what torch's own `context_parallel` asked a pretended card for,
and what it is refused with."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import cases
from agreement import totals
from benchmarks.rehearsed.context_rank import NARROW, type_config
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_gpu, model_from_config
from lora_profiler.memory.analytic import predict
from lora_profiler.planning.answers import answers
from lora_profiler.planning.placement import find_network
from lora_profiler.planning.sweep import sweep
from lora_profiler.planning.timing import step_time
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.support.check import check
from lora_profiler.question.workload import LoraConfig, TrainSetup, Workload

DATA = Path(__file__).parents[1] / "data" / "context_rehearsed.json"
ROWS = json.loads(DATA.read_text("utf-8"))["rows"]
TINY = type_config({"model": {**NARROW, "layers": 2}})
SHARED: dict[str, Any] = {"world_size": 4, "sharding": "fsdp", "context_parallel_size": 4}


def asked(row: dict[str, Any]) -> Workload:
    is_full = row["method"] == "full"
    is_wide = is_full and row.get("precision") == "fsdp-mixed"
    setup = TrainSetup(
        batch_size=row["batch"],
        seq_len=row["seq"],
        lora=None if is_full else LoraConfig(r=16, target_modules="all-linear"),
        world_size=row["ranks"],
        sharding="fsdp",
        context_parallel_size=row["context"],
        checkpointing=row["checkpointing"],
        accumulation=row.get("accumulation", 1),
        precision=row.get("precision", "pure"),
        dtype="float32" if is_wide else "bfloat16",
        optimizer_impl="fused",
    )
    model = model_from_config(type_config(row), id="rehearsed", source="test")
    capability = find_gpu(row["card"]).capability
    return Workload(model=model, setup=setup, platform=Platform(capability=capability))


def named(row: dict[str, Any]) -> str:
    kinds = ("type", "method", "precision", "card", "context", "batch", "seq", "groups")
    return "-".join(str(row[kind]) for kind in kinds if kind in row)


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_rules_are_what_torch_s_context_parallel_asks_for(row: dict[str, Any]) -> None:
    workload = asked(row)
    check(workload, "analytic")
    prediction = predict(workload)
    found = totals(prediction)
    ahead = max(found["end_of_forward"], found["last_layer_forward"])
    inside = max(found["last_layer_backward"], found["first_layer_backward"])
    back = max(found["loss_backward"], inside)
    summed = 4 if row.get("accumulation", 1) > 1 else 0  # losses, by the harness' own loop
    assert ahead == row["forward"]
    assert (back, found["optimizer_step"]) == (row["backward"] + summed, row["step"] + summed)


def llama(**changes: Any) -> Workload:
    setup = TrainSetup(**{"seq_len": 64, "lora": LoraConfig(), **SHARED, **changes})
    return Workload(model=model_from_config(TINY, id="tiny", source="test"), setup=setup)


@pytest.mark.parametrize(("seq_len", "tokens"), [(64, 16), (65, 18), (8, 2), (1, 2)])
def test_a_rank_has_two_pieces_of_a_sequence(seq_len: int, tokens: int) -> None:
    """Of eight, as long as each other; a length that they do not divide is padded."""
    padded = predict(llama(seq_len=tokens * 4))
    found = predict(llama(seq_len=seq_len))
    assert found.workload.setup.rank_seq_len == tokens
    assert found.peak.total_bytes == padded.peak.total_bytes
    assert found.flops is not None and found.flops.tokens == tokens


def test_attention_by_hand() -> None:
    """Of four ranks the first computes its own part, 16 x 16 pairs, and its second piece against
    each other part, 3 x 8 x 16: 640 pairs and not 256, 4 FLOPs each, head and feature."""
    shared, alone = predict(llama()), predict(llama(seq_len=16, context_parallel_size=1))
    assert shared.flops is not None and alone.flops is not None
    width, layers = 512, 2
    more = (640 - 256) * 4 * width * layers
    assert shared.flops.forward - alone.flops.forward == more


def test_ranks_that_share_a_sequence_share_a_batch() -> None:
    assert llama(world_size=8).setup.batches_at_once == 2


def test_models_and_cards_that_torch_or_accelerate_refuse() -> None:
    workload = llama()
    with pytest.raises(UsageError, match="attends to windows"):
        config = {**TINY, "model_type": "mistral", "sliding_window": 4096}
        check(replace(workload, model=model_from_config(config, id="m", source="t")), "auto")
    with pytest.raises(UsageError, match="not of gpt2"):
        check(replace(workload, model=cases.spec_of("gpt2")), "auto")
    with pytest.raises(UsageError, match="to a multiple of 8"):
        check(replace(workload, model=cases.spec_of("llama")), "auto")
    with pytest.raises(UsageError, match="a GPU from sm_80"):
        check(replace(workload, platform=Platform(capability=75)), "auto")


def test_what_is_not_known_of_it_is_not_told() -> None:
    workload = llama(lora=LoraConfig(r=8))
    assert "context parallelism" in (step_time(workload, find_gpu("h100_sxm_80gb")).refusal or "")
    with pytest.raises(UsageError, match="leave out one of --interconnect"):
        answers([workload], network=find_network("nvlink4"))
    with pytest.raises(UsageError, match="leave out --context-parallel-size"):
        sweep(workload, batch_size=[1, 2])
