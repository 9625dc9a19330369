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

from lora_profiler._common.polynomial import R, constant
from lora_profiler.features.lora_kernels._functions import (
    adapted,
    added,
    as_plain,
    base_gradient,
    existing,
    factor_gradients,
    low_rank_gradient,
    multiplied,
    program,
    projected,
    recorded,
)
from lora_profiler.memory.analytic.ledger import Ledger, Tensor


def projections(op: Ledger, x: Tensor, names: Sequence[str]) -> tuple[Tensor, ...]:
    """The named linear layers of one input as one function."""
    op.scope = names[0].rpartition(".")[0]
    dropped = op.dropout(x, op.rules.lora_dropout)
    outs = [projected(op, as_plain(x), as_plain(dropped), name) for name in names]
    layers = [adapted(op, name, x.dtype) for name in names]
    back, arrived = program(op), [existing(out) for out in outs]
    factors = [
        factor_gradients(back, layer, existing(dropped), gradient)
        for layer, gradient in zip(layers, arrived, strict=True)
    ]
    of_x = base_gradient(back, layers, arrived, x)
    of_dropped = low_rank_gradient(back, layers, factors, of_x, is_apart=dropped is not x)
    back.keep(of_x, of_dropped, *(t for made in factors for t in made))
    return recorded(op, x, dropped, layers, outs, [], back)


def mlp(op: Ledger, x: Tensor, name: str) -> Tensor:
    """down(act(gate(x)) * up(x)) as one function."""
    names = tuple(f"{name}.{part}_proj" for part in ("gate", "up", "down"))
    op.scope = name
    dropped = op.dropout(x, op.rules.lora_dropout)
    gate, up = (projected(op, as_plain(x), as_plain(dropped), part) for part in names[:2])
    op.scope = name
    hidden = op.fresh(gate.elements, gate.dtype, False)
    op.record("glu", (gate, up), (hidden,))
    out = projected(op, hidden, hidden, names[2])
    layers = [adapted(op, part, x.dtype) for part in names]
    op.keep(hidden)
    of_gate, of_up, of_down = layers
    back, arrived = program(op), existing(out)
    kept_gate, kept_up, given = existing(gate), existing(up), existing(dropped)
    inner = base_gradient(back, [of_down], [arrived], hidden)
    a, b = (existing(t) for t in of_down.kept)
    rows = x.elements // of_down.outputs
    narrow = multiplied(back, arrived, b, (rows, R, constant(of_down.outputs)))
    added(back, inner, narrow, a, (rows, constant(of_down.inputs), R))
    back.scope = name
    back.record("glu_backward", (inner, kept_gate, kept_up), (inner, kept_gate, kept_up))
    factors = [
        factor_gradients(back, of_down, inner, arrived),
        factor_gradients(back, of_up, given, kept_up),
        factor_gradients(back, of_gate, given, kept_gate),
    ]
    made = [inner]
    if x.requires_grad:
        both = [of_up, of_gate]
        made.append(base_gradient(back, both, [kept_up, kept_gate], x))
        made.append(low_rank_gradient(back, both, factors[1:], made[-1], is_apart=dropped is not x))
    back.keep(*made, *(t for each in factors for t in each))
    return recorded(op, x, dropped, layers, [out], [gate, up], back)[0]
