"""What LitGPT's own model has in all years: it ties no head to the embedding, and Fabric quantises
from float16."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

from lora_profiler.question.kernel_set import KernelSet
from lora_profiler.question.model_spec import LayerStack, ModelSpec, Module

FACTS = KernelSet(
    title="LitGPT's model",
    rules_alone=True,
    quantizes_head=True,
    keeps_logits=True,  # a name of `fit`
)


def by_fabric(nf4: Any) -> Any:
    """Quantised from float16, which the weight is brought back to first (Fabric 2.6
    `plugins/precision/bitsandbytes.py`), under LitGPT's own adapters (0.5.13 `lora.py`)."""
    return nf4._replace(scale_dtype="float16", sums="linear")


def by_old_bitsandbytes(nf4: Any) -> Any:
    """Up to 0.43 a product in 4 bit kept its input, as an attribute of its node (0.42
    `autograd/_functions.py`, MatMul4Bit)."""
    return by_fabric(nf4)._replace(keeps="input", keeps_past_backward=True)


def as_made(model: ModelSpec) -> ModelSpec:
    """0.5.13 `model.py`, GPT."""
    return _untied(model) if any(map(_is_tied, model.parts)) else model


def _is_tied(part: Module | LayerStack) -> bool:
    return isinstance(part, Module) and any(w.tied_to is not None for w in part.weights)


@lru_cache(maxsize=64)
def _untied(model: ModelSpec) -> ModelSpec:
    parts = tuple(
        replace(part, weights=tuple(replace(w, tied_to=None) for w in part.weights))
        if isinstance(part, Module)
        else part
        for part in model.parts
    )
    return replace(model, parts=parts, fingerprint=f"{model.fingerprint}-untied")
