"""axolotl's LoRA kernels: q, k and v, the attention's output, and a gated MLP, each with its
adapters one function of autograd, whose backward is a program of its own (`Node.behind`).

Such a function keeps its input, what dropout leaves of it (one mask for all of its layers), gate
and up, and A and B in the input's dtype. Adapters are added in place, A and B cast in every call.
In backward gate's and up's gradients are written over them, and the MLP's activations over the
gradient of what it multiplies. Source: axolotl 067b021, `kernels/lora.py` (matmul_lora, LoRA_QKV,
LoRA_O, LoRA_MLP) and `kernels/{swiglu,geglu,quantize}.py`; which layers it takes:
`monkeypatch/lora_kernels.py` (apply_lora_kernel_patches).
"""

from collections.abc import Sequence
from typing import NamedTuple

from lora_profiler.algebra.polynomial import ZERO, Polynomial, R, constant, total
from lora_profiler.analytic.ledger import Ledger
from lora_profiler.analytic.products import linear
from lora_profiler.analytic.tensors import Storage, Tensor
from lora_profiler.support.bases import NF4_BLOCK

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")

Sizes = tuple[Polynomial, Polynomial, Polynomial]


class _Layer(NamedTuple):
    """A linear layer with its adapter. `trained` are A (rank, inputs) and B (outputs, rank), `kept`
    the two as the function keeps them."""

    name: str
    inputs: int
    outputs: int
    trained: tuple[Tensor, Tensor]
    kept: tuple[Tensor, Tensor]


class _Factors(NamedTuple):
    """Gradients of A and B, and the output's gradient times B, of which the input's is made."""

    narrow: Tensor
    of_a: Tensor
    of_b: Tensor


def projections(op: Ledger, x: Tensor, *names: str) -> tuple[Tensor, ...]:
    """The named linear layers of one input: one function where each has an adapter, else each by
    itself."""
    if not _are_fused(op, names):
        return tuple(linear(op, x, name) for name in names)
    op.scope = names[0].rpartition(".")[0]
    dropped = op.dropout(x, op.rules.lora_dropout)
    outs = [_projected(op, _plain(x), _plain(dropped), name) for name in names]
    layers = [_layer(op, name, x.dtype) for name in names]
    back, arrived = _program(op), [_given(out) for out in outs]
    factors = [
        _factor_gradients(back, layer, _given(dropped), gradient)
        for layer, gradient in zip(layers, arrived, strict=True)
    ]
    of_x = _base_gradient(back, layers, arrived, x)
    of_dropped = _low_rank_gradient(back, layers, factors, of_x, is_apart=dropped is not x)
    back.keep(of_x, of_dropped, *(t for made in factors for t in made))
    return _recorded(op, x, dropped, layers, outs, [], back)


def mlp(op: Ledger, x: Tensor, name: str) -> Tensor | None:
    """down(act(gate(x)) * up(x)) as one function, None where it is not one."""
    names = tuple(f"{name}.{part}_proj" for part in ("gate", "up", "down"))
    if not _are_fused(op, names):
        return None
    op.scope = name
    dropped = op.dropout(x, op.rules.lora_dropout)
    gate, up = (_projected(op, _plain(x), _plain(dropped), part) for part in names[:2])
    op.scope = name
    hidden = op.fresh(gate.elements, gate.dtype, False)
    op.record("glu", (gate, up), (hidden,))
    out = _projected(op, hidden, hidden, names[2])
    layers = [_layer(op, part, x.dtype) for part in names]
    op.keep(hidden)
    of_gate, of_up, of_down = layers
    back, arrived = _program(op), _given(out)
    kept_gate, kept_up, given = _given(gate), _given(up), _given(dropped)
    inner = _base_gradient(back, [of_down], [arrived], hidden)
    a, b = (_given(t) for t in of_down.kept)
    rows = x.elements // of_down.outputs
    narrow = _multiplied(back, arrived, b, (rows, R, constant(of_down.outputs)))
    _added(back, inner, narrow, a, (rows, constant(of_down.inputs), R))
    back.scope = name
    back.record("glu_backward", (inner, kept_gate, kept_up), (inner, kept_gate, kept_up))
    factors = [
        _factor_gradients(back, of_down, inner, arrived),
        _factor_gradients(back, of_up, given, kept_up),
        _factor_gradients(back, of_gate, given, kept_gate),
    ]
    made = [inner]
    if x.requires_grad:
        both = [of_up, of_gate]
        made.append(_base_gradient(back, both, [kept_up, kept_gate], x))
        made.append(
            _low_rank_gradient(back, both, factors[1:], made[-1], is_apart=dropped is not x)
        )
    back.keep(*made, *(t for each in factors for t in each))
    return _recorded(op, x, dropped, layers, [out], [gate, up], back)[0]


def _are_fused(op: Ledger, names: Sequence[str]) -> bool:
    return op.rules.lora_kernels and all(op.adapters.get(name) for name in names)


def _recorded(
    op: Ledger,
    x: Tensor,
    dropped: Tensor,
    layers: Sequence[_Layer],
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


def _plain(x: Tensor) -> Tensor:
    """As a function of autograd sees its argument: of nothing that it calls a node is made."""
    return Tensor(x.elements, x.dtype, False, x.storage, x.merged)


def _given(x: Tensor) -> Tensor:
    """What is there before a backward program begins: itself, or its gradient."""
    return Tensor(x.elements, x.dtype, False, Storage(x.bytes, "input"))


def _program(op: Ledger) -> Ledger:
    return Ledger(op.rules, op.modules, op.adapters, frozenset())


def _trained(op: Ledger, name: str) -> tuple[Tensor, Tensor]:
    (adapter,) = op.adapters[name]
    sizes = (R * adapter.in_features, R * adapter.out_features)
    a, b = (Tensor(n, op.rules.adapter_dtype, True, Storage(ZERO, "parameter")) for n in sizes)
    return a, b


def _layer(op: Ledger, name: str, dtype: str) -> _Layer:
    (adapter,) = op.adapters[name]
    op.scope = name
    a, b = _trained(op, name)
    kept = op.cast(_plain(a), dtype), op.cast(_plain(b), dtype)
    return _Layer(name, adapter.in_features, adapter.out_features, (a, b), kept)


def _projected(op: Ledger, x: Tensor, given: Tensor, name: str) -> Tensor:
    """x W^T, and in place the adapter's product with `given`, and the bias."""
    (adapter,) = op.adapters[name]
    rows, inputs = x.elements // adapter.in_features, constant(adapter.in_features)
    outputs = constant(adapter.out_features)
    out = _multiplied(op, x, _unpacked(op, name), (rows, outputs, inputs))
    a, b = (op.cast(_plain(t), x.dtype) for t in _trained(op, name))
    narrow = _multiplied(op, given, a, (rows, R, inputs))
    _added(op, out, narrow, b, (rows, outputs, R))
    op.keep(a, b)
    for bias in op.modules[name].weights:
        if bias.name != "weight":
            op.record("add_", (out, op.weight(name, bias.name)), (out,))
    return out


def _unpacked(op: Ledger, name: str) -> Tensor:
    """The weight; one in 4 bit in the compute dtype, beside its scales where those are quantised
    too."""
    op.scope = name
    weight = op.weight(name)
    if op.base(name) is None:
        return weight
    out = op.fresh(weight.elements, op.rules.dtype, False)
    blocks = constant(-(-weight.elements.evaluate(1, 1, 1) // NF4_BLOCK))
    scales = [op.fresh(blocks, "float32", False)] if op.rules.nested_scales else []
    op.record("unpack", (weight,), (out, *scales))
    return out


def _multiplied(op: Ledger, x: Tensor, y: Tensor, sizes: Sizes) -> Tensor:
    """x y, of `sizes` m, n and k."""
    out = op.fresh(sizes[0] * sizes[1], x.dtype, False)
    _gemm(op, "linear", (x, y), out, sizes)
    return out


def _added(op: Ledger, out: Tensor, x: Tensor, y: Tensor, sizes: Sizes) -> None:
    """x y added to `out` where it lies."""
    _gemm(op, "addmm_", (x, y, out), out, sizes)


def _gemm(op: Ledger, kind: str, inputs: tuple[Tensor, ...], out: Tensor, sizes: Sizes) -> None:
    m, n, k = sizes
    op.record(kind, inputs, (out,), forward_flops=m * n * k * 2, sizes=(constant(1), *sizes))


def _factor_gradients(op: Ledger, layer: _Layer, x: Tensor, gradient: Tensor) -> _Factors:
    """x^T (dy B) and (A x^T) dy, of which the adapters' gradients are views."""
    op.scope = layer.name
    a, b = (_given(t) for t in layer.kept)
    inputs, outputs = constant(layer.inputs), constant(layer.outputs)
    rows = x.elements // layer.inputs
    narrow = _multiplied(op, gradient, b, (rows, R, outputs))
    of_a, of_b = (op.fresh(t.elements, t.dtype, False) for t in layer.kept)
    _added(op, of_a, x, narrow, (inputs, R, rows))
    turned = _multiplied(op, a, x, (R, rows, inputs))
    _added(op, of_b, turned, gradient, (R, outputs, rows))
    return _Factors(narrow, of_a, of_b)


def _base_gradient(
    op: Ledger, layers: Sequence[_Layer], arrived: Sequence[Tensor], x: Tensor
) -> Tensor:
    """dy W summed over the layers of one input: the first makes it, the others add to it."""
    made: Tensor | None = None
    for layer, gradient in zip(layers, arrived, strict=True):
        weight = _unpacked(op, layer.name)
        sizes = x.elements // layer.inputs, constant(layer.inputs), constant(layer.outputs)
        if made is None:
            made = _multiplied(op, gradient, weight, sizes)
        else:
            _added(op, made, gradient, weight, sizes)
    assert made is not None
    return made


def _low_rank_gradient(
    op: Ledger,
    layers: Sequence[_Layer],
    factors: Sequence[_Factors],
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
        factor = _given(layers[0].kept[0])
        return op.scale(_multiplied(op, factors[0].narrow, factor, (rows, inputs, R)))
    made = of_x
    if is_apart:
        made = op.fresh(of_x.elements, of_x.dtype, False)
        op.record("zeros_like", (), (made,))
    for layer, own in zip(layers, factors, strict=True):
        op.scope = layer.name
        _added(op, made, own.narrow, _given(layer.kept[0]), (rows, inputs, R))
    return made
