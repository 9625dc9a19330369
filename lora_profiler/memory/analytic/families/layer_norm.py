"""Families with LayerNorm: GPT-2, with learned positions, fused Conv1D c_attn and gelu_new written
out; OPT, with learned positions, norms before or after each branch, and ReLU; GPT-NeoX and Pythia,
with parallel residual branches, fused qkv, and a partial rotary embedding (transformers
`modeling_{gpt2,opt,gpt_neox}.py`)."""

from lora_profiler._common.polynomial import TOKENS
from lora_profiler.memory.analytic.cut_layers import embedding
from lora_profiler.memory.analytic.families.blocks import (
    Config,
    Family,
    activate,
    attention,
    heads_of,
    rotary,
    rotary_dim,
)
from lora_profiler.memory.analytic.families.llama import residual
from lora_profiler.memory.analytic.ledger import Ledger, Tensor
from lora_profiler.memory.analytic.matmuls import linear


def gpt2_embed(op: Ledger, ids: Tensor, c: Config) -> Tensor:
    tokens = op.inputs(embedding(op, "transformer.wte", ids, c["hidden_size"]))
    positions = embedding(op, "transformer.wpe", op.positions(), c["hidden_size"])
    op.scope = "transformer"
    return op.dropout(op.add(tokens, positions), c["embd_pdrop"])


def gpt2_layer(op: Ledger, x: Tensor, c: Config, index: int) -> Tensor:
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
    embed=gpt2_embed,
    layer=gpt2_layer,
    norm=lambda op, x, c: op.layer_norm(x, "transformer.ln_f"),
    rotary_sets=lambda c: (),
    mask_is_positional=True,
)


def opt_embed(op: Ledger, ids: Tensor, c: Config) -> Tensor:
    x = op.inputs(embedding(op, "model.decoder.embed_tokens", ids, c["word_embed_proj_dim"]))
    position_ids = op.fresh(ids.elements, "int64", False)
    positions = embedding(op, "model.decoder.embed_positions", position_ids, c["hidden_size"])
    if c["word_embed_proj_dim"] != c["hidden_size"]:
        x = linear(op, x, "model.decoder.project_in")
    op.scope = "model.decoder"
    return op.add(x, positions)


def opt_layer(op: Ledger, x: Tensor, c: Config, index: int) -> Tensor:
    before, heads = c["do_layer_norm_before"], heads_of(c)
    masked = index in op.rules.masked_layers
    hidden = op.layer_norm(x, "self_attn_layer_norm") if before else x
    q = op.scale(linear(op, hidden, "self_attn.q_proj"))
    k, v = linear(op, hidden, "self_attn.k_proj"), linear(op, hidden, "self_attn.v_proj")
    op.scope = "self_attn"
    q, k, v = (op.turn(op.view(t, heads.query)) for t in (q, k, v))
    out = linear(
        op,
        attention(op, q, k, v, heads, "self_attn", dropout=c["attention_dropout"], masked=masked),
        "self_attn.out_proj",
    )
    op.keep(hidden, q, k, v)
    x = residual(op, x, op.dropout(out, c["dropout"]))
    if not before:
        x = op.layer_norm(x, "self_attn_layer_norm")
    hidden = op.layer_norm(x, "final_layer_norm") if before else x
    inner = linear(op, hidden, "fc1")
    op.scope = ""
    x = residual(
        op, x, op.dropout(linear(op, activate(op, inner, c["hidden_act"]), "fc2"), c["dropout"])
    )
    return x if before else op.layer_norm(x, "final_layer_norm")


def opt_norm(op: Ledger, x: Tensor, c: Config) -> Tensor:
    if c["do_layer_norm_before"] and not c.get("_remove_final_layer_norm"):
        x = op.layer_norm(x, "model.decoder.final_layer_norm")
    if c["word_embed_proj_dim"] != c["hidden_size"]:
        x = linear(op, x, "model.decoder.project_out")
    return x


OPT = Family(
    stack="model.decoder.layers",
    embed=opt_embed,
    layer=opt_layer,
    norm=opt_norm,
    rotary_sets=lambda c: (),
    positions_per_sample=True,
)


def gpt_neox_embed(op: Ledger, ids: Tensor, c: Config) -> Tensor:
    x = op.inputs(embedding(op, "gpt_neox.embed_in", ids, c["hidden_size"]))
    return op.dropout(x, c["hidden_dropout"])


def gpt_neox_self_attention(op: Ledger, x: Tensor, c: Config, masked: bool) -> Tensor:
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


def gpt_neox_mlp(op: Ledger, x: Tensor, c: Config) -> Tensor:
    inner = linear(op, x, "mlp.dense_h_to_4h")
    op.scope = "mlp"
    return linear(op, activate(op, inner, c["hidden_act"]), "mlp.dense_4h_to_h")


def gpt_neox_layer(op: Ledger, x: Tensor, c: Config, index: int) -> Tensor:
    masked, in_parallel = index in op.rules.masked_layers, c["use_parallel_residual"]
    attended = gpt_neox_self_attention(op, op.layer_norm(x, "input_layernorm"), c, masked)
    attended = op.dropout(attended, c["hidden_dropout"])
    if not in_parallel:
        x = residual(op, attended, x)
    update = gpt_neox_mlp(op, op.layer_norm(x, "post_attention_layernorm"), c)
    update = op.dropout(update, c["hidden_dropout"])
    return residual(op, residual(op, update, attended) if in_parallel else update, x)


GPT_NEOX = Family(
    stack="gpt_neox.layers",
    embed=gpt_neox_embed,
    layer=gpt_neox_layer,
    norm=lambda op, x, c: op.layer_norm(x, "gpt_neox.final_layer_norm"),
    rotary_sets=lambda c: (("rotary", rotary_dim(c)),),
)
