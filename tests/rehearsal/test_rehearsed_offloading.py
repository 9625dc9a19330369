"""What waits on the host, rehearsed: torch's FSDP and TRL's trainer over the real CUDA build."""

import os
from typing import Any

import pytest
from test_flat_shards import REHEARSED
from test_host_memory import (
    ACTIVATIONS,
    CARD,
    REENTRANT,
    REHEARSED_ACTIVATIONS,
    REHEARSED_FLAT,
    REHEARSED_SHARDS,
    SCALARS,
    SHARDS,
    asked,
    replace,
    totals,
)
from test_rehearsal_cuda import answer, rehearse, script

from benchmarks.rehearsed.first_rank import rehearsed_first_rank
from benchmarks.rehearsing import steady_bytes
from lora_profiler import predict

pytestmark = [
    pytest.mark.skipif(
        not os.environ.get("LORA_PROFILER_CUDA_PYTHON"),
        reason="$LORA_PROFILER_CUDA_PYTHON names no Python with a CUDA build of torch",
    ),
    pytest.mark.slow,
]

BLAS_BYTES = 64 * 2**20
"""Workspaces, which predictions leave out."""
FLAT = """
import functools, os, torch, torch.distributed as dist, transformers
from torch.distributed.fsdp import BackwardPrefetch, CPUOffload, FullStateDictConfig
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP, StateDictType
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from transformers.models.llama.modeling_llama import LlamaDecoderLayer
torch.cuda.set_device(0)
dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=4)
name = "HuggingFaceTB/SmolLM2-135M"
model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=torch.bfloat16)
os.environ.pop("LORA_PROFILER_RUN", None)  # the other ranks are not there
model = FSDP(model, cpu_offload=CPUOffload(offload_params=True), use_orig_params=True,
    auto_wrap_policy=functools.partial(
        transformer_auto_wrap_policy, transformer_layer_cls={LlamaDecoderLayer}),
    device_id=torch.device("cuda:0"), backward_prefetch=PREFETCH)
optimizer = torch.optim.AdamW(model.parameters(), fused=True)
ids = torch.ones((2, 256), dtype=torch.int64, device="cuda")
held = lambda which: torch.cuda.memory_stats()["requested_bytes.all." + which]
for step in range(3):
    torch.cuda.reset_peak_memory_stats()
    model(input_ids=ids, labels=ids).loss.backward()
    if step == 2:
        print("PEAK", held("peak"), {p.grad.is_pinned() for p in model.parameters() if p.grad is not None}, flush=True)
    optimizer.step()
    optimizer.zero_grad()
    if step == 1:
        torch.cuda.synchronize()
        torch.zeros(1, device="cuda")
        torch.cuda.reset_peak_memory_stats()
        before = held("current")
        kind, config = StateDictType.FULL_STATE_DICT, FullStateDictConfig(True, True)
        with FSDP.state_dict_type(model, kind, config):
            model.state_dict()
        print("SAVED", held("peak") - before, flush=True)
"""
ADAPTERS = """
import os, sys, torch, torch.distributed as dist
from peft import LoraConfig, get_peft_model
from peft.utils.other import fsdp_auto_wrap_policy
from torch.distributed.fsdp import BackwardPrefetch, CPUOffload, MixedPrecision
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig
half = torch.bfloat16
torch.cuda.set_device(0)
dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=4)
if SMALL:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SMALL), dtype=half).cuda()
else:
    packed = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=half, bnb_4bit_quant_storage=half)
    model = AutoModelForCausalLM.from_pretrained(
        "HuggingFaceTB/SmolLM2-135M", dtype=half, quantization_config=packed)
os.environ.pop("LORA_PROFILER_RUN", None)  # the other ranks are not there
if CHECKPOINTING:
    model.gradient_checkpointing_enable({"use_reentrant": REENTRANT})
    model.enable_input_require_grads()
model.config.use_cache = False
model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear")).train()
model = FSDP(model, cpu_offload=CPUOffload(offload_params=OFFLOAD), use_orig_params=OWN,
    auto_wrap_policy=fsdp_auto_wrap_policy(model), mixed_precision=MixedPrecision(half, half, half),
    device_id=torch.device("cuda:0"), backward_prefetch=PREFETCH)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
ids = torch.ones((2, LENGTH), dtype=torch.int64, device="cuda")
for step in range(3):
    torch.cuda.reset_peak_memory_stats()
    with torch.autocast("cuda", half):
        loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    if step == 2:
        print("PEAK", torch.cuda.memory_stats()["requested_bytes.all.peak"], flush=True)
    optimizer.step()
    optimizer.zero_grad()
"""
TRL = """
import tempfile, torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer
model = AutoModelForCausalLM.from_pretrained("HuggingFaceTB/SmolLM2-135M", dtype=torch.bfloat16)
words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "a": 7}, unk_token="<pad>"))
args = SFTConfig(output_dir=tempfile.mkdtemp(), per_device_train_batch_size=4, max_steps=3,
    max_length=1024, report_to=[], save_strategy="no", optim="adamw_torch_fused", bf16=False,
    dataset_kwargs={"skip_prepare_dataset": True}, gradient_checkpointing=CHECKPOINTING,
    gradient_checkpointing_kwargs={"use_reentrant": REENTRANT}, activation_offloading=True)
data = Dataset.from_dict({"input_ids": [[7] * 1024] * 64, "labels": [[7] * 1024] * 64})
trainer = SFTTrainer(model=model, args=args, train_dataset=data, peft_config=ADAPTER,
    processing_class=PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>",
        eos_token="</s>"))
trainer.train()
"""


def printed(text: str, word: str) -> list[str]:
    return [line.split(" ", 1)[1] for line in text.splitlines() if line.startswith(word + " ")]


@pytest.mark.parametrize(("changes", "rehearsed"), REHEARSED_SHARDS)
def test_fsdp2_asks_for_what_is_written_down(changes: Any, rehearsed: int) -> None:
    _, document = rehearsed_first_rank(asked(replace(SHARDS, **changes)), CARD)
    assert steady_bytes(document) == rehearsed


@pytest.mark.parametrize(("changes", "rehearsed"), REHEARSED_FLAT)
def test_fsdp1_asks_for_what_is_written_down(tmp_path: Any, changes: Any, rehearsed: int) -> None:
    kind = "BackwardPrefetch.BACKWARD_PRE" if changes["sharding"] == "fsdp1" else "None"
    text = FLAT.replace("PREFETCH", kind)
    done = rehearse("--gpu", "h100_sxm_80gb", "--", "python", script(tmp_path, text))
    (peak,), (saved,) = printed(done.stderr, "PEAK"), printed(done.stderr, "SAVED")
    assert peak == f"{rehearsed + BLAS_BYTES} {{True}}"
    found = totals(predict(asked(replace(SHARDS, **changes))))
    assert int(saved) == found["saving"] - found["setup"]


@pytest.mark.parametrize("kind", REHEARSED)
def test_fsdp1_of_adapters_asks_for_what_is_written_down(tmp_path: Any, kind: str) -> None:
    model, setup, rehearsed = REHEARSED[kind]
    small = None if isinstance(model, str) else {**model.config, "use_cache": False}
    told = {
        "SMALL": small,
        "CHECKPOINTING": setup.checkpointing,
        "REENTRANT": setup.use_reentrant,
        "OFFLOAD": setup.offload_params,
        "OWN": setup.use_orig_params,
        "PREFETCH": "BackwardPrefetch.BACKWARD_PRE" if setup.sharding == "fsdp1" else None,
        "LENGTH": setup.seq_len,
    }
    text = ADAPTERS
    for name, value in told.items():
        text = text.replace(name, str(value))
    done = rehearse("--gpu", "h100_sxm_80gb", "--", "python", script(tmp_path, text))
    (peak,) = printed(done.stderr, "PEAK")
    assert int(peak) == rehearsed + BLAS_BYTES


@pytest.mark.parametrize(("changes", "ahead", "back"), [*REHEARSED_ACTIVATIONS, REENTRANT])
def test_trl_asks_for_what_is_written_down(
    tmp_path: Any, changes: Any, ahead: int, back: int
) -> None:
    setup = replace(ACTIVATIONS, **changes)
    adapter = 'LoraConfig(r=16, target_modules="all-linear")' if setup.lora else "None"
    text = TRL.replace("ADAPTER", adapter).replace("CHECKPOINTING", str(setup.checkpointing))
    text = text.replace("REENTRANT", str(setup.use_reentrant))
    rank = answer("--gpu", "h100_sxm_80gb", "--", "python", script(tmp_path, text))["rank"]
    found = {(r["step"], r["phase"]): r["requested_bytes"] for r in rank["phases"]}
    assert found[2, "forward"] == ahead + BLAS_BYTES
    assert found[2, "backward"] == back + BLAS_BYTES
    if not setup.use_reentrant:
        assert predict(asked(setup)).peak.total_bytes in (ahead, back - SCALARS)
