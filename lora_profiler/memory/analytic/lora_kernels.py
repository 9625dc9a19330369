"""Linear layers with adapters that may be one function together: q, k and v, the attention's
output, and a gated MLP."""

from collections.abc import Sequence
from typing import Any

from lora_profiler.memory.analytic.ledger import Ledger
from lora_profiler.memory.analytic.matmuls import linear
from lora_profiler.memory.analytic.tensors import Tensor
from lora_profiler.question.feature import part
from lora_profiler.question.lora_kernel_set import lora_kernel_set

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def projections(op: Ledger, x: Tensor, *names: str) -> tuple[Tensor, ...]:
    """The named linear layers of one input: one function where each has an adapter, else each by
    itself."""
    own = _function(op, names, "projections")
    return own(op, x, names) if own else tuple(linear(op, x, name) for name in names)


def mlp(op: Ledger, x: Tensor, name: str) -> Tensor | None:
    """down(act(gate(x)) * up(x)) as one function, None where it is not one."""
    own = _function(op, [f"{name}.{part}_proj" for part in ("gate", "up", "down")], "mlp")
    return own(op, x, name) if own else None


def _function(op: Ledger, names: Sequence[str], needed: str) -> Any:
    kernels = op.rules.lora_kernels
    if kernels == "peft" or not all(op.adapters.get(name) for name in names):
        return None
    if lora_kernel_set(kernels).leaves_biases and any(op.has(name, "bias") for name in names):
        return None
    return part("lora_kernels", kernels, "law", needed)
