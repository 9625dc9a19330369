"""Stand-in for cut cross-entropy: it holds what the host code around Triton's kernels allocates.

cut-cross-entropy in axolotl's fork (5f0c7a7): `cce.py`, `cce_lse_forward.py`, `cce_backward.py` and
`transformers/utils.py` (apply_lce, shift=True): the sums of each token, the mean logit of each
word, by which backward orders the words, and gradients in the dtype of what they are of. Left out:
locks, 4 bytes for each 128 x 64 numbers of a gradient. What a kernel does is one operator here, a
few tokens at a time, so that a trace sees no more than a launch.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.library import custom_op
from torch.utils.flop_counter import register_flop_formula

from lora_profiler.question.support.losses import labelled_tokens
from lora_profiler.question.workload import TrainSetup
from lora_profiler.trace.modeling.losses import IGNORED_LABEL, LossAndLogits

_KERNEL_ROWS = 16
"""Tokens that an operator standing in for a kernel takes at a time."""


def loss(
    setup: TrainSetup, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor
) -> LossAndLogits:
    if hidden.dtype == torch.float32:
        hidden = hidden.to(weight.dtype)
    flat = hidden.reshape(-1, hidden.shape[-1])
    places = places_before_labels(labels, labelled_tokens(setup))
    summed: Tensor = _CutCrossEntropy.apply(flat, weight, bias, labels.reshape(-1), places)  # type: ignore[no-untyped-call]
    return LossAndLogits(summed / len(places))


class _CutCrossEntropy(torch.autograd.Function):
    """The losses of the tokens at `places`, summed up."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        places: Tensor,
    ) -> Tensor:
        count, vocab = len(places), len(weight)
        log_totals = hidden.new_full((count,), -float("inf"), dtype=torch.float32)
        means = (
            hidden.new_zeros((vocab,), dtype=torch.float32) if any(ctx.needs_input_grad) else None
        )
        cce_sum(hidden, weight, bias, places, log_totals, means)
        losses = hidden.new_zeros((count,), dtype=torch.float32)
        cce_pick(hidden, weight, bias, labels, places, losses)
        losses.add_(log_totals)
        ctx.save_for_backward(hidden, weight, bias, log_totals, labels, places, means)
        return losses.sum()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, log_totals, labels, places, means = ctx.saved_tensors
        order = means.argsort().to(torch.int32)
        needed = ctx.needs_input_grad
        of_hidden = torch.zeros_like(hidden) if needed[0] else None
        of_weight = torch.zeros_like(weight) if needed[1] else None
        of_bias = (
            torch.zeros_like(bias, dtype=torch.float32) if bias is not None and needed[2] else None
        )
        cce_turn(
            hidden, weight, bias, labels, places, log_totals, order, grads[0],
            of_hidden, of_weight, of_bias,
        )  # fmt: skip
        return of_hidden, of_weight, None if of_bias is None else of_bias.to(bias.dtype), None, None


@custom_op("lora_profiler::places_before_labels", mutates_args=())
def places_before_labels(labels: Tensor, rows: int) -> Tensor:
    """Places, in one row, of the tokens whose next one has a label; `rows` of them as far as a
    trace can know."""
    found = (labels[:, 1:] != IGNORED_LABEL).nonzero()
    return found[:, 0] * labels.shape[1] + found[:, 1]


@custom_op("lora_profiler::cce_sum", mutates_args={"log_totals", "means"})
def cce_sum(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    places: Tensor,
    log_totals: Tensor,
    means: Tensor | None,
) -> None:
    for rows, logits in _blocks(hidden, weight, bias, places):
        log_totals[rows] = logits.logsumexp(1)
        if means is not None:
            means.add_(logits.sum(0) / len(places))


@custom_op("lora_profiler::cce_pick", mutates_args={"losses"})
def cce_pick(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    places: Tensor,
    losses: Tensor,
) -> None:
    """Minus the logit of each label."""
    for start in range(0, len(places), _KERNEL_ROWS):
        rows = slice(start, start + _KERNEL_ROWS)
        wanted = labels[places[rows] + 1]
        chosen = (hidden[places[rows]].float() * weight[wanted].float()).sum(1)
        losses[rows] = -chosen if bias is None else -chosen - bias[wanted].float()


@custom_op("lora_profiler::cce_turn", mutates_args={"of_hidden", "of_weight", "of_bias"})
def cce_turn(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    places: Tensor,
    log_totals: Tensor,
    order: Tensor,
    gradient: Tensor,
    of_hidden: Tensor | None,
    of_weight: Tensor | None,
    of_bias: Tensor | None,
) -> None:
    for rows, logits in _blocks(hidden, weight, bias, places):
        wanted = labels[places[rows] + 1].unsqueeze(1)
        share = (logits - log_totals[rows].unsqueeze(1)).exp_()
        share.scatter_add_(1, wanted, torch.full_like(wanted, -1, dtype=share.dtype))
        share.mul_(gradient)
        narrow = share.to(hidden.dtype)
        if of_hidden is not None:
            of_hidden[places[rows]] = narrow @ weight
        if of_weight is not None:
            of_weight.addmm_(narrow.t(), hidden[places[rows]])
        if of_bias is not None:
            of_bias.add_(share.sum(0))


def _blocks(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, places: Tensor
) -> Iterator[tuple[slice, Tensor]]:
    """(which of `places`, their logits in float32)."""
    for start in range(0, len(places), _KERNEL_ROWS):
        rows = slice(start, start + _KERNEL_ROWS)
        yield rows, F.linear(hidden[places[rows]], weight, bias).float()


@places_before_labels.register_fake
def _(labels: Tensor, rows: int) -> Tensor:
    return labels.new_empty((rows,))


@register_flop_formula(torch.ops.lora_profiler.cce_sum)
def _(hidden: Any, weight: Any, bias: Any, places: Any, *_: Any, **__: Any) -> int:
    return 2 * int(places[0]) * int(weight[0]) * int(weight[1])


@register_flop_formula(torch.ops.lora_profiler.cce_turn)
def _(hidden: Any, weight: Any, bias: Any, labels: Any, places: Any, *rest: Any, **__: Any) -> int:
    made = 1 + sum(gradient is not None for gradient in rest[3:5])
    return made * 2 * int(places[0]) * int(weight[0]) * int(weight[1])
