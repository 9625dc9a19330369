"""OPT: learned positions, LayerNorm before or after each branch, ReLU (transformers
`modeling_opt.py`)."""

from lora_profiler.analytic.families.blocks import Config, activate, attention, heads_of
from lora_profiler.analytic.families.family import Family, full_attention, plain_head
from lora_profiler.analytic.families.llama import residual
from lora_profiler.analytic.ledger import Ledger
from lora_profiler.analytic.products import linear
from lora_profiler.analytic.tensors import Tensor


def embed(op: Ledger, ids: Tensor, c: Config) -> Tensor:
    x = op.inputs(op.embedding("model.decoder.embed_tokens", ids, c["word_embed_proj_dim"]))
    position_ids = op.fresh(ids.elements, "int64", False)
    positions = op.embedding("model.decoder.embed_positions", position_ids, c["hidden_size"])
    if c["word_embed_proj_dim"] != c["hidden_size"]:
        x = linear(op, x, "model.decoder.project_in")
    op.scope = "model.decoder"
    return op.add(x, positions)


def layer(op: Ledger, x: Tensor, c: Config, index: int) -> Tensor:
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


def norm(op: Ledger, x: Tensor, c: Config) -> Tensor:
    if c["do_layer_norm_before"] and not c.get("_remove_final_layer_norm"):
        x = op.layer_norm(x, "model.decoder.final_layer_norm")
    if c["word_embed_proj_dim"] != c["hidden_size"]:
        x = linear(op, x, "model.decoder.project_out")
    return x


OPT = Family(
    stack="model.decoder.layers",
    embed=embed,
    layer=layer,
    norm=norm,
    head=plain_head,
    window=full_attention,
    rotary_sets=lambda c: (),
    positions_per_sample=True,
)
