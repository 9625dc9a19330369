"""LitGPT's own model and its 4-bit bases, against its own table and its own commands rehearsed."""

import json
from pathlib import Path

import pytest

from lora_profiler import Prediction, Workload, find_model, predict, setup_for

REHEARSED = Path(__file__).parents[2] / "benchmarks/results/rehearsed_frameworks.jsonl"
TRUE = {"dtype": "bfloat16", "precision": "pure", "adapter_dtype": "bfloat16"}
MLP = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"


def answer(model: str, trainer: str, method: str, **given: object) -> Prediction:
    found = find_model(model)
    return predict(Workload(model=found, setup=setup_for(found, trainer, method, **given)))


@pytest.mark.parametrize(
    ("model", "method", "batch", "targets", "measured_gb"),
    [
        ("meta-llama/Llama-2-7b-hf", "lora", 2, "q_proj,v_proj", 19.77),
        ("meta-llama/Llama-2-7b-hf", "qlora", 2, "q_proj,v_proj", 13.68),
        ("mistralai/Mistral-7B-v0.1", "lora", 2, "q_proj,v_proj", 20.66),
        ("mistralai/Mistral-7B-v0.1", "qlora", 2, "q_proj,v_proj", 14.29),
        ("meta-llama/Llama-3.2-3B", "qlora", 2, "q_proj,v_proj", 10.30),
        ("meta-llama/Llama-3.2-1B", "qlora", 2, "q_proj,v_proj", 5.53),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "lora", 8, MLP, 13.50),
        ("TinyLlama/TinyLlama-1.1B-Chat-v1.0", "qlora", 8, MLP, 16.24),
    ],
)
def test_config_hub_s_table(
    model: str, method: str, batch: int, targets: str, measured_gb: float
) -> None:
    """`config_hub/finetune/README.md` at 2685705, of 512 tokens and rank 32 on an A10G. A 4-bit
    base needed 20 to 28 % more than was said while bitsandbytes' kept inputs were left out."""
    asked = {**TRUE, "rank": 32, "batch_size": batch, "seq_len": 512, "targets": targets}
    peak = answer(model, "litgpt@0.4", method, **asked).peak.total_bytes
    assert peak == pytest.approx(measured_gb * 1e9, rel=0.01)


def rows() -> list[dict[str, object]]:
    found = [json.loads(line) for line in REHEARSED.read_text().splitlines()]
    return [row for row in found if row["framework"] == "litgpt"]


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row['asked'][0]} {row['key']}")
def test_its_own_commands_rehearsed(row: dict[str, int]) -> None:
    """A part of a percent is the LayerNorm and other small things of a 4-bit base."""
    most = 0.01 if "quantize" in str(row["key"]) else 0.001
    needed = row["requested_bytes"] - row["workspaces_bytes"]
    assert row["predicted_bytes"] == pytest.approx(needed, rel=most)


def test_old_bitsandbytes_keeps_inputs_through_the_next_pass() -> None:
    """Of every 4-bit layer but the first product, whose input needs no gradient, and of the head;
    as long as the logits have a name. The first pass has none yet."""
    llama = "meta-llama/Llama-3.2-1B"
    given = {"seq_len": 512, "batch_size": 2, "accumulation": 1, "targets": "q_proj,v_proj"}
    tokens, width, mlp, layers = 1024, 2048, 8192, 16
    inputs = 2 * tokens * layers * (3 * width + mlp)
    moments = answer(llama, "litgpt@0.4", "qlora", **given).moments
    setup = {m.step: m.bytes["activations"] for m in moments if m.moment == "setup"}
    assert setup["steady"] - setup[1] == inputs


def test_a_copy_of_the_embedding_trains_on_a_4_bit_base() -> None:
    """Since 0.5.0, with a LayerNorm, after the optimizer has its parameters."""
    llama = "meta-llama/Llama-3.2-1B"
    new, old = (answer(llama, f"litgpt{v}", "qlora") for v in ("", "@0.4"))
    copy = 2 * (128_256 + 2) * 2048
    assert new.persistent_bytes["parameters"] - old.persistent_bytes["parameters"] == copy
    (begun,) = (m for m in new.moments if m.moment == "setup" and m.step == "steady")
    assert begun.bytes["gradients"] == copy
