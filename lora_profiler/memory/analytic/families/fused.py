"""Kernels in place of a model's own: Liger-Kernel's RMSNorm, SwiGLU and rotary embedding, and
Unsloth's rotary embedding: what each keeps, and what it writes over.

Sources: Liger-Kernel `ops/{rms_norm,swiglu,rope}.py` (ead96b6), at whose functions
`benchmarks/truth/liger.py` looks; Unsloth 2026.10.9, `kernels/rope_embedding.py`
(Fast_RoPE_Embedding_QK).
"""

from lora_profiler._common.polynomial import TOKENS, ZERO, Polynomial, total
from lora_profiler.memory.analytic.ledger import Ledger
from lora_profiler.memory.analytic.tensors import Tensor


def norm(op: Ledger, x: Tensor, weight: Tensor, rows: Polynomial) -> Tensor:
    """x / rms(x) times the weight: keeps x as it is and 1 / rms(x); x's gradient is written over
    that of the result."""
    out = op.fresh(x.elements, x.dtype, x.requires_grad or weight.requires_grad)
    inverse = op.fresh(rows, "float32", False)
    gradients = weight.bytes if weight.requires_grad else ZERO
    op.record(
        "liger_norm",
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
    op.record("liger_swiglu", (gate, up), (out,), (gate, up), workspace=ZERO - written_over)
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
    op.record("liger_rotary", (q, k), (first, second), tables, aliases=True, side_inputs=tables)
    return first, second


def rotated_by_unsloth(op: Ledger, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """q and k as Unsloth's function makes them, and their gradients, laid out as they were; only
    positions are kept, where any are told."""
    q, k = op.turn(q), op.turn(k)
    has_positions = not op.rules.compiled
    places = (op.shared("position_ids", TOKENS, "int32"),) if has_positions else ()
    trains = q.requires_grad or k.requires_grad
    first, second = (op.fresh(t.elements, t.dtype, trains, merged=False) for t in (q, k))
    op.record("liger_rotary", (q, k), (first, second), places, side_inputs=places)
    return first, second
