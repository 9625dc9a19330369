"""Mixtral and Qwen3-MoE: Llama's attention, experts as packed 3-D weights run by grouped matrix
products.

transformers `integrations/moe.py` (`grouped_mm_experts_forward`), `modeling_mixtral.py`,
`modeling_qwen3_moe.py`. What is kept does not depend on which expert a token goes to.
"""

from lora_profiler.algebra.polynomial import TOKENS, Polynomial, constant
from lora_profiler.analytic.experts import (
    add_rows,
    derive,
    grouped_product,
    normalize,
    parameter,
    select,
)
from lora_profiler.analytic.families.blocks import Config, activate, gated_mlp, rms_norm
from lora_profiler.analytic.families.llama import MISTRAL, residual, self_attention
from lora_profiler.analytic.ledger import Ledger
from lora_profiler.analytic.products import linear, product
from lora_profiler.analytic.tensors import Tensor


def route(
    op: Ledger, x: Tensor, experts: int, chosen: Polynomial, *, renormalises: bool, narrows: bool
) -> tuple[Tensor, Tensor]:
    """Routing weights of the chosen experts, and which these are.

    Softmax in float32, top k, divided by their sum where the model does so.

    `narrows`: converted to the router logits' dtype at the end.
    """
    op.scope = "mlp.gate"
    hidden = op.modules["mlp.gate"].weight("weight").shape[1]
    logits = product(op, x, parameter(op, "mlp.gate", "weight"), hidden, experts)
    probabilities = op.softmax(logits, "float32")
    indices = op.fresh(chosen, "int64", False)
    weights = select(op, probabilities, chosen, indices, "topk")
    if renormalises:
        weights = normalize(op, weights, TOKENS)
    return (op.cast(weights, logits.dtype) if narrows else weights), indices


def run_experts(
    op: Ledger,
    x: Tensor,
    weights: Tensor,
    indices: Tensor,
    c: Config,
    chosen: Polynomial,
    experts: int,
) -> Tensor:
    """Tokens sorted by expert, gate-up and down products per group, weighted, put back in order and
    summed."""
    op.scope = "mlp.experts"
    double_width, hidden = op.modules["mlp.experts"].weight("gate_up_proj").shape[1:]
    width = double_width // 2
    in_order, order, places, counting, back = (op.fresh(chosen, "int64", False) for _ in range(5))
    narrow = op.fresh(chosen, "int32", False)
    counts, offsets = (op.fresh(constant(experts), "int32", False) for _ in range(2))

    derive(op, "sort", (indices,), in_order, order)
    derive(op, "floor_divide", (order,), places)
    gathered = select(op, x, chosen * hidden, places)
    sorted_weights = select(op, weights, chosen, order)
    derive(op, "_to_int", (in_order,), narrow)
    derive(op, "histc", (narrow,), counts)
    derive(op, "cumsum", (counts,), offsets)
    gate_up = parameter(op, "mlp.experts", "gate_up_proj")
    fused = grouped_product(op, gathered, gate_up, chosen, hidden, 2 * width, offsets)
    gate, up = op.split(fused, [chosen * width] * 2)
    inner = op.multiply(activate(op, gate, c["hidden_act"]), up)
    down = parameter(op, "mlp.experts", "down_proj")
    out = grouped_product(op, inner, down, chosen, width, hidden, offsets)
    weighted = op.multiply(out, sorted_weights)
    derive(op, "arange", (), counting)
    derive(op, "index_put_", (order, counting, back), back)
    ordered = select(op, weighted, chosen * hidden, back)
    summed = op.cast(op.reduce(ordered, TOKENS * hidden, "sum"), x.dtype)
    op.keep(x, gathered, fused, weighted, ordered)
    if op.rules.quantizes_experts:  # torch's cache of parametrizations, until the module ends
        op.keep(gate_up, down)
    return summed


def run_each_expert(op: Ledger, x: Tensor, c: Config) -> Tensor:
    """Experts that are layers of their own, one after the other on the tokens that chose it, as
    many for each: transformers 4.57 `modeling_mixtral.py`, MixtralSparseMoeBlock.forward."""
    experts, chosen, hidden = c["num_local_experts"], c["num_experts_per_tok"], c["hidden_size"]
    logits = linear(op, x, "block_sparse_moe.gate")
    op.scope = "block_sparse_moe"
    probabilities = op.softmax(logits, "float32")
    indices = op.fresh(TOKENS * chosen, "int64", False)
    weights = select(op, probabilities, TOKENS * chosen, indices, "topk")
    weights = op.cast(normalize(op, weights, TOKENS), x.dtype)
    places = op.fresh(TOKENS * (2 * chosen), "int64", False)  # of all experts
    picked = select(op, weights, TOKENS * chosen, places)
    summed = op.fresh(TOKENS * hidden, x.dtype, False)
    derive(op, "zeros", (), summed)
    rows = TOKENS * (chosen * hidden // experts)
    for number in range(experts):
        name = f"block_sparse_moe.experts.{number}"
        op.scope = name
        taken = select(op, x, rows, places)
        acted = activate(op, linear(op, taken, f"{name}.w1"), c["hidden_act"])
        inner = op.multiply(acted, linear(op, taken, f"{name}.w3"))
        out = linear(op, inner, f"{name}.w2")
        op.scope = name
        summed = add_rows(op, summed, op.multiply(out, picked), places)
    op.keep(x)
    return summed


def moe_layer(op: Ledger, x: Tensor, c: Config, layer: int, *, qwen: bool) -> Tensor:
    masked = layer in op.rules.masked_layers
    normed = rms_norm(op, x, "input_layernorm")
    x = residual(op, x, self_attention(op, normed, c, masked, norms="heads" if qwen else "none"))
    hidden = rms_norm(op, x, "post_attention_layernorm")
    if op.has("block_sparse_moe.gate"):
        return residual(op, x, run_each_expert(op, hidden, c))
    if op.has("mlp.gate_proj"):
        return residual(op, x, gated_mlp(op, hidden, c))
    experts = op.modules["mlp.experts"].weight("gate_up_proj").shape[0]
    chosen = TOKENS * c["num_experts_per_tok"]
    renormalises = c["norm_topk_prob"] if qwen else True
    weights, indices = route(op, hidden, experts, chosen, renormalises=renormalises, narrows=qwen)
    return residual(op, x, run_experts(op, hidden, weights, indices, c, chosen, experts))


def mixtral_layer(op: Ledger, x: Tensor, c: Config, layer: int) -> Tensor:
    return moe_layer(op, x, c, layer, qwen=False)


def qwen3_moe_layer(op: Ledger, x: Tensor, c: Config, layer: int) -> Tensor:
    return moe_layer(op, x, c, layer, qwen=True)


MIXTRAL = MISTRAL._replace(layer=mixtral_layer)
QWEN3_MOE = MISTRAL._replace(layer=qwen3_moe_layer)
