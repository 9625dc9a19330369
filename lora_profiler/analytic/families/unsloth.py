"""Unsloth's rotary embedding: Unsloth 2026.10.9, `kernels/rope_embedding.py`
(Fast_RoPE_Embedding_QK)."""

from lora_profiler.algebra.polynomial import TOKENS
from lora_profiler.analytic.ledger import Ledger
from lora_profiler.analytic.tensors import Tensor


def rotated(op: Ledger, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """q and k as one function makes them, and their gradients, laid out as they were; only
    positions are kept, where any are told."""
    q, k = op.turn(q), op.turn(k)
    told = not op.rules.compiled
    places = (op.shared("position_ids", TOKENS, "int32"),) if told else ()
    trains = q.requires_grad or k.requires_grad
    first, second = (op.fresh(t.elements, t.dtype, trains, merged=False) for t in (q, k))
    op.record("liger_rotary", (q, k), (first, second), places, beside=places)
    return first, second
