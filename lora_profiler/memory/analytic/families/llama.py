"""Llama and its close relatives: Mistral, Qwen2, Qwen3, Olmo2, Phi-3 (transformers
`modeling_llama.py` and the like)."""

from functools import partial

from lora_profiler._common.polynomial import TOKENS, constant
from lora_profiler.memory.analytic.cut_layers import embedding
from lora_profiler.memory.analytic.families.blocks import (
    Config,
    Family,
    activate,
    attention,
    gated_mlp,
    heads_of,
    rms_norm,
    rotary,
    rotary_dim,
    window_by_layer_type,
)
from lora_profiler.memory.analytic.ledger import ITEMSIZE, Ledger, Tensor
from lora_profiler.memory.analytic.matmuls import QKV, linear, projections

# --- Llama and its relatives ----------------------------------------------------------------------


def self_attention(
    op: Ledger,
    x: Tensor,
    c: Config,
    masked: bool,
    norms: str = "none",
    *,
    style: str = "llama",
    tables: str = "rotary",
    softcap: bool = False,
) -> Tensor:
    """q, k, v, optional norms of q and k (Qwen3 and Gemma 3 per head, Olmo2 over all heads), rotary
    embedding, attention, output.

    `norms`: "none", "heads" or "all"; `style` is that of norms per head.
    """
    heads = heads_of(c)
    q, k, v = projections(op, x, *QKV)
    if norms == "all":
        q = rms_norm(op, q, "self_attn.q_norm", style="olmo")
        k = rms_norm(op, k, "self_attn.k_norm", style="olmo")
    op.scope = "self_attn"
    q, k, v = (
        op.view(t, n) for t, n in ((q, heads.query), (k, heads.key_value), (v, heads.key_value))
    )
    if norms == "heads":
        q = rms_norm(op, q, "self_attn.q_norm", TOKENS * heads.query, style=style)
        k = rms_norm(op, k, "self_attn.k_norm", TOKENS * heads.key_value, style=style)
    op.scope = "self_attn"
    table_dtype = "float32" if norms == "all" else None
    rotated = None if style == "gemma" else op.rules.replaced("rotary")
    if rotated:
        q, k = rotated(op, q, k, heads.dim)
    else:
        q, k = (rotary(op, t, heads.dim, heads.dim, tables, dtype=table_dtype) for t in (q, k))
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


def residual(op: Ledger, x: Tensor, update: Tensor) -> Tensor:
    op.scope = ""
    return op.add(x, update)


def llama_layer(op: Ledger, x: Tensor, c: Config, layer: int) -> Tensor:
    masked = layer in op.rules.masked_layers
    update = self_attention(op, rms_norm(op, x, "input_layernorm"), c, masked)
    x = residual(op, x, update)
    out = residual(op, x, gated_mlp(op, rms_norm(op, x, "post_attention_layernorm"), c))
    if op.rules.torchtune_dora:  # `attn_out` of torchtune's layer (0.7, modules/transformer.py)
        op.keep(update)
    return out


def attended(op: Ledger, x: Tensor, c: Config, layer: int, norms: str = "none") -> Tensor:
    """The residual stream after attention."""
    normed, masked = rms_norm(op, x, "input_layernorm"), layer in op.rules.masked_layers
    return residual(op, x, self_attention(op, normed, c, masked, norms))


def qwen3_layer(op: Ledger, x: Tensor, c: Config, layer: int) -> Tensor:
    x = attended(op, x, c, layer, "heads")
    return residual(op, x, gated_mlp(op, rms_norm(op, x, "post_attention_layernorm"), c))


def olmo2_layer(op: Ledger, x: Tensor, c: Config, layer: int) -> Tensor:
    """Norms follow attention and MLP instead of preceding them."""
    update = rms_norm(
        op,
        self_attention(op, x, c, layer in op.rules.masked_layers, norms="all"),
        "post_attention_layernorm",
        style="olmo",
    )
    x = residual(op, x, update)
    return residual(
        op, x, rms_norm(op, gated_mlp(op, x, c), "post_feedforward_layernorm", style="olmo")
    )


def phi3_layer(op: Ledger, x: Tensor, c: Config, index: int) -> Tensor:
    """Phi-3: fused qkv and gate-up projections, dropout on both residual branches."""
    heads = heads_of(c)
    normed = rms_norm(op, x, "input_layernorm")
    fused = linear(op, normed, "self_attn.qkv_proj")
    op.scope = "self_attn"
    sizes = [TOKENS * (n * heads.dim) for n in (heads.query, heads.key_value, heads.key_value)]
    q, k, v = op.slices(fused, sizes)
    q, k, v = (
        op.view(t, n) for t, n in ((q, heads.query), (k, heads.key_value), (v, heads.key_value))
    )
    q, k = (rotary(op, t, heads.dim, rotary_dim(c), always_concatenates=True) for t in (q, k))
    masked = index in op.rules.masked_layers
    out = attention(
        op, q, k, op.turn(v), heads, "self_attn", dropout=c["attention_dropout"], masked=masked
    )
    update = linear(op, out, "self_attn.o_proj")
    op.keep(normed, fused, q, k, v)
    x = residual(op, x, op.dropout(update, c["resid_pdrop"]))

    normed = rms_norm(op, x, "post_attention_layernorm")
    fused = linear(op, normed, "mlp.gate_up_proj")
    op.scope = "mlp"
    gate, up = op.split(fused, [fused.elements // 2] * 2)
    update = linear(op, op.multiply(up, activate(op, gate, c["hidden_act"])), "mlp.down_proj")
    op.keep(normed, gate)
    return residual(op, x, op.dropout(update, c["resid_pdrop"]))


LLAMA = Family(
    stack="model.layers",
    embed=lambda op, ids, c: op.inputs(embedding(op, "model.embed_tokens", ids, c["hidden_size"])),
    layer=llama_layer,
    norm=lambda op, x, c: rms_norm(op, x, "model.norm"),
)
MISTRAL = LLAMA._replace(window=window_by_layer_type)
QWEN2 = MISTRAL
QWEN3 = MISTRAL._replace(layer=qwen3_layer)
OLMO2 = LLAMA._replace(
    layer=olmo2_layer,
    norm=lambda op, x, c: rms_norm(op, x, "model.norm", style="olmo"),
    rotary_dtype="float32",
)
PHI3 = MISTRAL._replace(layer=phi3_layer, rotary_sets=lambda c: (("rotary", rotary_dim(c)),))


# --- Gemma 1 to 3 ---------------------------------------------------------------------------------

# Gemma 1 to 3, text: (1 + w) norms in float32, scaled embeddings, sandwich norms and softcapping
# from Gemma 2 on.


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
