"""Unsloth's offloaded checkpoints and embedding: rules against its own code, rehearsed over torch's
CUDA build."""

from dataclasses import replace
from typing import Any

import pytest

from lora_profiler.facts.catalog import find_gpu, find_model
from lora_profiler.memory.analytic import predict
from lora_profiler.planning.setups import setup_for
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.support.offloading import LEAST_OFFLOADED
from lora_profiler.question.workload import LoraConfig, TrainSetup, Workload
from lora_profiler.trainer_files.reading import read_content
from lora_profiler.trainer_files.trainer_file import on_model

BASE = TrainSetup(
    batch_size=4, seq_len=1024, lora=LoraConfig(r=16), precision="amp", optimizer_impl="fused",
    checkpointing=True, offload_checkpoints=True,
)  # fmt: skip
REHEARSED = {"plain": 2_772_195_864, "fused": 538_575_400}
"""Bytes that backward asked for, 64 MiB for BLAS left out, of SmolLM2-135M in a loop of one's own:
`patch_unsloth_smart_gradient_checkpointing(torch.bfloat16)` of unsloth-zoo ce232d6, adapters of
PEFT on all linear layers, torch 2.13; `fused` with Liger-Kernel 0.8.1's loss. By `lora-profile
rehearse --gpu h100_sxm_80gb --phases -- python FILE`."""


def totals(setup: TrainSetup, **on: Any) -> dict[str, int]:
    workload = Workload(model=find_model("HuggingFaceTB/SmolLM2-135M"), setup=setup, **on)
    return {m.moment: m.total_bytes for m in predict(workload).moments if m.step == "steady"}


@pytest.mark.parametrize("loss", REHEARSED)
def test_the_peak_is_what_unsloths_code_asked_for(loss: Any) -> None:
    card = find_gpu("h100_sxm_80gb")
    found = totals(replace(BASE, loss=loss), platform=Platform(capability=card.capability))
    assert max(found.values()) == REHEARSED[loss]


def test_what_stays_by_hand() -> None:
    """Of 30 layers' inputs one, and two buffers as long, beside the embeddings' output, which
    autograd holds as a leaf; the first of them all was that already."""
    kept = replace(BASE, offload_checkpoints=False, use_reentrant=True)
    one = 4 * 1024 * 576 * 2
    before, now = totals(kept)["loss_backward"], totals(BASE)["loss_backward"]
    assert before - now == (30 - 1 - 1 - 2) * one


def test_short_inputs_stay_and_no_buffer_is_made() -> None:
    short = replace(BASE, batch_size=1)
    assert short.batch_size * short.seq_len * 576 < LEAST_OFFLOADED
    kept = replace(short, offload_checkpoints=False, use_reentrant=True)
    assert totals(short) == totals(kept)


def test_layers_sum_to_the_whole() -> None:
    workload = Workload(model=find_model("HuggingFaceTB/SmolLM2-135M"), setup=BASE)
    prediction = predict(workload)
    rows = sum(row.saved_activation_bytes for row in prediction.layers)
    assert rows == prediction.saved_activation_bytes


def test_without_checkpointing_it_says_nothing() -> None:
    idle = replace(BASE, checkpointing=False)
    assert totals(idle) == totals(replace(idle, offload_checkpoints=False))


# --- the embedding --------------------------------------------------------------------------------

CELL = """\
from unsloth import FastLanguageModel
model, tokenizer = FastLanguageModel.from_pretrained(
    model_name="unsloth/tinyllama", max_seq_length=1024, load_in_4bit=True, offload_embedding=MOVED)
model = FastLanguageModel.get_peft_model(model, r=16, target_modules=["q_proj", "v_proj"])
trainer = SFTTrainer(args=SFTConfig(per_device_train_batch_size=2, gradient_accumulation_steps=1))
"""


@pytest.mark.parametrize(
    ("moved", "rehearsed"), [("False", 1_135_213_693), ("True", 1_004_141_693), ('"auto"', 0)]
)
def test_a_notebook_s_embedding_on_the_host(moved: str, rehearsed: int) -> None:
    """Bytes that Unsloth 2026.10.9's SFTTrainer asked for in later steps, 64 MiB for BLAS left
    out, of TinyLlama in 4 bit with these numbers, by `lora-profile rehearse --gpu
    h100_sxm_80gb`."""
    file = read_content("cell.py", CELL.replace("MOVED", moved).encode())
    assert file.options.get("offload_embedding", False) is (moved == "True")
    model = find_model("TinyLlama/TinyLlama-1.1B-Chat-v1.0")
    capability = find_gpu("h100_sxm_80gb").capability
    options = dict(on_model(file, model).completing({}))
    options.pop("methods")
    setup = setup_for(model, "unsloth", "qlora", **options)
    workload = Workload(model=model, setup=setup, platform=Platform(capability=capability))
    answer = predict(workload)
    assert answer.exactness == "exact"
    if rehearsed:
        assert answer.peak.total_bytes == rehearsed
    assert dict(answer.host_bytes).get("parameters", 0) == 32_000 * 2048 * 2 * (moved == "True")


SMALL = replace(BASE, offload_checkpoints=False, batch_size=1, offload_embedding=True)


def test_an_embedding_on_the_host_by_hand() -> None:
    workload = Workload(model=find_model("TinyLlama/TinyLlama-1.1B-Chat-v1.0"), setup=SMALL)
    moved = predict(workload)
    kept = predict(replace(workload, setup=replace(SMALL, offload_embedding=False)))
    assert kept.peak.total_bytes - moved.peak.total_bytes == 32_000 * 2048 * 2
    assert dict(moved.host_bytes) == {"parameters": 32_000 * 2048 * 2}
