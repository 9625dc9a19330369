"""Unsloth 2026.10.9: `kernels/rope_embedding.py` (Fast_RoPE_Embedding_QK), `models/llama.py`
(LlamaRotaryEmbedding, _PerDeviceRopeCache), `models/_decode_graphs.py`."""

from collections.abc import Callable, Mapping
from typing import Any

from lora_profiler._common.polynomial import TOKENS, Polynomial, S
from lora_profiler.features.kernels._fused import norm
from lora_profiler.features.kernels.unsloth import positions
from lora_profiler.memory.analytic.ledger import Ledger, Tensor
from lora_profiler.memory.analytic.moments import Candidate, candidate
from lora_profiler.question.feature import part
from lora_profiler.question.workload import DTYPE_BYTES

_INCREMENT, _BUCKET = 512, 256


def _rotated(op: Ledger, q: Tensor, k: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """q and k as Unsloth's function makes them, and their gradients, laid out as they were; only
    positions are kept, where any are told."""
    q, k = op.turn(q), op.turn(k)
    has_positions = not op.rules.compiled
    places = (op.shared("position_ids", TOKENS, "int32"),) if has_positions else ()
    trains = q.requires_grad or k.requires_grad
    first, second = (op.fresh(t.elements, t.dtype, trains, merged=False) for t in (q, k))
    op.record("fused_rotary", (q, k), (first, second), places, side_inputs=places)
    return first, second


REPLACED = {"norm": norm, "rotary": _rotated}


def buffer_bytes(workload: Any, widths: int) -> int:
    """Cosines and sines of `positions` of the model, in its dtype, one vector of frequencies, and
    two numbers that nothing reads; and what its LoRA kernels unpack 4-bit weights into."""
    size = DTYPE_BYTES[workload.setup.dtype]
    tables = 2 * positions(workload) * widths * size + 2 * widths + 2 * size
    lora = workload.setup.lora
    elements = part("lora_kernels", lora.lora_kernels if lora else "", "", "buffer_elements")
    return tables + (size * elements(workload.model, workload.setup) if elements else 0)


def decoding(
    alone: Mapping[Any, Polynomial],
    cache: Callable[[Polynomial], Polynomial],
    prompt: Polynomial,
    completion: int | None,
    layers: int,
    adapters: Polynomial,
    others: Mapping[str, Polynomial],
) -> tuple[Candidate, ...]:
    """Of Unsloth's own decoding: `cache` of so many tokens, which has 512 more than the prompt from
    the first one on, of whole groups of 256, beside the prompts' own; and more where completions
    are longer, a layer's twice for a moment. `adapters` are there in 16 bit too
    (`kernels/utils.py`, _fast_lora_weights)."""
    begun = prompt + (_INCREMENT + _BUCKET)
    first = cache(begun) + cache(prompt)
    candidates = [candidate(alone, activations=first, temporaries=adapters, **others)]
    if completion is None or completion > _INCREMENT:
        whole = cache(S + _BUCKET)
        twice = whole + whole.ceil_div(layers)
        candidates.append(candidate(alone, activations=twice, temporaries=adapters, **others))
    return tuple(candidates)
