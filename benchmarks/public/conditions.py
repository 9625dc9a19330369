"""What is known of the runs of each source, column by column. A row that says anything else is
refused with the reason, and never priced as the run that it looks like.

Models, methods and kernels are those that the source's own scripts and tables name; each was read
before the rules of its stack were written.
"""

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.catalog import find_model, model_from_config
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.workload import Dtype, LoraConfig

Row = Mapping[str, str]


class NotExpressibleError(Exception):
    """A row that no workload and stack say; the message is the reason."""


STOCK = "stock HF Trainer/SFTTrainer"
TRITON = "fused triton CE loss, RMSNorm, RoPE"
LIGER = "Liger fused-linear-CE + RMSNorm/RoPE kernels"
NF4_KBIT = (
    "bnb NF4 double-quant; SFTTrainer prepare_model_for_kbit_training path (norms fp32; at-rest"
    " memory shows embeddings stay bf16; checkpointed hidden states fp32)"
)
NF4 = "bnb NF4 double-quant; no fp32 upcast of non-quantised params"
NF4_TRITON = "bnb NF4 dq; fused LoRA ops + CE/RMSNorm/RoPE kernels"
NF4_LIGER = "bnb NF4 dq; fused LoRA + Liger FLCE"
"""The paths of fms-acceleration's benchmarks, as rows label them."""
FUSED_LINEAR = (LIGER, NF4_LIGER)
FUSED = (TRITON, NF4_TRITON, *FUSED_LINEAR)
FUSED_ADAPTERS = (NF4_TRITON, NF4_LIGER)
"""Labels of rows whose loss, norms and rotation, and whose adapters, are fused kernels."""

_SAME = (
    "mistralai/Mistral-7B-v0.1", "bigcode/gpt_bigcode-santacoder", "meta-llama/Meta-Llama-3-8B",
    "meta-llama/Llama-2-7b-hf", "meta-llama/Llama-3.2-3B", "meta-llama/Llama-3.1-8B",
    "meta-llama/Llama-3.3-70B-Instruct", "Qwen/Qwen2.5-7B",
)  # fmt: skip
_CONFIGS: Mapping[str, str] = {
    **{name: name for name in _SAME},
    "mistralai/Mistral-7B-v0.2": "mistralai/Mistral-7B-v0.1",
    "mistralai/Mixtral-8x7B-Instruct-v0.1": "mistralai/Mixtral-8x7B-v0.1",
    "NousResearch/Llama-2-70b-hf": "meta-llama/Llama-2-70b-hf",
    "bert-large-uncased (SequenceClassification)": "google-bert/bert-large-uncased",
    "stabilityai/stablelm-base-alpha-3b": "",
    "Qwen/Qwen-1.8B": "",
    "Qwen/Qwen-7B": "",
    "Qwen/Qwen-14B": "",
    "ibm/PowerLM-3b": "",
}
"""Whose config.json the model of a row has; "" where the stack's own code has the widths."""

_LLAMA_3B = ("meta-llama/Llama-3.2-3B",)
_ATTENTION_LORA = "q_proj k_proj v_proj o_proj"
_CONDITIONS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "fms": {
        "model": (
            "mistralai/Mistral-7B-v0.1",
            "mistralai/Mixtral-8x7B-Instruct-v0.1",
            "bigcode/gpt_bigcode-santacoder",
            "meta-llama/Meta-Llama-3-8B",
            "NousResearch/Llama-2-70b-hf",
            "ibm/PowerLM-3b",
        ),
        "method": ("full", "lora", "qlora (bnb nf4 double-quant)"),
        "target_modules": ("", _ATTENTION_LORA, f"{_ATTENTION_LORA} c_attn"),
        "compute_dtype": ("bf16 pure", "bf16 autocast", "fp16 pure", "fp16 autocast"),
        "optimizer": ("HF Trainer default adamw_torch (torch AdamW)",),
        "attention": ("flash_attention_2",),
        "kernels": (STOCK, TRITON, LIGER, NF4_KBIT, NF4, NF4_TRITON, NF4_LIGER),
        "parallelism": ("none", "FSDP FULL_SHARD"),
    },
    "litgpt-rt": {
        "model": ("meta-llama/Llama-2-7b-hf", "stabilityai/stablelm-base-alpha-3b"),
        "method": ("lora", "qlora (bnb.nf4)", "qlora (bnb.nf4-dq)"),
        "target_modules": ("q,v",),
        "compute_dtype": ("bf16-true (no fp32 masters; adapters bf16)",),
        "attention": ("torch SDPA (lit-gpt)",),
        "parallelism": ("none", "FSDP"),
    },
    "peft": {
        "model": _LLAMA_3B,
        "method": ("full", "lora", "dora", "rslora", "lora-fa", "ia3", "oft", "vera"),
        "target_modules": (
            "",
            "q_proj v_proj",
            "down_proj gate_proj up_proj",
            "k_proj v_proj down_proj",
            "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj",
        ),
        "compute_dtype": ("bf16 (no amp)",),
        "optimizer": ("torch.optim.AdamW (defaults, foreach)", "PEFT create_lorafa_optimizer"),
        "parallelism": ("none",),
    },
    "torchtune-flags": {
        "model": _LLAMA_3B,
        "method": ("full", "lora", "qlora"),
        "compute_dtype": ("bf16",),
        "parallelism": ("none",),
    },
    "fsdp_qlora": {
        "model": ("meta-llama/Llama-2-7b-hf", "mistralai/Mistral-7B-v0.2"),
        "method": ("lora", "qlora (bnb nf4)"),
        "target_modules": ("all (q k v o gate up down)",),
        "compute_dtype": ("bf16",),
        "optimizer": ("torch AdamW",),
        "attention": ("sdpa",),
        "parallelism": ("FSDP FULL_SHARD", "FSDP FULL_SHARD+CPU offload", "DDP via FSDP NO_SHARD"),
    },
    "automodel": {
        "model": (
            "meta-llama/Llama-3.1-8B",
            "meta-llama/Llama-3.3-70B-Instruct",
            "Qwen/Qwen2.5-7B",
        ),
        "method": ("lora",),
        "compute_dtype": ("bf16",),
        "parallelism": ("none", "TP2 FSDP4 SP", "TP2 FSDP8"),
    },
    "hf-bert": {
        "model": ("bert-large-uncased (SequenceClassification)",),
        "method": ("full",),
        "compute_dtype": ("fp32", "fp16 amp"),
        "parallelism": ("none",),
        "attention": ("eager",),
    },
    "qwen": {
        "model": ("Qwen/Qwen-1.8B", "Qwen/Qwen-7B", "Qwen/Qwen-14B"),
        "method": ("full", "lora", "lora + trainable wte/lm_head", "qlora (GPTQ Int4 base)"),
        "compute_dtype": ("bf16 amp", "fp16 amp"),
        "parallelism": ("none",),
        "attention": ("flash_attention_2",),
    },
}


def source_of(row: Row) -> str:
    return row["id"].split(":")[0]


def check_conditions(row: Row) -> None:
    """Raises NotExpressibleError where the row's source, model, method, rank or stack is not one
    whose code was read."""
    source = source_of(row)
    if source not in _CONDITIONS:
        raise NotExpressibleError(f"the stack of {source!r} is not modelled")
    for column, values in _CONDITIONS[source].items():
        # what stands in brackets says how the base of a torchtune run is quantised
        value = _bare(row[column]) if source == "torchtune-flags" else row[column]
        if value not in values:
            raise NotExpressibleError(
                f"{column} {row[column]!r} is not one that is known of {source}"
            )
    if row["model_config"] != _CONFIGS[row["model"]]:
        raise NotExpressibleError(
            f"{row['model']} does not have the config.json of {row['model_config']!r}"
        )
    if row["method"] in ("full", "ia3"):
        if row["rank"]:
            raise NotExpressibleError(f"rank {row['rank']!r} without adapters that have one")
    else:
        rank_of(row)


def _bare(value: str) -> str:
    return value.partition(" (")[0]


CARDS = {
    "NVIDIA A100 80GB": "a100_sxm_80gb", "NVIDIA A100-SXM4-80GB": "a100_sxm_80gb",
    "NVIDIA A100-SXM4-40GB": "a100_sxm_40gb", "NVIDIA A100": "a100_sxm_80gb",
    "NVIDIA H100 (DGX)": "h100_sxm_80gb", "NVIDIA L40S": "l40s", "NVIDIA L40": "l40",
    "Tesla V100-SXM2-16GB": "v100_sxm2_16gb", "RTX 3090 (280W)": "rtx_3090",
    "RTX 4090 (400W)": "rtx_4090",
}  # fmt: skip
"""Keys of the cards that rows name. What is called an A100 and no more is taken for the SXM one of
80 GB."""


def adapters_of(
    row: Row,
    targets: str | tuple[str, ...],
    dropout: float,
    dtype: Dtype = "float32",
    alpha: float = 16,
    saved: tuple[str, ...] = (),
) -> LoraConfig:
    """LoRA of the row's rank."""
    return LoraConfig(
        r=rank_of(row),
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets,
        adapter_dtype=dtype,
        modules_to_save=saved,
    )


def rank_of(row: Row) -> int:
    """Of a row with adapters; raises NotExpressibleError where it is not stated."""
    if not re.fullmatch(r"[1-9]\d*", row["rank"]):
        raise NotExpressibleError(f"adapters of rank {row['rank']!r}")
    return int(row["rank"])


def spec_of(row: Row, **changes: Any) -> ModelSpec:
    """The model of a row by its config.json. Raises NotExpressibleError where none is known."""
    try:
        return _spec(row["model_config"], **changes)
    except LoraProfilerError as error:
        raise NotExpressibleError(f"{row['model']}: {error}") from error


@cache
def _spec(id: str, **changes: Any) -> ModelSpec:
    published = find_model(id, offline=True, on_disk=False).published
    return model_from_config({**published, **changes}, id=id, source=id)
