"""Stand-ins for the kernels of fms-acceleration's plugin "foak", which are Unsloth's: adapters as
one function, and the loss that writes its gradient over shifted logits. Norms and rotary embedding
keep and write over what Liger's do (`features/kernels/_fused_torch.py`).

Source: fms-acceleration (876e2ed) `plugins/fused-ops-and-kernels/src/fms_acceleration_foak/
{fused_ops/unsloth_lora/bnb/fast_lora.py,kernels/unsloth/cross_entropy_loss.py}`.
"""

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_profiler.trace.modeling.generations import IGNORED_LABEL


class _InPlace(torch.autograd.Function):
    """The logits are kept, with one number a row, and their gradient is written over them."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, labels: Tensor) -> Tensor:
        losses = torch.empty(logits.shape[0], dtype=torch.float32, device=logits.device)
        ctx.save_for_backward(logits, torch.empty_like(losses), labels)
        return losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        logits, *_ = ctx.saved_tensors
        return logits, None


def triton(logits: Tensor, labels: Tensor) -> Tensor:
    """What the kernel holds, of tensors without data: it computes nothing."""
    losses: Tensor = _InPlace.apply(logits, labels)  # type: ignore[no-untyped-call]
    return losses.sum() / torch.count_nonzero(labels != IGNORED_LABEL)


class _FastLora(torch.autograd.Function):
    """The input and what dropout leaves of it are kept, no mask; adapters are cast in every call;
    what the adapter makes is added in place."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor, b: Tensor, dropout: float, weight: Callable[[], Tensor]
    ) -> Tensor:
        dropped = F.dropout(x, dropout) if dropout else x
        out = F.linear(x, weight())
        out.add_(F.linear(F.linear(dropped, a.to(x.dtype)), b.to(x.dtype)))
        ctx.save_for_backward(x, dropped, a, b)
        ctx.weight = weight
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        x, dropped, a, b = ctx.saved_tensors
        dy = grads[0].reshape(-1, grads[0].shape[-1])
        x, dropped = x.reshape(-1, x.shape[-1]), dropped.reshape(-1, x.shape[-1])
        wide_a, wide_b = a.to(x.dtype), b.to(x.dtype)
        grad_a, grad_b = (dy @ wide_b).t() @ dropped, dy.t() @ (dropped @ wide_a.t())
        dx = dy @ ctx.weight()
        more = dy @ wide_b @ wide_a
        more.mul_(dropped != 0)
        dx.add_(more)
        return (
            dx.view(ctx.saved_tensors[0].shape),
            grad_a.to(a.dtype),
            grad_b.to(b.dtype),
            None,
            None,
        )


def base_weight(packed: Any) -> Callable[[], Tensor]:
    """What gives the weight of a base layer in the compute dtype, unpacked in each call where it is
    in 4 bit."""

    def weight() -> Tensor:
        import bitsandbytes.functional as bnb

        state = getattr(packed, "quant_state", None)
        if state is None:
            return packed.data  # type: ignore[no-any-return]
        return bnb.dequantize_4bit(packed.data, state).view(state.shape)

    return weight


def with_fast_lora(model: nn.Module) -> None:
    """PEFT's linear layers run base and adapter as one function."""
    for module in model.modules():
        if not hasattr(module, "lora_A") or not hasattr(module, "base_layer"):
            continue
        weight = base_weight(module.base_layer.weight)  # type: ignore[union-attr]

        def forward(self: Any, x: Tensor, weight: Callable[[], Tensor] = weight) -> Tensor:
            drop = self.lora_dropout["default"]
            args = (
                self.lora_A["default"].weight,
                self.lora_B["default"].weight,
                getattr(drop, "p", 0.0),
                weight,
            )
            return _FastLora.apply(x, *args)  # type: ignore[no-untyped-call,no-any-return]

        module.forward = MethodType(forward, module)
