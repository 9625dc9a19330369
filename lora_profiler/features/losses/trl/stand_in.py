"""A stand-in for TRL's fused head: the logits in tiles of at most 4,096 tokens and 32,768 words,
with entropy and accuracy in the same pass, and again in backward.

It holds what TRL 1.16 holds in `kernels/chunked_logprob.py` (ChunkedLogProbFunction) as
`trainer/utils.py` (add_fused_lm_head) calls it, and computes the same. Gradients are added up in
float32. Which words are the likeliest is followed and not returned. Where Triton runs, only tokens
with a label are taken, and a kernel reads or overwrites each tile where it lies: an operator of its
own here, so that a trace sees no more than that. Elsewhere all tokens are taken, and torch makes
float32 copies of a tile.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.library import custom_op
from torch.utils.flop_counter import register_flop_formula

from lora_profiler.features.losses.trl import TILE_COLUMNS, TILE_ROWS
from lora_profiler.question.support.losses import LogitScaling, runs_triton
from lora_profiler.question.support.packing import lengths
from lora_profiler.question.workload import TrainSetup
from lora_profiler.trace.modeling.losses import IGNORED_LABEL

_KERNEL_ROWS = 16
"""Tokens that an operator standing in for a kernel takes at a time."""


def scaled_loss(
    setup: TrainSetup,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    scaling: LogitScaling,
) -> Tensor:
    """The mean loss of the next tokens. `hidden` (batch, tokens, width) as the model made it."""
    labels = labels[:, 1:]
    mask = labels != IGNORED_LABEL
    rows = setup.batch_size * (setup.seq_len - len(lengths(setup)))  # without padding
    dtype = getattr(torch, setup.autocast_dtype) if setup.autocast_dtype else hidden.dtype
    taken: Tensor = _TiledHead.apply(
        hidden[:, :-1], weight, bias, labels, mask, dtype, runs_triton(setup.device), rows, scaling
    )  # type: ignore[no-untyped-call]
    return -taken.sum() / mask.sum().clamp(min=1)


class _TiledHead(torch.autograd.Function):
    """Log-probabilities of the labels, 0 where there is none."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        mask: Tensor,
        dtype: torch.dtype,
        triton: bool,
        rows: int,
        scaling: LogitScaling,
    ) -> Tensor:
        ctx.shape = hidden.shape
        if triton:
            hidden, targets = taken(hidden, mask, rows), taken(labels, mask, rows)
        else:
            hidden = hidden.reshape(-1, hidden.shape[-1])
            targets = labels.clamp(min=0).reshape(-1)
        count = hidden.shape[0]
        sums = hidden.new_zeros((7, count), dtype=torch.float32)
        sums[0].fill_(float("-inf"))
        sums[5].fill_(float("-inf"))
        buffer = _buffer(hidden, dtype)
        for tokens in _slices(count, TILE_ROWS):
            lowered = hidden[tokens].to(dtype)
            for words in _slices(weight.shape[0], TILE_COLUMNS):
                tile = _project(buffer, lowered, weight[words].to(dtype), bias, words)
                (fold if triton else _fold)(
                    tile, targets[tokens], sums[:, tokens], words.start, *scaling
                )
        largest, total, weighted, *_, chosen = sums
        log_total = largest + total.log()
        found: Tensor = chosen - log_total
        entropy = log_total - weighted / total
        ctx.save_for_backward(hidden, weight, bias, targets, mask, log_total, entropy)
        ctx.dtype, ctx.triton, ctx.scaling = dtype, triton, scaling
        return found if triton else found.masked_fill_(~mask.reshape(-1), 0)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, mask, log_total, _ = ctx.saved_tensors
        dtype, triton = ctx.dtype, ctx.triton
        of_hidden, of_weight, of_bias = (
            t.new_zeros(t.shape, dtype=torch.float32) if t is not None and needed else None
            for t, needed in zip((hidden, weight, bias), ctx.needs_input_grad, strict=False)
        )
        buffer = _buffer(hidden, dtype)
        gradient = grads[0].contiguous()
        if not triton:
            gradient = gradient.masked_fill_(~mask.reshape(-1), 0)
        add, lowered, part, tile = add_product if triton else _add_product, None, None, None
        for tokens in _slices(hidden.shape[0], TILE_ROWS):
            lowered = hidden[tokens].to(dtype)
            for words in _slices(weight.shape[0], TILE_COLUMNS):
                part = weight[words].to(dtype)
                tile = _project(buffer, lowered, part, bias, words)
                (turn if triton else _turn)(
                    tile,
                    targets[tokens],
                    log_total[tokens],
                    gradient[tokens],
                    words.start,
                    *ctx.scaling,
                )
                if of_hidden is not None:
                    add(of_hidden[tokens], tile, part)
                if of_weight is not None:
                    add(of_weight[words], tile.t(), lowered)
                if of_bias is not None:
                    of_bias[words] += tile.sum(0, dtype=torch.float32)
        made = [
            None if found is None else found.to(given.dtype)
            for found, given in ((of_hidden, hidden), (of_weight, weight), (of_bias, bias))
        ]
        del of_hidden, of_weight, of_bias, buffer, lowered, part, tile
        if made[0] is not None:
            made[0] = spread(made[0], mask) if triton else made[0].view(ctx.shape)
        return *made, None, None, None, None, None, None


def _slices(count: int, step: int) -> Iterator[slice]:
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def _buffer(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """Whatever the vocabulary."""
    return hidden.new_empty((min(len(hidden), TILE_ROWS), TILE_COLUMNS), dtype=dtype)


def _project(
    buffer: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, words: slice
) -> Tensor:
    tile = buffer[: len(hidden), : len(weight)]
    torch.mm(hidden, weight.t(), out=tile)
    if bias is not None:
        tile.add_(bias[words].to(tile.dtype))
    return tile


# --- a tile, in torch -----------------------------------------------------------------------------


def _fold(
    tile: Tensor, targets: Tensor, sums: Tensor, start: int, scale: float, cap: float
) -> None:
    """What the words of a tile add to the sums of each token: the largest logit, the sums of exp
    and of exp times logit, the largest logit before the label's and that of the label."""
    largest, total, weighted, _, _, before, chosen = sums
    logits = tile.float() * scale
    if cap:
        logits = cap * torch.tanh(logits / cap)
    logits = logits * 1.0  # by the temperature
    place = targets - start
    is_before = torch.arange(tile.shape[1], device=tile.device) < place.unsqueeze(1)
    before.copy_(torch.maximum(before, logits.masked_fill(~is_before, float("-inf")).amax(1)))
    peak = torch.maximum(largest, logits.amax(1))
    shrunk = (largest - peak).exp_()
    powers = torch.exp(logits - peak.unsqueeze(1))
    total.mul_(shrunk).add_(powers.sum(1))
    weighted.mul_(shrunk).add_((powers * logits).sum(1))
    largest.copy_(peak)
    is_here = (place >= 0) & (place < tile.shape[1])
    label = logits.gather(1, place.clamp(0, tile.shape[1] - 1).unsqueeze(1)).squeeze(1)
    chosen.copy_(torch.where(is_here, label, chosen))


def _turn(
    tile: Tensor,
    targets: Tensor,
    log_total: Tensor,
    gradient: Tensor,
    start: int,
    scale: float,
    cap: float,
) -> None:
    """Writes the gradient of the logits over them."""
    scaled = tile.float() * scale
    shrunk = torch.tanh(scaled / cap) if cap else None
    logits = scaled * 1.0 if shrunk is None else cap * shrunk * 1.0
    log_share = logits - log_total.unsqueeze(1)
    share = torch.exp(log_share)
    found = torch.zeros_like(logits)
    is_label = torch.arange(tile.shape[1], device=tile.device) == (targets - start).unsqueeze(1)
    found += gradient.unsqueeze(1) * (is_label.float() - share)
    found = found * 1.0
    if shrunk is not None:
        found = found * (1 - shrunk * shrunk)
    tile.copy_(found * scale)


def _add_product(sums: Tensor, a: Tensor, b: Tensor) -> None:
    sums.addmm_(a.float(), b.float())


# --- what kernels do without copies ---------------------------------------------------------------


@custom_op("lora_profiler::trl_fold", mutates_args={"sums"})
def fold(tile: Tensor, targets: Tensor, sums: Tensor, start: int, scale: float, cap: float) -> None:
    for rows in _slices(len(tile), _KERNEL_ROWS):
        _fold(tile[rows], targets[rows], sums[:, rows], start, scale, cap)


@custom_op("lora_profiler::trl_turn", mutates_args={"tile"})
def turn(
    tile: Tensor,
    targets: Tensor,
    log_total: Tensor,
    gradient: Tensor,
    start: int,
    scale: float,
    cap: float,
) -> None:
    for rows in _slices(len(tile), _KERNEL_ROWS):
        _turn(tile[rows], targets[rows], log_total[rows], gradient[rows], start, scale, cap)


@custom_op("lora_profiler::trl_add_product", mutates_args={"sums"})
def add_product(sums: Tensor, a: Tensor, b: Tensor) -> None:
    """sums += a @ b, which cuBLAS adds up in float32 without a copy of either."""
    if a.is_cuda and a.dtype != torch.float32:
        torch.addmm(sums, a, b, out_dtype=torch.float32, out=sums)
    else:
        sums.addmm_(a.float(), b.float())


@register_flop_formula(torch.ops.lora_profiler.trl_add_product)
def _(sums: Any, a: Any, b: Any, *_: Any, **__: Any) -> int:
    return 2 * int(a[0]) * int(a[1]) * int(b[1])


@custom_op("lora_profiler::trl_taken", mutates_args=())
def taken(values: Tensor, mask: Tensor, rows: int) -> Tensor:
    """`values` where `mask` is true; `rows` of them as far as a trace can know."""
    return values[mask]


@custom_op("lora_profiler::trl_spread", mutates_args=())
def spread(rows: Tensor, mask: Tensor) -> Tensor:
    """Zeros, and `rows` where `mask` is true."""
    whole = rows.new_zeros((*mask.shape, rows.shape[1]))
    whole[mask] = rows
    return whole


@fold.register_fake
def _(*_: Any) -> None: ...


@turn.register_fake
def _(*_: Any) -> None: ...


@add_product.register_fake
def _(sums: Tensor, a: Tensor, b: Tensor) -> None: ...


@taken.register_fake
def _(values: Tensor, mask: Tensor, rows: int) -> Tensor:
    return values.new_empty((rows, *values.shape[2:]))


@spread.register_fake
def _(rows: Tensor, mask: Tensor) -> Tensor:
    return rows.new_empty((*mask.shape, rows.shape[1]))
