"""Stand-in for the cross-entropy that writes the gradient over the logits: it holds what the host
code around the kernel allocates. Liger-Kernel (ead96b6) `ops/cross_entropy.py`, under transformers
5.24, `loss/loss_utils.py` (ForCausalLMLoss); Unsloth's (015bdef, `kernels/cross_entropy_loss.py`)
writes the gradient in backward, which needs as much. What a kernel does is one operator here, a few
tokens at a time, so that a trace sees no more than a launch.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.library import custom_op

from lora_profiler.question.support.generations import casts_in_head, shifts_logits
from lora_profiler.question.workload import TrainSetup
from lora_profiler.trace.modeling.foak import triton
from lora_profiler.trace.modeling.generations import shifted
from lora_profiler.trace.modeling.losses import IGNORED_LABEL, LossAndLogits

_KERNEL_ROWS = 16
"""Tokens that an operator standing in for a kernel takes at a time."""


def loss(
    setup: TrainSetup, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor
) -> LossAndLogits:
    if shifts_logits(setup.transformers):
        return _of_shifted_logits(setup, hidden, weight, bias, labels)
    logits = F.linear(hidden, weight, bias)
    wide = logits.float().view(-1, logits.shape[-1])
    targets = F.pad(labels, (0, 1), value=IGNORED_LABEL)[..., 1:].contiguous().view(-1)
    loss: Tensor = _Overwritten.apply(wide, targets)  # type: ignore[no-untyped-call]
    return LossAndLogits(loss, logits)


def _of_shifted_logits(
    setup: TrainSetup, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor
) -> LossAndLogits:
    """The loss of a version of transformers that shifts its logits."""
    logits = F.linear(hidden, weight, bias)
    if casts_in_head(setup.transformers):
        logits = logits.float()
    wide = logits.float()
    return LossAndLogits(triton(*shifted(wide, labels)), logits)


class _Overwritten(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        losses = torch.zeros(len(logits), dtype=logits.dtype, device=logits.device)
        mask = targets != IGNORED_LABEL
        overwrite(logits.detach(), targets, mask, losses, any(ctx.needs_input_grad))
        ctx.save_for_backward(logits.detach())
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        scale(gradient, grads[0])
        return gradient, None


@custom_op("lora_profiler::overwrite", mutates_args={"logits", "losses"})
def overwrite(
    logits: Tensor, targets: Tensor, mask: Tensor, losses: Tensor, gradients: bool
) -> None:
    """Mean losses of the rows and, with `gradients`, those of the logits in their place."""
    count = mask.sum()
    for start in range(0, len(logits), _KERNEL_ROWS):
        rows = slice(start, start + _KERNEL_ROWS)
        part, own = logits[rows], mask[rows].unsqueeze(1)
        wanted = targets[rows].clamp(min=0).unsqueeze(1)
        log_shares = part - part.logsumexp(1, keepdim=True)
        losses[rows] = (-log_shares.gather(1, wanted) * own / count).squeeze(1)
        if gradients:
            shares = log_shares.exp_()
            shares.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=shares.dtype))
            part.copy_(shares.mul_(own / count))


@custom_op("lora_profiler::scale", mutates_args={"gradient"})
def scale(gradient: Tensor, factor: Tensor) -> None:
    gradient.mul_(factor)
