"""Pieces of a forward pass that several sets replace by one function each: what it keeps, and what
it writes over.

Source: Liger-Kernel `ops/{rms_norm,swiglu,rope}.py` (ead96b6), at whose functions
`benchmarks/truth/liger.py` looks.
"""

from lora_profiler._common.polynomial import ZERO, Polynomial, total
from lora_profiler.memory.analytic.ledger import Ledger, Tensor


def norm(op: Ledger, x: Tensor, weight: Tensor, rows: Polynomial) -> Tensor:
    """x / rms(x) times the weight: keeps x as it is and 1 / rms(x); x's gradient is written over
    that of the result."""
    out = op.fresh(x.elements, x.dtype, x.requires_grad or weight.requires_grad)
    inverse = op.fresh(rows, "float32", False)
    gradients = weight.bytes if weight.requires_grad else ZERO
    op.record(
        "fused_norm",
        (x, weight),
        (out,),
        (x, inverse),
        gradients=gradients,
        aliases=True,
        side_inputs=(inverse,),
    )
    return out


def swiglu(op: Ledger, gate: Tensor, up: Tensor, scope: str) -> Tensor:
    """silu(gate) * up: keeps both factors, and writes their gradients over them."""
    op.scope = scope
    out = op.fresh(gate.elements, gate.dtype, gate.requires_grad or up.requires_grad)
    written_over = total(t.bytes for t in (gate, up) if t.requires_grad)
    op.record("fused_swiglu", (gate, up), (out,), (gate, up), workspace=ZERO - written_over)
    return out


def rotated(op: Ledger, q: Tensor, k: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """q and k after one function wrote over them, as it does over their gradients; only cos and sin
    are kept.

    Both require a gradient if one does, as all results of a `torch.autograd.Function`.
    """
    q, k = op.turn(q), op.turn(k)
    tables = tuple(
        op.shared(f"rotary.{t}", op.rules.positions * head_dim, op.rules.rest_dtype)
        for t in ("cos", "sin")
    )
    trains = q.requires_grad or k.requires_grad
    first, second = (Tensor(t.elements, t.dtype, trains, t.storage, t.merged) for t in (q, k))
    op.record("fused_rotary", (q, k), (first, second), tables, aliases=True, side_inputs=tables)
    return first, second
