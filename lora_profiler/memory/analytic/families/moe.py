"""Mixtral and Qwen3-MoE: Llama's attention, experts as packed 3-D weights run by grouped matrix
products.

transformers `integrations/moe.py` (`grouped_mm_experts_forward`), `modeling_mixtral.py`,
`modeling_qwen3_moe.py`. What is kept does not depend on which expert a token goes to.
"""

from functools import partial
from math import prod

from lora_profiler._common.polynomial import TOKENS, ZERO, Polynomial, R, constant
from lora_profiler.memory.analytic.families.blocks import Config, activate, gated_mlp, rms_norm
from lora_profiler.memory.analytic.families.llama import MISTRAL, attended, residual
from lora_profiler.memory.analytic.ledger import Ledger, Storage, Tensor
from lora_profiler.memory.analytic.matmuls import linear, product
from lora_profiler.question.adapters import Adapter

# --- on the ledger --------------------------------------------------------------------------------


def add_rows(op: Ledger, total_: Tensor, x: Tensor, index: Tensor) -> Tensor:
    """`index_add_`: rows of x added to some of `total_`, in place. Keeps the index, and x for its
    shape; x's gradient is gathered, that of `total_` passed on."""
    spread = Tensor(total_.elements, total_.dtype, True, total_.storage)
    op.record("spread", (x,), (spread,), (index, x), side_inputs=(index,))
    out = Tensor(total_.elements, total_.dtype, True, total_.storage)
    op.record("gathered", (total_, spread), (out,), aliases=True)
    return out


def parameter(op: Ledger, module: str, name: str) -> Tensor:
    """A bare parameter; where PEFT adapts it, W + scaling * B A is made anew: PEFT
    `lora/layer.py`, `ParamWrapper`."""
    weight = op.weight(module, name)
    if op.rules.quantizes_experts and len(op.modules[module].weight(name).shape) == 3:
        return _unpacked(op, weight)
    for adapter in op.adapters.get(module, ()):
        if adapter.parameter == name:
            return _merged(op, weight, adapter)
    return weight


def _unpacked(op: Ledger, weight: Tensor) -> Tensor:
    """Experts in 4 bit as a whole in 16, which autograd keeps as an activation where their input
    requires grad: bitsandbytes 0.50 `nn/parametrize.py`, Bnb4bitParametrization."""
    made = op.fresh(weight.elements, op.rules.dtype, False)
    op.record("unpack", (weight,), (made,))
    return made


def with_adapter(
    op: Ledger, name: str, x: Tensor, out: Tensor, rows: Polynomial, offsets: Tensor
) -> Tensor:
    """`out` of experts in 4 bit with scaling * B A x of the rows of each, two more products:
    unsloth-zoo 2026.10.9, `temporary_patches/moe_utils.py`; PEFT adapts no 4-bit experts."""
    found = (a for a in op.adapters.get("mlp.experts", ()) if a.parameter == name)
    if not op.rules.quantizes_experts or (adapter := next(found, None)) is None:
        return out
    width = R * adapter.rank_factor
    rank, dtype = width * adapter.num_experts, op.rules.adapter_dtype
    a, b = (
        op.cast(Tensor(rank * features, dtype, True, Storage(ZERO, "parameter")), x.dtype)
        for features in (adapter.in_features, adapter.out_features)
    )
    narrow = op.fresh(rows * width, x.dtype, True)
    wide = op.fresh(rows * adapter.out_features, x.dtype, True)
    for given, weight, made, features in (
        (x, a, narrow, adapter.in_features), (narrow, b, wide, adapter.out_features)
    ):  # fmt: skip
        flops = rows * width * (2 * features)
        op.record(
            "_grouped_mm",
            (given, weight),
            (made,),
            (given, weight, offsets),
            flops,
            flops * 2,
            sizes=(constant(1), rows, width, constant(features)),
            side_inputs=(offsets,),
        )
    return op.add(out, op.scale(wide))


def _merged(op: Ledger, weight: Tensor, adapter: Adapter) -> Tensor:
    rank, dtype = R * (adapter.num_experts * adapter.rank_factor), op.rules.adapter_dtype
    a, b = (
        Tensor(rank * features, dtype, True, Storage(ZERO, "parameter"))
        for features in (adapter.in_features, adapter.out_features)
    )
    gradients = a.bytes + b.bytes
    flops = weight.elements * R * (2 * adapter.rank_factor)
    if adapter.num_experts == 1:
        if (
            op.rules.device == "cpu"
        ):  # PEFT's get_delta_weight multiplies 16-bit factors in float32 there
            a, b = op.cast(a, "float32"), op.cast(b, "float32")
        delta = op.fresh(weight.elements, a.dtype, True)
        op.record("delta", (a, b), (delta,), (a, b), flops, flops * 2, gradients)
        return op.add(weight, op.cast(op.scale(delta), weight.dtype))
    a, b = op.cast(a, weight.dtype), op.cast(b, weight.dtype)
    out = op.fresh(weight.elements, weight.dtype, True)
    # made twice in a forward pass: when PEFT registers the parametrization, and when the layer
    # reads it
    op.record("deltas", (a, b), (out,), (a, b), flops * 2, flops * 2, gradients)
    return out


def grouped_product(
    op: Ledger,
    x: Tensor,
    weight: Tensor,
    rows: Polynomial,
    in_features: int,
    out_features: int,
    offsets: Tensor,
) -> Tensor:
    """One matrix product per expert over the rows routed to it: keeps x, W and the group
    offsets as a product does."""
    x = op.cast(x, weight.dtype)
    out = op.fresh(rows * out_features, x.dtype, x.requires_grad or weight.requires_grad)
    saved = [t for t, other in ((x, weight), (weight, x)) if other.requires_grad]
    flops = rows * (2 * in_features * out_features)
    own = weight.storage.role == "parameter" and weight.requires_grad
    op.record(
        "_grouped_mm",
        (x, weight),
        (out,),
        [*saved, offsets],
        flops,
        flops * (x.requires_grad + weight.requires_grad),
        weight.bytes if own else ZERO,
        sizes=(constant(1), rows, constant(out_features), constant(in_features)),
        side_inputs=(offsets,),
    )
    return out


def derive(op: Ledger, name: str, inputs: tuple[Tensor, ...], *outputs: Tensor) -> None:
    """Integers made of integers."""
    op.record(name, inputs, outputs)


def select(
    op: Ledger, x: Tensor, elements: Polynomial, index: Tensor, name: str = "index"
) -> Tensor:
    """ "index", a gather of rows, or "topk", which makes the index: keeps the index."""
    out = op.fresh(elements, x.dtype, x.requires_grad)
    op.record(name, (x,), (out,), (index,), side_inputs=(index,))
    return out


def normalize(op: Ledger, x: Tensor, rows: Polynomial) -> Tensor:
    """x /= x.sum(-1), in place: keeps the sum and the values from before."""
    total_ = op.reduce(x, rows, "sum")
    out = op.fresh(x.elements, x.dtype, x.requires_grad)
    before = op.fresh(x.elements, x.dtype, False)
    op.record("normalize", (x, total_), (out,), (total_, before))
    return out


# --- the layers -----------------------------------------------------------------------------------


def route(
    op: Ledger,
    x: Tensor,
    experts: int,
    chosen: Polynomial,
    *,
    renormalises: bool,
    narrows: bool,
    router: str = "mlp.gate",
) -> tuple[Tensor, Tensor]:
    """Routing weights of the chosen experts, and which these are.

    Softmax in float32, top k, divided by their sum where the model does so.

    `narrows`: converted to the router logits' dtype at the end.
    """
    op.scope = router
    hidden = op.modules[router].weight("weight").shape[1]
    logits = product(op, x, parameter(op, router, "weight"), hidden, experts)
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
    block: str = "mlp.experts",
) -> Tensor:
    """Tokens sorted by expert, gate-up and down products per group, weighted, put back in order and
    summed."""
    op.scope = block
    shape = op.modules[block].weight("gate_up_proj").shape[1:]
    hidden = c["hidden_size"]
    width = prod(shape) // hidden // 2  # whichever comes first
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
    gate_up = parameter(op, block, "gate_up_proj")
    fused = grouped_product(op, gathered, gate_up, chosen, hidden, 2 * width, offsets)
    fused = with_adapter(op, "gate_up_proj", gathered, fused, chosen, offsets)
    gate, up = op.split(fused, [chosen * width] * 2)
    inner = op.multiply(activate(op, gate, c.get("hidden_act") or "silu"), up)
    down = parameter(op, block, "down_proj")
    out = grouped_product(op, inner, down, chosen, width, hidden, offsets)
    out = with_adapter(op, "down_proj", inner, out, chosen, offsets)
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
    x = attended(op, x, c, layer, "heads" if qwen else "none")
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


MIXTRAL = MISTRAL._replace(layer=partial(moe_layer, qwen=False))
QWEN3_MOE = MISTRAL._replace(layer=partial(moe_layer, qwen=True))
