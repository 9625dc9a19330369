"""Unsloth's LoRA kernels, of which axolotl's were made: q, k and v, the attention's output, and a
gated MLP, each with its adapters one function of autograd.

What differs: A and B are kept as they are and cast in backward; the input's gradient is written
over the input that q, k and v, or the MLP, kept; each layer drops inputs of its own, of which masks
are kept; without dropout a 4-bit weight is unpacked into one buffer of the process, but for the
gradient of what gate, up, q, k, v and o were given. Source: Unsloth 2026.10.9,
`kernels/fast_lora.py` (LoRA_QKV, LoRA_W, LoRA_MLP), `kernels/utils.py` (matmul_lora, _scratch).
"""

from collections.abc import Sequence

from lora_profiler._common.polynomial import ZERO, R, constant
from lora_profiler.features.lora_kernels._functions import (
    AdaptedLinear,
    FactorGradients,
    adapter_of,
    added,
    as_plain,
    existing,
    factor_gradients,
    multiplied,
    program,
    projected,
    recorded,
    unpacked,
)
from lora_profiler.memory.analytic.ledger import Ledger, Storage, Tensor


def projections(op: Ledger, x: Tensor, names: Sequence[str]) -> tuple[Tensor, ...]:
    """q, k and v, or the attention's output, which alone leaves its input as it was."""
    op.scope = names[0].rpartition(".")[0]
    outs, masks = zip(*(_projected(op, x, name) for name in names), strict=True)
    layers = [_kept(op, name, x.dtype) for name in names]
    back = program(op)
    copies = _copies(back, layers)
    arrived = [existing(out) for out in outs]
    factors = [
        factor_gradients(back, layer, _dropped_again(back, x, mask), gradient)
        for layer, mask, gradient in zip(layers, masks, arrived, strict=True)
    ]
    made = existing(x) if len(names) > 1 else None
    _input_gradient(back, layers, masks, arrived, factors, x, made)
    back.keep(*copies, *(t for each in factors for t in each))
    kept = [mask for mask in masks if mask is not None]
    return recorded(op, x, x, layers, outs, kept, back)


def mlp(op: Ledger, x: Tensor, name: str) -> Tensor:
    """down(act(gate(x)) * up(x))."""
    names = tuple(f"{name}.{part}_proj" for part in ("gate", "up", "down"))
    op.scope = name
    (gate, gate_mask), (up, up_mask) = (_projected(op, x, part) for part in names[:2])
    op.scope = name
    hidden = op.fresh(gate.elements, gate.dtype, False)
    op.record("glu", (gate, up), (hidden,))
    out, down_mask = _projected(op, hidden, names[2])
    layers = [_kept(op, part, x.dtype) for part in names]
    op.keep(hidden)
    of_gate, of_up, of_down = layers
    back, arrived = program(op), existing(out)
    copies = _copies(back, layers)
    kept_gate, kept_up = existing(gate), existing(up)
    inner = _down_gradient(back, of_down, arrived, hidden, down_mask)
    back.scope = name
    read = inner, kept_gate, kept_up
    if back.rules.compiled:  # nothing is written over there
        inner, kept_gate, kept_up = (back.fresh(t.elements, t.dtype, False) for t in read)
    back.record("glu_backward", read, (inner, kept_gate, kept_up))
    given = inner if down_mask is None else _dropped_again(back, inner, down_mask)
    factors = [
        factor_gradients(back, of_down, given, arrived),
        factor_gradients(back, of_up, _dropped_again(back, x, up_mask), kept_gate),
        factor_gradients(back, of_gate, _dropped_again(back, x, gate_mask), kept_up),
    ]
    _input_gradient(
        back,
        [of_up, of_gate],
        [up_mask, gate_mask],
        [kept_gate, kept_up],
        factors[1:],
        x,
        existing(x),
    )
    back.keep(inner, given, *copies, *(t for each in factors for t in each))
    kept = [mask for mask in (gate_mask, up_mask, down_mask) if mask is not None]
    return recorded(op, x, x, layers, [out], [gate, up, *kept], back)[0]


def _projected(op: Ledger, x: Tensor, name: str) -> tuple[Tensor, Tensor | None]:
    """The layer's output, and the mask of what its adapter was given."""
    if op.rules.lora_dropout == 0.0 or not op.rules.trains:
        return projected(op, as_plain(x), as_plain(x), name, into_buffer=True), None
    mask = op.fresh(x.elements, "bool", False)
    dropped = op.fresh(x.elements, x.dtype, False)
    op.record("native_dropout", (as_plain(x),), (dropped, mask), side_inputs=(mask,))
    return projected(op, as_plain(x), dropped, name), mask


def _kept(op: Ledger, name: str, dtype: str) -> AdaptedLinear:
    """A and B as they are: no more than parameters."""
    adapter, trained = adapter_of(op, name)
    a, b = (Tensor(t.elements, dtype, False, Storage(ZERO, "parameter")) for t in trained)
    return AdaptedLinear(name, adapter.in_features, adapter.out_features, trained, (a, b))


def _copies(back: Ledger, layers: Sequence[AdaptedLinear]) -> list[Tensor]:
    """A and B of all layers in the input's dtype, through the whole of backward."""
    copies = []
    for layer in layers:
        back.scope = layer.name
        copies += [back.cast(as_plain(t), layer.kept[0].dtype) for t in layer.trained]
    return copies


def _dropped_again(back: Ledger, x: Tensor, mask: Tensor | None) -> Tensor:
    """What the adapter was given, made once more of the mask."""
    if mask is None:
        return existing(x)
    made = back.fresh(x.elements, x.dtype, False)
    back.record("scale", (existing(x),), (made,), side_inputs=(existing(mask),))
    return made


def _down_gradient(
    back: Ledger, down: AdaptedLinear, arrived: Tensor, hidden: Tensor, mask: Tensor | None
) -> Tensor:
    """dy W + dy B A of the last of the MLP's layers."""
    rows = hidden.elements // down.inputs
    inputs, outputs = constant(down.inputs), constant(down.outputs)
    weight = unpacked(back, down.name, into_buffer=mask is None)
    made = multiplied(back, arrived, weight, (rows, inputs, outputs))
    a, b = (existing(t) for t in down.kept)
    narrow = multiplied(back, arrived, b, (rows, R, outputs))
    _low_rank(back, made, narrow, a, down, mask)
    return made


def _input_gradient(
    back: Ledger,
    layers: Sequence[AdaptedLinear],
    masks: Sequence[Tensor | None],
    arrived: Sequence[Tensor],
    factors: Sequence[FactorGradients],
    x: Tensor,
    made: Tensor | None,
) -> None:
    """The sum over the layers of dy W + dy B A, in `made`."""
    for layer, mask, gradient, own in zip(layers, masks, arrived, factors, strict=True):
        weight = unpacked(back, layer.name)
        sizes = x.elements // layer.inputs, constant(layer.inputs), constant(layer.outputs)
        if made is None:
            made = multiplied(back, gradient, weight, sizes)
        else:
            added(back, made, gradient, weight, sizes)
        _low_rank(back, made, own.narrow, existing(layer.kept[0]), layer, mask)
    assert made is not None
    back.keep(made)


def _low_rank(
    back: Ledger, made: Tensor, narrow: Tensor, a: Tensor, layer: AdaptedLinear, mask: Tensor | None
) -> None:
    """dy B A onto `made`; through dropout it is a product, and that once more with the mask."""
    sizes = made.elements // layer.inputs, constant(layer.inputs), R
    if mask is None:
        added(back, made, narrow, a, sizes)
        return
    product = multiplied(back, narrow, a, sizes)
    replayed = back.fresh(made.elements, made.dtype, False)
    back.record("scale", (product,), (replayed,), side_inputs=(existing(mask),))
    back.record("add_", (made, replayed), (made,))
