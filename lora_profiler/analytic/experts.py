"""Experts on the ledger: tokens picked for them, their parameters with what PEFT makes of them, and
products of the rows that are routed to each."""

from lora_profiler.adapters import Adapter
from lora_profiler.algebra.polynomial import ZERO, Polynomial, R, constant
from lora_profiler.analytic.ledger import Ledger
from lora_profiler.analytic.tensors import Storage, Tensor


def add_rows(op: Ledger, total_: Tensor, x: Tensor, index: Tensor) -> Tensor:
    """`index_add_`: rows of x added to some of `total_`, in place. Keeps the index, and x for its
    shape; x's gradient is gathered, that of `total_` passed on."""
    spread = Tensor(total_.elements, total_.dtype, True, total_.storage)
    op.record("spread", (x,), (spread,), (index, x), beside=(index,))
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
        beside=(offsets,),
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
    op.record(name, (x,), (out,), (index,), beside=(index,))
    return out


def normalize(op: Ledger, x: Tensor, rows: Polynomial) -> Tensor:
    """x /= x.sum(-1), in place: keeps the sum and the values from before."""
    total_ = op.reduce(x, rows, "sum")
    out = op.fresh(x.elements, x.dtype, x.requires_grad)
    before = op.fresh(x.elements, x.dtype, False)
    op.record("normalize", (x, total_), (out,), (total_, before))
    return out
