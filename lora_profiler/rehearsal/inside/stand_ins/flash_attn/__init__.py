"""FlashAttention 2 where its package is not installed: torch's own copy of its kernels, with the
same tensors saved and the same workspaces.

Signatures and what is saved: flash-attn 2.8, `flash_attn/flash_attn_interface.py`; workspaces:
`csrc/flash_attn/flash_api.cpp`, of which torch's `aten/src/ATen/native/transformers/cuda` has a
copy. Heads whose width is no multiple of 8 are padded, as there.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__version__ = "2.8.3"
_ALIGNMENT = 8
"""Elements of a head's width."""


def flash_attn_func(q: Tensor, k: Tensor, v: Tensor, *args: Any, **options: Any) -> Tensor:
    """Of (batch, length, heads, width)."""
    lengths = (q.shape[1], k.shape[1])
    return _attention((q, k, v), (None, None), lengths, *args, **options)


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    *args: Any,
    **options: Any,
) -> Tensor:
    """Of (tokens, heads, width); no size depends on the longest sequence, which is a value of the
    GPU mostly."""
    begins, lengths = (cu_seqlens_q, cu_seqlens_k), (len(q), len(k))
    return _attention((q, k, v), begins, lengths, *args, **options)


def flash_attn_with_kvcache(*args: Any, **options: Any) -> Tensor:
    raise NotImplementedError("A rehearsal simulates no flash_attn_with_kvcache.")


def _attention(
    tensors: tuple[Tensor, Tensor, Tensor],
    begins: tuple[Tensor | None, Tensor | None],
    lengths: tuple[int, int],
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,  # changes values alone
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Tensor | None = None,
) -> Tensor:
    if deterministic or return_attn_probs or block_table is not None:
        raise NotImplementedError(
            "A rehearsal simulates no flash-attn that is deterministic, returns probabilities or"
            " reads a paged cache."
        )
    width = tensors[0].shape[-1]
    if width % _ALIGNMENT:
        tensors = tuple(F.pad(each, (0, -width % _ALIGNMENT)) for each in tensors)  # type: ignore[assignment]
    out, *_ = torch.ops.aten._flash_attention_forward(
        *tensors,
        *begins,
        *lengths,
        dropout_p,
        causal,
        False,
        scale=softmax_scale or width**-0.5,
        window_size_left=window_size[0],
        window_size_right=window_size[1],
        alibi_slopes=alibi_slopes,
    )
    return out[..., :width]  # type: ignore[no-any-return]
