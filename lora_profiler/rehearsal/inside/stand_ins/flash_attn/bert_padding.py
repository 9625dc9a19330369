"""Padding is cut out before attention and put back behind it, as flash-attn's
`flash_attn/bert_padding.py` does: rows are gathered by their index."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class _Gathered(torch.autograd.Function):
    """Rows of the first axis."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.shape = rows.shape
        flat = rows.flatten(1)
        return flat.gather(0, indices[:, None].expand(-1, flat.shape[1])).reshape(
            -1, *rows.shape[1:]
        )

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (indices,), flat = ctx.saved_tensors, grads[0].flatten(1)
        grad = flat.new_zeros(ctx.shape[0], flat.shape[1])
        grad.scatter_(0, indices[:, None].expand(-1, flat.shape[1]), flat)
        return grad.reshape(ctx.shape), None


class _Scattered(torch.autograd.Function):
    """Rows into zeros of a longer first axis."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, indices: Tensor, length: int) -> Tensor:
        ctx.save_for_backward(indices)
        rows = values.new_zeros(length, *values.shape[1:])
        rows[indices] = values
        return rows

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (indices,) = ctx.saved_tensors
        return grads[0][indices], None, None


index_first_axis = _Gathered.apply
index_put_first_axis = _Scattered.apply


def unpad_input(
    hidden_states: Tensor, attention_mask: Tensor, unused_mask: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, int, Tensor]:
    """(rows, their indices, where sequences begin, the longest one, used lengths) of (batch,
    length, ...)."""
    mask = attention_mask if unused_mask is None else attention_mask + unused_mask
    lengths = mask.sum(dim=-1, dtype=torch.int32)
    used = attention_mask.sum(dim=-1, dtype=torch.int32)
    indices = mask.flatten().nonzero().flatten()
    longest = int(lengths.max().item())
    begins = F.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    return index_first_axis(hidden_states.flatten(0, 1), indices), indices, begins, longest, used


def pad_input(hidden_states: Tensor, indices: Tensor, batch: int, seqlen: int) -> Tensor:
    """(batch, length, ...) of rows."""
    rows: Tensor = index_put_first_axis(hidden_states, indices, batch * seqlen)
    return rows.view(batch, seqlen, *rows.shape[1:])
