"""Phi-3: fused qkv and gate-up projections, dropout on both residual branches (transformers
`modeling_phi3.py`)."""

from lora_profiler.algebra.polynomial import TOKENS
from lora_profiler.analytic.families.blocks import (
    Config,
    activate,
    attention,
    heads_of,
    rms_norm,
    rotary,
    rotary_dim,
)
from lora_profiler.analytic.families.family import (
    Family,
    plain_embedding,
    plain_head,
    window_by_layer_type,
)
from lora_profiler.analytic.families.llama import final_norm, residual
from lora_profiler.analytic.ledger import Ledger
from lora_profiler.analytic.products import linear
from lora_profiler.analytic.tensors import Tensor


def layer(op: Ledger, x: Tensor, c: Config, index: int) -> Tensor:
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


PHI3 = Family(
    stack="model.layers",
    embed=plain_embedding("model.embed_tokens"),
    layer=layer,
    norm=final_norm,
    head=plain_head,
    window=window_by_layer_type,
    rotary_sets=lambda c: (("rotary", rotary_dim(c)),),
)
