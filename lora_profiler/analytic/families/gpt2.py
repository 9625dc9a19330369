"""GPT-2: learned positions, LayerNorm, fused Conv1D c_attn, gelu_new written out (transformers
`modeling_gpt2.py`)."""

from lora_profiler.algebra.polynomial import TOKENS
from lora_profiler.analytic.families.blocks import Config, activate, attention, heads_of
from lora_profiler.analytic.families.family import Family, full_attention, plain_head
from lora_profiler.analytic.families.llama import residual
from lora_profiler.analytic.ledger import Ledger
from lora_profiler.analytic.products import linear
from lora_profiler.analytic.tensors import Tensor


def embed(op: Ledger, ids: Tensor, c: Config) -> Tensor:
    tokens = op.inputs(op.embedding("transformer.wte", ids, c["hidden_size"]))
    positions = op.embedding("transformer.wpe", op.positions(), c["hidden_size"])
    op.scope = "transformer"
    return op.dropout(op.add(tokens, positions), c["embd_pdrop"])


def layer(op: Ledger, x: Tensor, c: Config, index: int) -> Tensor:
    heads, masked = heads_of(c), index in op.rules.masked_layers
    normed = op.layer_norm(x, "ln_1")
    fused = linear(op, normed, "attn.c_attn")
    op.scope = "attn"
    q, k, v = (
        op.turn(op.view(t, heads.query)) for t in op.split(fused, [TOKENS * c["hidden_size"]] * 3)
    )
    out = attention(
        op, q, k, v, heads, "attn", dropout=c["attention_dropout"], masked=masked, upcast=False
    )
    attended = op.dropout(linear(op, out, "attn.c_proj"), c["resid_pdrop"])
    op.keep(normed, q, k, v)
    x = residual(op, attended, x)
    normed = op.layer_norm(x, "ln_2")
    inner = linear(op, normed, "mlp.c_fc")
    op.scope = "mlp"
    update = linear(op, activate(op, inner, c["hidden_act"]), "mlp.c_proj")
    x = residual(op, x, op.dropout(update, c["resid_pdrop"]))
    op.keep(normed, attended)
    return x


GPT2 = Family(
    stack="transformer.h",
    embed=embed,
    layer=layer,
    norm=lambda op, x, c: op.layer_norm(x, "transformer.ln_f"),
    head=plain_head,
    window=full_attention,
    rotary_sets=lambda c: (),
    mask_is_positional=True,
)
