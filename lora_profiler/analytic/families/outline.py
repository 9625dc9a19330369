"""Layers that no rule describes, between ends that are known: what goes into each layer, and from
the last of them to the loss."""

from lora_profiler.algebra.polynomial import TOKENS
from lora_profiler.analytic.families.blocks import Config
from lora_profiler.analytic.families.family import Family, full_attention
from lora_profiler.analytic.ledger import Ledger
from lora_profiler.analytic.tensors import Tensor
from lora_profiler.model_spec import ModelSpec, Stack


def outline_of(model: ModelSpec) -> Family | None:
    """A program that runs nothing inside layers and keeps nothing of the last norm; None where it
    is not one stack of layers that takes the tokens."""
    stacks = [p.name for p in model.parts if isinstance(p, Stack) and len(p.order) > 1]
    taking = [name for name in stacks if name.endswith(_TAKES_TOKENS)]
    if len(taking) != 1 or "hidden_size" not in model.config:
        return None
    return Family(
        stack=taking[0],
        embed=_embed,
        layer=_layer,
        norm=_norm,
        head=_norm,
        window=full_attention,
        rotary_sets=lambda c: (),
    )


_TAKES_TOKENS = ("language_model.layers", "model.layers")
"""As causal language models and those that see call their layers."""


def _embed(op: Ledger, ids: Tensor, c: Config) -> Tensor:
    out = op.fresh(TOKENS * c["hidden_size"], op.rules.dtype, False)
    op.record("embedding", (ids,), (out,))
    return op.inputs(out)


def _layer(op: Ledger, x: Tensor, c: Config, layer: int) -> Tensor:
    out = op.fresh(x.elements, x.dtype, True)
    op.record("layer", (x,), (out,))
    return out


def _norm(op: Ledger, x: Tensor, c: Config) -> Tensor:
    out = op.fresh(x.elements, x.dtype, x.requires_grad)
    op.record("norm", (x,), (out,))
    return out
