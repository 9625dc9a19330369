"""GPT-NeoX and Pythia: parallel residual branches, fused qkv, partial rotary embedding
(`modeling_gpt_neox.py`)."""

from lora_profiler.algebra.polynomial import TOKENS
from lora_profiler.analytic.families.blocks import (
    Config,
    activate,
    attention,
    heads_of,
    rotary,
    rotary_dim,
)
from lora_profiler.analytic.families.family import Family, full_attention, plain_head
from lora_profiler.analytic.families.llama import residual
from lora_profiler.analytic.ledger import Ledger
from lora_profiler.analytic.products import linear
from lora_profiler.analytic.tensors import Tensor


def embed(op: Ledger, ids: Tensor, c: Config) -> Tensor:
    x = op.inputs(op.embedding("gpt_neox.embed_in", ids, c["hidden_size"]))
    return op.dropout(x, c["hidden_dropout"])


def self_attention(op: Ledger, x: Tensor, c: Config, masked: bool) -> Tensor:
    heads = heads_of(c)
    fused = linear(op, x, "attention.query_key_value")
    op.scope = "attention"
    q, k, v = op.split(op.turn(op.view(fused, heads.query)), [TOKENS * c["hidden_size"]] * 3)
    q, k = (rotary(op, t, heads.dim, rotary_dim(c), always_concatenates=True) for t in (q, k))
    out = linear(
        op,
        attention(op, q, k, v, heads, "attention", dropout=c["attention_dropout"], masked=masked),
        "attention.dense",
    )
    op.keep(x, fused, q, k, v)
    return out


def mlp(op: Ledger, x: Tensor, c: Config) -> Tensor:
    inner = linear(op, x, "mlp.dense_h_to_4h")
    op.scope = "mlp"
    return linear(op, activate(op, inner, c["hidden_act"]), "mlp.dense_4h_to_h")


def layer(op: Ledger, x: Tensor, c: Config, index: int) -> Tensor:
    masked = index in op.rules.masked_layers
    attended = op.dropout(
        self_attention(op, op.layer_norm(x, "input_layernorm"), c, masked), c["hidden_dropout"]
    )
    if c["use_parallel_residual"]:
        update = op.dropout(
            mlp(op, op.layer_norm(x, "post_attention_layernorm"), c), c["hidden_dropout"]
        )
        return residual(op, residual(op, update, attended), x)
    x = residual(op, attended, x)
    return residual(
        op,
        op.dropout(mlp(op, op.layer_norm(x, "post_attention_layernorm"), c), c["hidden_dropout"]),
        x,
    )


GPT_NEOX = Family(
    stack="gpt_neox.layers",
    embed=embed,
    layer=layer,
    norm=lambda op, x, c: op.layer_norm(x, "gpt_neox.final_layer_norm"),
    head=plain_head,
    window=full_attention,
    rotary_sets=lambda c: (("rotary", rotary_dim(c)),),
)
