"""Kernels that keys of axolotl's files switch on: cut cross-entropy, Liger's, those of adapters."""

from collections.abc import Mapping
from typing import Any

from lora_profiler.trainer_files.document import Document
from lora_profiler.trainer_files.meaning import (
    NOTHING,
    Meaning,
    Reader,
    is_off,
    is_on,
    missing,
    not_modelled,
)

LORA_KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel")
_LIGER = ("liger_rms_norm", "liger_rope", "liger_glu_activation")


def cut_cross_entropy(value: Any, document: Document) -> Meaning:
    return NOTHING if is_off(value) else Meaning({"loss": "cce"})


def liger_layer_norm(value: Any, document: Document) -> Meaning:
    return Meaning(note="the models that Liger's kernels are known of have RMSNorm alone")


def liger(value: Any, document: Document) -> Meaning:
    """Liger's kernels are one option: all three of them."""
    if is_off(value):
        return NOTHING
    on = [key for key in _LIGER if is_on(document.get(key))]
    if is_on(document.get("liger_swiglu")) and "liger_glu_activation" not in on:
        on.append("liger_swiglu")
    if len(on) == len(_LIGER):
        return Meaning({"kernels": "liger"})
    return not_modelled("only some of Liger's kernels, answered without them", "too high")


def all_lora_kernels(document: Document) -> Meaning:
    """No rule is of them with DoRA or in float16, and a base in GPTQ has no weights for them."""
    found = next((k for k in ("peft_use_dora", "fp16", "gptq") if is_on(document.get(k))), None)
    if found is None:
        return Meaning({"lora_kernels": "axolotl"})
    what = f"axolotl's LoRA kernels with {found}, answered as PEFT's adapters"
    return not_modelled(what, "too high", lora_kernels="peft")


def lora_kernel(value: Any, document: Document) -> Meaning:
    """Its LoRA kernels are one option: all three of them."""
    on = [key for key in LORA_KERNELS if is_on(document.get(key))]
    if not on or is_off(document.get("adapter")):
        return Meaning({"lora_kernels": "peft"}) if not on else NOTHING
    if is_off(value):
        return NOTHING
    if len(on) == len(LORA_KERNELS):
        return all_lora_kernels(document)
    what = "only some of axolotl's LoRA kernels, answered with all"
    return not_modelled(what, "too low", lora_kernels="axolotl")


def embedding_kernel(value: Any, document: Document) -> Meaning:
    if is_off(value) or "embed_tokens" not in str(document.get("lora_target_modules")):
        return NOTHING
    return not_modelled("a kernel for adapters on the embedding", "either way")


def experts(value: Any, document: Document) -> Meaning:
    """grouped_mm is what transformers 5 takes by itself, and the rules know."""
    return NOTHING if value == "grouped_mm" else _OF_EXPERTS_OR_ATTENTION(value, document)


_OF_EXPERTS_OR_ATTENTION = missing("kernels of experts or attention", "either way")
OTHERS: Mapping[str, Reader] = {
    "experts_implementation": experts,
    **dict.fromkeys(
        (
            *("use_scattermoe", "use_sonicmoe", "use_dsv4_kernels", "use_glm_dsa_kernels"),
            *("dsv4_fp4_grouped_mode", "fused_attn_kernel", "gemma4_hybrid_attn_impl"),
            "large_head_attention",
        ),
        _OF_EXPERTS_OR_ATTENTION,
    ),
    "use_kernels": missing("kernels from the hub", "either way"),
}
