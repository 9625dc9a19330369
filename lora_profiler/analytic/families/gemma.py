"""Gemma 1 to 3, text: (1 + w) norms in float32, scaled embeddings, sandwich norms and softcapping
from Gemma 2 on."""

from lora_profiler.algebra.polynomial import TOKENS, constant
from lora_profiler.analytic.families.blocks import (
    Config,
    attention,
    gated_mlp,
    heads_of,
    rms_norm,
    rotary,
)
from lora_profiler.analytic.families.family import (
    Family,
    full_attention,
    one_rotary_set,
    plain_head,
    window_by_layer_type,
)
from lora_profiler.analytic.families.llama import residual
from lora_profiler.analytic.ledger import Ledger
from lora_profiler.analytic.lora_kernels import QKV, projections
from lora_profiler.analytic.products import linear
from lora_profiler.analytic.tensors import ITEMSIZE, Tensor


def embed(op: Ledger, ids: Tensor, c: Config) -> Tensor:
    """Embedding times sqrt(hidden_size), a scalar buffer (no Python number) in the dtype that the
    model was loaded in, converted to the weight's."""
    x = op.embedding("model.embed_tokens", ids, c["hidden_size"])
    return op.inputs(op.scale_by(x, op.cast(op.fresh(constant(1), op.rules.dtype, False), x.dtype)))


def self_attention(
    op: Ledger, x: Tensor, c: Config, layer: int, *, norms: bool, softcap: bool
) -> Tensor:
    heads = heads_of(c)
    sliding = (c.get("layer_types") or ("full_attention",) * (layer + 1))[
        layer
    ] == "sliding_attention"
    q, k, v = projections(op, x, *QKV)
    op.scope = "self_attn"
    q, k, v = (
        op.view(t, n) for t, n in ((q, heads.query), (k, heads.key_value), (v, heads.key_value))
    )
    if norms:
        q = rms_norm(op, q, "self_attn.q_norm", TOKENS * heads.query, style="gemma")
        k = rms_norm(op, k, "self_attn.k_norm", TOKENS * heads.key_value, style="gemma")
    op.scope = "self_attn"
    tables = "rotary.sliding" if norms and sliding else "rotary"
    q, k = (rotary(op, t, heads.dim, heads.dim, tables) for t in (q, k))
    masked = layer in op.rules.masked_layers
    out = attention(
        op,
        q,
        k,
        op.turn(v),
        heads,
        "self_attn",
        dropout=c["attention_dropout"],
        masked=masked,
        softcap=softcap,
    )
    (out,) = projections(op, out, "self_attn.o_proj")
    op.keep(x, q, k, v)
    return out


def gemma_layer(op: Ledger, x: Tensor, c: Config, layer: int) -> Tensor:
    normed = rms_norm(op, x, "input_layernorm", style="gemma")
    x = residual(op, x, self_attention(op, normed, c, layer, norms=False, softcap=False))
    return residual(
        op, x, gated_mlp(op, rms_norm(op, x, "post_attention_layernorm", style="gemma"), c)
    )


def sandwich_layer(
    op: Ledger, x: Tensor, c: Config, layer: int, *, norms: bool, softcap: bool
) -> Tensor:
    normed = rms_norm(op, x, "input_layernorm", style="gemma")
    update = self_attention(op, normed, c, layer, norms=norms, softcap=softcap)
    x = residual(op, x, rms_norm(op, update, "post_attention_layernorm", style="gemma"))
    update = gated_mlp(op, rms_norm(op, x, "pre_feedforward_layernorm", style="gemma"), c)
    return residual(op, x, rms_norm(op, update, "post_feedforward_layernorm", style="gemma"))


def gemma2_layer(op: Ledger, x: Tensor, c: Config, layer: int) -> Tensor:
    return sandwich_layer(
        op, x, c, layer, norms=False, softcap=c.get("attn_logit_softcapping") is not None
    )


def gemma3_layer(op: Ledger, x: Tensor, c: Config, layer: int) -> Tensor:
    return sandwich_layer(op, x, c, layer, norms=True, softcap=False)


def norm(op: Ledger, x: Tensor, c: Config) -> Tensor:
    return rms_norm(op, x, "model.norm", style="gemma")


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


def both_masks(c: Config) -> tuple[int | None, ...]:
    return None, c["sliding_window"]


def embed_scale_bytes(dtype: str) -> int:
    return ITEMSIZE[dtype]


GEMMA = Family(
    stack="model.layers",
    embed=embed,
    layer=gemma_layer,
    norm=norm,
    head=plain_head,
    window=full_attention,
    rotary_sets=one_rotary_set,
    buffer_bytes=embed_scale_bytes,
)
GEMMA2 = GEMMA._replace(
    layer=gemma2_layer, head=softcapped_head, masks=both_masks, window=window_by_layer_type
)
GEMMA3 = GEMMA2._replace(layer=gemma3_layer, rotary_sets=two_rotary_sets)
