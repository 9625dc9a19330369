"""Gemma 1 to 3, text: (1 + w) norms in float32, scaled embeddings, sandwich norms and softcapping
from Gemma 2 on."""

from functools import partial

from lora_profiler._common.polynomial import constant
from lora_profiler.memory.analytic.cut_layers import embedding
from lora_profiler.memory.analytic.families.blocks import (
    Config,
    Family,
    gated_mlp,
    rms_norm,
    window_by_layer_type,
)
from lora_profiler.memory.analytic.families.llama import residual, self_attention
from lora_profiler.memory.analytic.ledger import Ledger
from lora_profiler.memory.analytic.matmuls import linear
from lora_profiler.memory.analytic.tensors import ITEMSIZE, Tensor


def embed(op: Ledger, ids: Tensor, c: Config) -> Tensor:
    """Embedding times sqrt(hidden_size), a scalar buffer (no Python number) in the dtype that the
    model was loaded in, converted to the weight's."""
    x = embedding(op, "model.embed_tokens", ids, c["hidden_size"])
    return op.inputs(op.scale_by(x, op.cast(op.fresh(constant(1), op.rules.dtype, False), x.dtype)))


def gemma_norm(op: Ledger, x: Tensor, name: str) -> Tensor:
    return rms_norm(op, x, name, style="gemma")


def gemma_layer(op: Ledger, x: Tensor, c: Config, layer: int) -> Tensor:
    masked = layer in op.rules.masked_layers
    normed = gemma_norm(op, x, "input_layernorm")
    x = residual(op, x, self_attention(op, normed, c, masked, style="gemma"))
    return residual(op, x, gated_mlp(op, gemma_norm(op, x, "post_attention_layernorm"), c))


def sandwich_layer(op: Ledger, x: Tensor, c: Config, layer: int, *, norms: bool) -> Tensor:
    """`norms`: Gemma 3's, of queries and keys, in place of Gemma 2's cap on scores."""
    normed = gemma_norm(op, x, "input_layernorm")
    sliding = norms and (c.get("layer_types") or {layer: ""})[layer] == "sliding_attention"
    update = self_attention(
        op,
        normed,
        c,
        layer in op.rules.masked_layers,
        "heads" if norms else "none",
        style="gemma",
        tables="rotary.sliding" if sliding else "rotary",
        softcap=not norms and c.get("attn_logit_softcapping") is not None,
    )
    x = residual(op, x, gemma_norm(op, update, "post_attention_layernorm"))
    update = gated_mlp(op, gemma_norm(op, x, "pre_feedforward_layernorm"), c)
    return residual(op, x, gemma_norm(op, update, "post_feedforward_layernorm"))


def softcapped_head(op: Ledger, x: Tensor, c: Config) -> Tensor:
    logits = linear(op, x, "lm_head")
    if c.get("final_logit_softcapping") is None:
        return logits
    return op.scale(op.activation(op.scale(logits), "tanh", keeps_output=True))


def two_rotary_sets(c: Config) -> tuple[tuple[str, int], ...]:
    """Gemma 3 rotates sliding and full layers by different tables, made for the layer types that
    occur."""
    kinds = set(c["layer_types"])
    sets = [("rotary", "full_attention"), ("rotary.sliding", "sliding_attention")]
    return tuple((name, c["head_dim"]) for name, kind in sets if kind in kinds)


GEMMA = Family(
    stack="model.layers",
    embed=embed,
    layer=gemma_layer,
    norm=lambda op, x, c: gemma_norm(op, x, "model.norm"),
    buffer_bytes=ITEMSIZE.__getitem__,  # the scale of the embedding
)
GEMMA2 = GEMMA._replace(
    layer=partial(sandwich_layer, norms=False),
    head=softcapped_head,
    masks=lambda c: (None, c["sliding_window"]),
    window=window_by_layer_type,
)
GEMMA3 = GEMMA2._replace(layer=partial(sandwich_layer, norms=True), rotary_sets=two_rotary_sets)
