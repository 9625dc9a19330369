"""Llama and its close relatives: Mistral, Qwen2, Qwen3, Olmo2, Phi-3 (transformers
`modeling_llama.py` and the like)."""

from lora_profiler._common.polynomial import TOKENS
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
from lora_profiler.memory.analytic.ledger import Ledger
from lora_profiler.memory.analytic.lora_kernels import QKV, projections
from lora_profiler.memory.analytic.matmuls import linear
from lora_profiler.memory.analytic.tensors import Tensor


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
