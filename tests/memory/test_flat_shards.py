"""FSDP1's flat parameters: by hand, and against torch's own, rehearsed over its CUDA build."""

from dataclasses import replace
from typing import Any

import pytest

import cases
from lora_profiler import find_model, predict
from lora_profiler.facts.catalog import model_from_config
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload

BASE = TrainSetup(batch_size=2, seq_len=40, attention="flash_attention_2")


def totals(workload: Workload) -> dict[str, int]:
    found = predict(workload).moments
    return {m.moment: m.total_bytes for m in found if m.step == "steady"}


def sharded(**changes: Any) -> dict[str, int]:
    setup = replace(BASE, world_size=4, sharding="fsdp1-no-prefetch", checkpointing=True)
    workload = Workload(model=cases.spec_of("llama"), setup=replace(setup, **changes))
    return totals(workload)


def test_flat_units_are_worked_out_by_hand() -> None:
    """Weights, gradients, both states and foreach's copy, a fourth of each; and in backward one
    layer whole beside the root, or two where the next one is fetched ahead."""
    spec = cases.spec_of("llama")
    count, layers = spec.num_parameters, spec.num_layers
    per_layer = sum(m.num_parameters for n, m in spec.modules() if n.startswith("model.layers.0."))
    assert all(size % 4 == 0 for size in (per_layer, count - layers * per_layer))
    plain, ahead = sharded(), sharded(sharding="fsdp1")
    batch = 80 * 8 + 4  # the tokens, and the loss
    buffers = plain["setup"] - 3 * 2 * count // 4
    assert plain["optimizer_step"] == 5 * 2 * count // 4 + buffers + batch
    fetched = 2 * per_layer
    assert ahead["last_layer_backward"] - plain["last_layer_backward"] == fetched
    assert ahead["end_of_forward"] == plain["end_of_forward"]
    wide = sharded(dtype="float32", precision="amp")
    halved = 2 * (12 // 2) * 2  # the rotary buffers, which accelerate has in bfloat16 then
    assert wide["optimizer_step"] - plain["optimizer_step"] == 5 * 2 * count // 4 - halved
    assert wide["end_of_forward"] - plain["end_of_forward"] == 3 * 2 * count // 4 - halved


SMALL = model_from_config(
    {
        "model_type": "llama",
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "vocab_size": 1024,
        "tie_word_embeddings": False,
    },
    id="small",
    source="test",
)
OF_FOUR = TrainSetup(
    batch_size=2,
    seq_len=1024,
    world_size=4,
    sharding="fsdp1-no-prefetch",
    use_orig_params=False,
    optimizer_impl="fused",
    precision="amp",
    attention="cudnn",
    lora=LoraConfig(r=16, target_modules="all-linear", adapter_dtype="float32"),
)
SMOL = replace(OF_FOUR, seq_len=256, sharding="fsdp1", checkpointing=True, use_reentrant=True)
NF4 = Quantization(double_quant=True)
REHEARSED = {
    "plain": (SMALL, OF_FOUR, 752_686_264),
    "offloaded": (
        SMALL,
        replace(OF_FOUR, offload_params=True, checkpointing=True, use_reentrant=True),
        208_730_392,
    ),
    "checkpointed": (SMALL, replace(OF_FOUR, checkpointing=True), 259_265_640),
    "qlora": ("HuggingFaceTB/SmolLM2-135M", replace(SMOL, quantization=NF4), 423_349_040),
    "qlora offloaded": (
        "HuggingFaceTB/SmolLM2-135M",
        replace(SMOL, quantization=NF4, offload_params=True),
        381_249_536,
    ),
}
for _kind, _rehearsed in {
    "plain": 895_284_404,
    "offloaded": 267_960_088,
    "qlora": 423_349_040,
    "qlora offloaded": 395_848_544,
}.items():
    _model, _setup, _ = REHEARSED[_kind]
    _own = replace(_setup, use_orig_params=True)
    REHEARSED[f"{_kind}, own parameters"] = (_model, _own, _rehearsed)
"""What torch 2.13's FullyShardedDataParallel asked for on rank 0 of 4 over the CUDA build of torch
on a pretended H100, without BLAS's workspace: PEFT's fsdp_auto_wrap_policy, MixedPrecision in
bfloat16, autocast, use_orig_params off unless parameters are their own, backward_prefetch None but of SmolLM2, whose loss holds the
peak."""


@pytest.mark.parametrize("kind", REHEARSED)
def test_adapters_over_flat_units_ask_for_what_torch_did(kind: str) -> None:
    """The one-layer peak counts gradients of a layer's adapters together; in forward, with
    parameters of their own, it lacks what PEFT converts of one input."""
    model, setup, rehearsed = REHEARSED[kind]
    spec = find_model(model) if isinstance(model, str) else model
    workload = Workload(model=spec, setup=setup, platform=Platform(capability=90))
    found = predict(workload)
    bound = 0.0 if found.exactness == "exact" else 0.005 if "plain, own" in kind else 0.0011
    assert found.peak.total_bytes == pytest.approx(rehearsed, rel=bound)


def test_each_tensor_of_an_adapter_is_gathered_by_itself() -> None:
    """Six layers of seven layers with two tensors each, the layers, and the root: once ahead, the
    layers again in backward; what trains is reduced."""
    collectives = predict(Workload(model=SMALL, setup=OF_FOUR)).traffic
    counts = {(t.collective, t.phase): t.count for t in collectives}
    assert counts["all_gather", "forward"] == 6 * 7 * 2 + 6 + 1
    assert counts["all_gather", "backward"] == 6 * 7 * 2 + 6
    assert counts["reduce_scatter", "backward"] == 6 * 7 * 2


def test_bitsandbytes_steps_on_flat_shards() -> None:
    """A quarter of a matrix of 1,024 x 16 elements is quantised, of 512 x 16 not."""
    peaks = [
        totals(
            Workload(model=SMALL, setup=replace(OF_FOUR, optimizer_impl="foreach", optimizer=name))
        )
        for name in ("adamw", "adamw_8bit")
    ]
    adapters = [16 * size for size in (1024,) * 9 + (512,) * 2 + (4096,) * 3]
    wide = [numel // 4 for numel in adapters]
    saved = sum(6 * n - 2 * 4 * n // 256 for n in wide if n >= 4096)
    assert peaks[0]["setup"] - peaks[1]["setup"] == pytest.approx(6 * saved, abs=2 * 1024 + 1024)
