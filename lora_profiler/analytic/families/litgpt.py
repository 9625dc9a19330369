"""LitGPT's own Llama of 27 October 2023, with which its resource tables were made: queries, keys
and values of one matrix with one adapter, norms in float32, and bitsandbytes 0.41, which keeps
every input (`lit_gpt/{model,lora,rmsnorm}.py`; bitsandbytes 0.41 `autograd/_functions.py`).
"""

from lora_profiler.algebra.polynomial import TOKENS, R, constant
from lora_profiler.analytic.families.blocks import Config, attention, gated_mlp, heads_of, rotary
from lora_profiler.analytic.families.llama import LLAMA, residual
from lora_profiler.analytic.ledger import Ledger
from lora_profiler.analytic.matmuls import linear, product, trained
from lora_profiler.analytic.tensors import Storage, Tensor


def rms_norm(op: Ledger, x: Tensor, name: str) -> Tensor:
    op.scope = name
    wide = op.cast(x, "float32")
    mean = op.reduce(op.multiply(wide, wide), TOKENS, "mean")
    inverse = op.activation(op.shift(mean), "rsqrt", keeps_output=True)
    return op.cast(op.multiply(op.multiply(wide, inverse), op.weight(name)), x.dtype)


def one_matrix(op: Ledger, x: Tensor, c: Config) -> Tensor:
    """Queries, keys and values side by side. The adapter has one A of twice the rank, and its
    outcome for queries and values is spread by `index_copy`, which keeps what it spreads."""
    heads, width = heads_of(c), c["hidden_size"]
    queries, keys = heads.query * heads.dim, heads.key_value * heads.dim
    outputs = queries + 2 * keys
    op.scope = "self_attn.q_proj"
    part, size = op.weight(op.scope), constant(width * outputs)
    whole = Tensor(size, part.dtype, part.requires_grad, Storage(constant(0), "parameter"))
    base = product(op, x, whole, width, outputs)
    if op.scope not in op.adapters:
        return base
    dropped = op.dropout(x, op.rules.lora_dropout)
    inner = trained(op, dropped, TOKENS, constant(width), R * 2)
    made = op.copy(trained(op, inner, TOKENS, R, constant(queries + keys)))
    spread = op.fresh(TOKENS * outputs, made.dtype, True)
    index = op.fresh(constant(queries + keys), "int64", False)
    op.record("spread", (made,), (spread,), (index, made), side_inputs=(index,))
    return op.add(base, op.scale(spread))


def self_attention(op: Ledger, x: Tensor, c: Config) -> Tensor:
    heads = heads_of(c)
    sizes = [TOKENS * (n * heads.dim) for n in (heads.query, heads.key_value, heads.key_value)]
    q, k, v = op.split(one_matrix(op, x, c), sizes)
    op.scope = "self_attn"
    q, k = (rotary(op, t, heads.dim, heads.dim, always_concatenates=True) for t in (q, k))
    out = attention(op, q, k, op.turn(v), heads, "self_attn")
    return linear(op, out, "self_attn.o_proj")


def layer(op: Ledger, x: Tensor, c: Config, index: int) -> Tensor:
    x = residual(op, self_attention(op, rms_norm(op, x, "input_layernorm"), c), x)
    return residual(op, gated_mlp(op, rms_norm(op, x, "post_attention_layernorm"), c), x)


LITGPT_2023 = LLAMA._replace(layer=layer, norm=lambda op, x, c: rms_norm(op, x, "model.norm"))
