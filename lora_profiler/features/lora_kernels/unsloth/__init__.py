"""Unsloth's LoRA kernels (2026.10.9, `kernels/fast_lora.py`)."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

from lora_profiler.question import kernel_set
from lora_profiler.question.adapters import adapters
from lora_profiler.question.lora_config import LoraConfig
from lora_profiler.question.lora_kernel_set import TYPES, LoraKernelSet
from lora_profiler.question.model_spec import ModelSpec

FEATURE = LoraKernelSet(
    title="Unsloth's LoRA kernels",
    types=TYPES,
    rules_alone=True,
    leaves_biases=True,  # `models/llama.py`, patch_peft_model
    unpacks_at_once=True,
)
_GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj", "down_proj"))
"""Layers that are one function where each has an adapter."""


def unsupported_reason(model: ModelSpec, setup: Any) -> str | None:
    if why := kernel_set.unsupported_reason(model, replace(setup, kernels="unsloth")):
        return why
    return "leave a base in float32 to PEFT" if setup.dtype == "float32" else None


def buffer_elements(model: ModelSpec, setup: Any) -> int:
    """Elements of the buffer into which they unpack 4-bit weights, which is kept: as
    many as the largest weight of a function has (`kernels/utils.py`, _scratch).
    0 with dropout and in compiled layers, where each is unpacked into a tensor of its own."""
    lora, base = setup.lora, setup.quantization
    if lora is None or base is None or lora.lora_dropout:
        return 0
    if setup.compiles_layers:
        return 0
    return _largest_fused(model, lora)


@lru_cache(maxsize=64)
def _largest_fused(model: ModelSpec, lora: LoraConfig) -> int:
    biased = {
        name for name, module in model.modules() if any(w.name == "bias" for w in module.weights)
    }
    sizes: dict[str, dict[str, int]] = {}
    for adapter in adapters(model, lora):
        if adapter.module not in biased:
            place, _, name = adapter.module.rpartition(".")
            sizes.setdefault(place, {})[name] = adapter.in_features * adapter.out_features
    return max(
        (
            own[name]
            for own in sizes.values()
            for group in _GROUPS
            if all(name in own for name in group)
            for name in group
        ),
        default=0,
    )
