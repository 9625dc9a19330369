"""LitGPT's own Llama: queries, keys and values of one matrix with one adapter, and norms in
float32 (27 October 2023 `lit_gpt/{model,lora,rmsnorm}.py`; 0.5.13 `litgpt/{model,lora}.py`).
"""

from typing import Any

from lora_profiler._common.polynomial import TOKENS, R, constant
from lora_profiler.memory.analytic.families.blocks import (
    Config,
    Family,
    attention,
    gated_mlp,
    heads_of,
    rotary,
)
from lora_profiler.memory.analytic.families.llama import LLAMA, residual
from lora_profiler.memory.analytic.ledger import Ledger, Storage, Tensor
from lora_profiler.memory.analytic.matmuls import QKV, linear, product, trained


def rms_norm(op: Ledger, x: Tensor, name: str) -> Tensor:
    op.scope = name
    wide = op.cast(x, "float32")
    mean = op.reduce(op.multiply(wide, wide), TOKENS, "mean")
    inverse = op.activation(op.shift(mean), "rsqrt", keeps_output=True)
    return op.cast(op.multiply(op.multiply(wide, inverse), op.weight(name)), x.dtype)


def one_matrix(op: Ledger, x: Tensor, c: Config) -> Tensor:
    """Queries, keys and values side by side. Their adapters are one: one dropout, an A of the rank
    of each together, and an outcome that `index_copy` spreads, and keeps, unless all three have
    one."""
    heads, width = heads_of(c), c["hidden_size"]
    sizes = (heads.query * heads.dim, *[heads.key_value * heads.dim] * 2)
    op.scope = QKV[0]
    part = op.weight(op.scope)
    whole = Tensor(
        constant(width * sum(sizes)),
        part.dtype,
        part.requires_grad,
        Storage(constant(0), "parameter"),
    )
    base = product(op, x, whole, width, sum(sizes))
    adapted = [size for name, size in zip(QKV, sizes, strict=True) if op.adapters.get(name)]
    if not adapted:
        return base
    dropped = op.dropout(x, op.rules.lora_dropout)
    inner = trained(op, dropped, TOKENS, constant(width), R * len(adapted))
    made = op.copy(trained(op, inner, TOKENS, R, constant(sum(adapted))))
    if len(adapted) < len(sizes):
        spread = op.fresh(TOKENS * sum(sizes), made.dtype, True)
        index = op.fresh(constant(sum(adapted)), "int64", False)
        op.record("index_copy", (made,), (spread,), (index, made), side_inputs=(index,))
        made = spread
    return op.add(base, op.scale(made))


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


LITGPT = LLAMA._replace(layer=layer, norm=lambda op, x, c: rms_norm(op, x, "model.norm"))


def program(workload: Any) -> Family | None:
    """Of a Llama on one process, with plain LoRA or none; None for others, of which transformers'
    model is priced."""
    setup, model = workload.setup, workload.model
    is_plain = setup.lora is None or (setup.lora.peft_type == "lora" and not setup.lora.use_dora)
    is_llama = model.model_type in ("llama", "mistral") and not model.config.get("attention_bias")
    return LITGPT if is_llama and is_plain and not setup.is_shared else None
