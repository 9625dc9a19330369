"""The families that the ledger knows: each one's forward pass as a short program, read next to
transformers' own code."""

from collections.abc import Mapping
from functools import cache
from importlib import import_module

from lora_profiler.memory.analytic.families.blocks import KNOWN_ACTIVATIONS, Family
from lora_profiler.question.model_spec import ModelSpec

FAMILIES: Mapping[str, str] = {
    "llama": "llama.LLAMA",
    "mistral": "llama.MISTRAL",
    "qwen2": "llama.QWEN2",
    "qwen3": "llama.QWEN3",
    "olmo2": "llama.OLMO2",
    "phi3": "llama.PHI3",
    "gemma": "llama.GEMMA",
    "gemma2": "llama.GEMMA2",
    "gemma3_text": "llama.GEMMA3",
    "gpt2": "layer_norm.GPT2",
    "gpt_neox": "layer_norm.GPT_NEOX",
    "opt": "layer_norm.OPT",
    "mixtral": "moe.MIXTRAL",
    "qwen3_moe": "moe.QWEN3_MOE",
}
"""Model type -> module and name of its program here: an answer loads the one that it needs."""

_BODIES = ("ForCausalLM", "LMHeadModel", "Model")
"""Endings of the classes that a family's program describes: the causal language model, or its bare
body trained as one."""


def family_of(model: ModelSpec) -> Family | None:
    """The program that runs `model`, None if there is none: another type, another head or none,
    cross-attention."""
    if (
        model.is_embedding
        or not model.architecture.endswith(_BODIES)
        or model.config.get("add_cross_attention")
    ):
        return None
    return _program(FAMILIES[model.model_type]) if model.model_type in FAMILIES else None


def program_by_type(model: ModelSpec) -> Family | None:
    """`family_of`, else an estimate of it; None where there is neither."""
    known = family_of(model)
    if known is not None:
        return known
    from lora_profiler.memory.analytic.families.by_modules import family_by_modules

    return family_by_modules(model)


@cache
def _program(path: str) -> Family:
    module, _, name = path.partition(".")
    program: Family = getattr(import_module(f"{__name__}.{module}"), name)
    return program


def unmodelled(model: ModelSpec) -> tuple[str, ...]:
    """Fields of the config whose value changes activations in a way that no program follows."""
    config = model.config
    names = [name for name in _UNMODELLED if config.get(name)]
    if config.get("hidden_act") not in KNOWN_ACTIVATIONS:
        names.append("hidden_act")
    return tuple(names)


_UNMODELLED = (
    "layerdrop",
    "router_jitter_noise",
    "output_router_logits",
    "use_bidirectional_attention",
    "reorder_and_upcast_attn",
)

__all__ = ["FAMILIES", "Family", "family_of", "program_by_type", "unmodelled"]
