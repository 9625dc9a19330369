"""What functions of autograd that hold layers with their adapters are made of: products, adapters
added in place, and the gradients of A and B, as programs of a ledger.

Sources: axolotl 067b021, `kernels/lora.py`; Unsloth 2026.10.9, `kernels/{utils,fast_lora}.py`.
"""

from collections.abc import Sequence
from typing import NamedTuple

from lora_profiler._common.polynomial import ZERO, Polynomial, R, constant, total
from lora_profiler.memory.analytic.ledger import Ledger, Storage, Tensor
from lora_profiler.question.adapters import Adapter
from lora_profiler.question.base import NF4_BLOCK
from lora_profiler.question.lora_kernel_set import lora_kernel_set

Sizes = tuple[Polynomial, Polynomial, Polynomial]


class AdaptedLinear(NamedTuple):
    """A linear layer with its adapter. `trained` are A (rank, inputs) and B (outputs, rank), `kept`
    the two as the function keeps them."""

    name: str
    inputs: int
    outputs: int
    trained: tuple[Tensor, Tensor]
    kept: tuple[Tensor, Tensor]


class FactorGradients(NamedTuple):
    """Gradients of A and B, and the output's gradient times B, of which the input's is made."""

    narrow: Tensor
    of_a: Tensor
    of_b: Tensor


def recorded(
    op: Ledger,
    x: Tensor,
    dropped: Tensor,
    layers: Sequence[AdaptedLinear],
    outs: Sequence[Tensor],
    inside: Sequence[Tensor],
    back: Ledger,
) -> tuple[Tensor, ...]:
    """The function's node. Its outputs require a gradient, as all results of a
    `torch.autograd.Function` of which one argument does."""
    results = tuple(Tensor(t.elements, t.dtype, True, t.storage, t.merged) for t in outs)
    op.scope = layers[0].name.rpartition(".")[0]
    inputs = (x,) if dropped is x else (x, dropped)
    trained = [t for layer in layers for t in layer.trained]
    kept = [t for layer in layers for t in layer.kept]
    op.record(
        "lora_kernels",
        (*inputs, *trained),
        results,
        (*inputs, *inside, *kept),
        backward_flops=total(node.forward_flops for node in back.nodes),
        gradients=total(t.bytes for t in trained),
        saves_output=True,
        behind=tuple(back.nodes),
    )
    return results


def as_plain(x: Tensor) -> Tensor:
    """As a function of autograd sees its argument: of nothing that it calls a node is made."""
    return Tensor(x.elements, x.dtype, False, x.storage, x.merged)


def existing(x: Tensor) -> Tensor:
    """What is there before a backward program begins: itself, or its gradient."""
    return Tensor(x.elements, x.dtype, False, Storage(x.bytes, "input"))


def program(op: Ledger) -> Ledger:
    return Ledger(op.rules, op.modules, op.adapters, frozenset())


def adapter_of(op: Ledger, name: str) -> tuple[Adapter, tuple[Tensor, Tensor]]:
    """The layer's adapter, and its A and B."""
    (adapter,) = op.adapters[name]
    sizes = (R * adapter.in_features, R * adapter.out_features)
    a, b = (Tensor(n, op.rules.adapter_dtype, True, Storage(ZERO, "parameter")) for n in sizes)
    return adapter, (a, b)


def adapted(op: Ledger, name: str, dtype: str) -> AdaptedLinear:
    op.scope = name
    adapter, (a, b) = adapter_of(op, name)
    kept = op.cast(as_plain(a), dtype), op.cast(as_plain(b), dtype)
    return AdaptedLinear(name, adapter.in_features, adapter.out_features, (a, b), kept)


def projected(
    op: Ledger, x: Tensor, given: Tensor, name: str, *, into_buffer: bool = False
) -> Tensor:
    """x W^T, and in place the adapter's product with `given`, and the bias. `into_buffer`: see
    `unpacked`."""
    adapter, trained = adapter_of(op, name)
    rows, inputs = x.elements // adapter.in_features, constant(adapter.in_features)
    outputs = constant(adapter.out_features)
    weight = unpacked(op, name, into_buffer=into_buffer)
    out = multiplied(op, x, weight, (rows, outputs, inputs))
    a, b = (op.cast(as_plain(t), x.dtype) for t in trained)
    narrow = multiplied(op, given, a, (rows, R, inputs))
    added(op, out, narrow, b, (rows, outputs, R))
    op.keep(a, b)
    for bias in op.modules[name].weights:
        if bias.name != "weight":
            op.record("add_", (out, op.weight(name, bias.name)), (out,))
    return out


def unpacked(op: Ledger, name: str, *, into_buffer: bool = False) -> Tensor:
    """The weight; one in 4 bit in the compute dtype, beside its scales where those are quantised
    too, which Unsloth's kernel never stores. `into_buffer`: of the process, that stays
    (`buffer_elements`)."""
    op.scope = name
    weight = op.weight(name)
    if op.base(name) is None:
        return weight
    out = op.fresh(weight.elements, op.rules.dtype, False)
    if into_buffer and not op.rules.compiled:
        out.storage.role = "buffer"
    blocks = constant(-(-weight.elements.evaluate(1, 1, 1) // NF4_BLOCK))
    stores = op.rules.nested_scales and lora_kernel_set(op.rules.lora_kernels).stores_scales
    scales = [op.fresh(blocks, "float32", False)] if stores else []
    op.record("unpack", (weight,), (out, *scales))
    return out


def multiplied(op: Ledger, x: Tensor, y: Tensor, sizes: Sizes) -> Tensor:
    """x y, of `sizes` m, n and k."""
    out = op.fresh(sizes[0] * sizes[1], x.dtype, False)
    _gemm(op, "linear", (x, y), out, sizes)
    return out


def added(op: Ledger, out: Tensor, x: Tensor, y: Tensor, sizes: Sizes) -> None:
    """x y added to `out` where it lies."""
    _gemm(op, "addmm_", (x, y, out), out, sizes)


def _gemm(op: Ledger, kind: str, inputs: tuple[Tensor, ...], out: Tensor, sizes: Sizes) -> None:
    m, n, k = sizes
    op.record(kind, inputs, (out,), forward_flops=m * n * k * 2, sizes=(constant(1), *sizes))


def factor_gradients(
    op: Ledger, layer: AdaptedLinear, x: Tensor, gradient: Tensor
) -> FactorGradients:
    """x^T (dy B) and (A x^T) dy, of which the adapters' gradients are views."""
    op.scope = layer.name
    a, b = (existing(t) for t in layer.kept)
    inputs, outputs = constant(layer.inputs), constant(layer.outputs)
    rows = x.elements // layer.inputs
    narrow = multiplied(op, gradient, b, (rows, R, outputs))
    of_a, of_b = (op.fresh(t.elements, t.dtype, False) for t in layer.kept)
    added(op, of_a, x, narrow, (inputs, R, rows))
    turned = multiplied(op, a, x, (R, rows, inputs))
    added(op, of_b, turned, gradient, (R, outputs, rows))
    return FactorGradients(narrow, of_a, of_b)


def base_gradient(
    op: Ledger, layers: Sequence[AdaptedLinear], arrived: Sequence[Tensor], x: Tensor
) -> Tensor:
    """dy W summed over the layers of one input: the first makes it, the others add to it."""
    made: Tensor | None = None
    for layer, gradient in zip(layers, arrived, strict=True):
        weight = unpacked(op, layer.name)
        sizes = x.elements // layer.inputs, constant(layer.inputs), constant(layer.outputs)
        if made is None:
            made = multiplied(op, gradient, weight, sizes)
        else:
            added(op, made, gradient, weight, sizes)
    assert made is not None
    return made


def low_rank_gradient(
    op: Ledger,
    layers: Sequence[AdaptedLinear],
    factors: Sequence[FactorGradients],
    of_x: Tensor,
    *,
    is_apart: bool,
) -> Tensor:
    """dy B A summed: onto `of_x`, or where dropout stands between (`is_apart`) onto zeros; of one
    layer alone it is a product that is scaled."""
    inputs = constant(layers[0].inputs)
    rows = of_x.elements // layers[0].inputs
    op.scope = layers[0].name
    if is_apart and len(layers) == 1:
        factor = existing(layers[0].kept[0])
        return op.scale(multiplied(op, factors[0].narrow, factor, (rows, inputs, R)))
    made = of_x
    if is_apart:
        made = op.fresh(of_x.elements, of_x.dtype, False)
        op.record("zeros_like", (), (made,))
    for layer, own in zip(layers, factors, strict=True):
        op.scope = layer.name
        added(op, made, own.narrow, existing(layer.kept[0]), (rows, inputs, R))
    return made
