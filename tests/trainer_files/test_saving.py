"""What ranks gather on a card to save a whole checkpoint."""

from dataclasses import replace
from typing import Any

import pytest

from lora_profiler import LoraConfig, TrainSetup, Workload, find_model, predict

SETUP = TrainSetup(seq_len=64, world_size=2, sharding="fsdp", optimizer_impl="fused")


def gathered(name: str, setup: TrainSetup = SETUP) -> int | None:
    moments = predict(Workload(model=find_model(name, offline=True), setup=setup)).moments
    sizes: dict[Any, int] = {m.moment: m.total_bytes for m in moments if m.step == "steady"}
    return sizes["saving"] - sizes["setup"] if "saving" in sizes else None


@pytest.mark.parametrize(
    ("model", "size"),
    [("HuggingFaceTB/SmolLM2-135M", 49_152 * 576 * 2), ("Qwen/Qwen2.5-0.5B", 151_936 * 896 * 2)],
)
def test_fsdp_gathers_the_largest_parameter(model: str, size: int) -> None:
    """The embedding, by hand; and as torch's own get_model_state_dict asked two pretended cards
    for it (`tests/rehearsal/test_rehearsal_cuda.py`)."""
    assert gathered(model) == size
    assert gathered(model, replace(SETUP, lora=LoraConfig(r=4))) == size


def test_zero3_gathers_a_module_s_own_parameters() -> None:
    """Weight and bias together: of gpt2's modules the embedding of 50,257 words."""
    setup = replace(SETUP, sharding="zero3")
    assert gathered("gpt2", setup) == 50_257 * 768 * 2


@pytest.mark.parametrize("sharding", ["ddp", "zero1", "zero2"])
def test_who_has_every_weight_gathers_none(sharding: Any) -> None:
    assert gathered("gpt2", replace(SETUP, sharding=sharding)) is None
    assert gathered("gpt2", TrainSetup(seq_len=64)) is None
