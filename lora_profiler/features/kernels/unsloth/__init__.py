"""Unsloth's forward pass (2026.10.9), which lays rows end to end."""

from typing import Any

from lora_profiler.question.base import base_kind
from lora_profiler.question.kernel_set import KernelSet

FEATURE = KernelSet(
    title="Unsloth's kernels",
    assumption=(
        "Unsloth's kernels follow their source (2026.10.9). Rows are concatenated without padding;"
        " attention is SDPA over sequences of one length."
    ),
    types=("llama", "mistral", "qwen2", "qwen3"),
    gives_way=True,
    rules_alone=True,
    unpadded=True,
    copies_attention=True,  # `utils/attention_dispatch.py`, _sdpa_packed_segments
    repeats_for_math=True,  # as above, _sdpa_takes_gqa
    position_bytes=4,  # in int32, for its rotary embedding
)
_BASES = ("nf4", "int8")
"""In 4 and in 8 bit, by bitsandbytes."""
_FIRST_TABLE, _TABLE_STEP = 32_768, 8_192


def unsupported_reason(setup: Any) -> str | None:
    if setup.lora is None:
        return "are known of adapters, not of full fine-tuning"
    if setup.device != "cuda":
        return "are Triton's and run on CUDA alone"
    if setup.sharding not in ("none", "ddp"):
        return f"are not known under sharding {setup.sharding}"
    if setup.transformers != "5":
        return f"are not known with transformers {setup.transformers}"
    if setup.qat != "none":
        return "are not known of fake-quantised layers"
    if setup.quantization is not None and setup.quantization.quant_type not in _BASES:
        return f"are not known over a base in {base_kind(setup.quantization.quant_type).title}"
    return None


def rotary_tables(model: Any) -> str:
    return "buffer"


def positions(workload: Any) -> int:
    """All positions that the model may have, and as many as a row is long."""
    setup = workload.setup
    length = setup.packed if setup.is_packed and setup.packed else setup.seq_len
    found = max(int(workload.model.config["max_position_embeddings"]), length)
    if setup.compiles_layers:  # no positions are told, which might be any
        found = min(found, max(_FIRST_TABLE, length))
    if found > _FIRST_TABLE:
        found = -(-found // _TABLE_STEP) * _TABLE_STEP
    return int(found)
