"""Operators that the tracer stands in for: it writes in place what autograd would, and answers for
the commonest ones itself.

While a dispatch mode is active, autograd adds gradients out of place. Sources: torch
`csrc/autograd/input_buffer.cpp` for sums, `areAnyTensorSubclassLike` in
`csrc/autograd/FunctionsManual.cpp` for the others. The counts of uses are private and of one
version of torch: `tests/trace/test_overrides.py` tries every operator.

torch's own meta kernels are slow Python. They are spared only where nothing can be doubted:
contiguous operands of one shape and one floating dtype give a tensor like the first; an in-place
operator on lists gives nothing. Everything else goes torch's way.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

aten = torch.ops.aten
IN_PLACE = {
    aten.add.Tensor: (aten.add_.Tensor, 4),
    aten.scatter.src: (aten.scatter_.src, 4),
    aten.scatter_add.default: (aten.scatter_add_.default, 5),
    aten.index_add.default: (aten.index_add_.default, 4),
    aten.index_put.default: (aten.index_put_.default, 5),
}
"""Operator -> what autograd calls instead of it, and the uses that its first tensor has then; that
of a gather's zeros has one more where autocast's rules are installed."""
_STORAGE_USES = 2


def held_by_nobody_else(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether autograd works here on a tensor of its own: the sum of gradients so far, or the zeros
    around a gradient.

    It does so in place, but never while a dispatch mode is active, so the tracer does it in its
    stead.
    """
    if func not in IN_PLACE or kwargs or torch.is_grad_enabled():
        return False
    first = args[0]
    if func is aten.add.Tensor:
        second = args[1]
        if not (isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor)):
            return False
        if first.shape != second.shape or first.dtype != second.dtype:
            return False
    uses: int = first._use_count()
    return (
        uses <= IN_PLACE[func][1]
        and torch._C._storage_Use_Count(first.untyped_storage()._cdata) <= _STORAGE_USES
    )


# --- without torch's slow meta kernels ------------------------------------------------------------


def _is_plain(tensor: torch.Tensor) -> bool:
    return tensor.device.type == "meta" and tensor.is_floating_point() and tensor.is_contiguous()


def _binary(func: Any, first: Any, second: Any, **rest: Any) -> Any:
    if isinstance(first, torch.Tensor) and _is_plain(first):
        if isinstance(second, torch.Tensor):
            alike = (
                second.shape == first.shape and second.dtype == first.dtype and _is_plain(second)
            )
        else:
            alike = isinstance(second, int | float)
        if alike:
            return torch.empty_like(first)
    return func(first, second, **rest)


def _unary(func: Any, only: torch.Tensor, *rest: Any, **more: Any) -> Any:
    return torch.empty_like(only) if _is_plain(only) else func(only, *rest, **more)


def _in_place(func: Any, first: list[torch.Tensor], *rest: Any, **more: Any) -> Any:
    return (
        None
        if all(tensor.device.type == "meta" for tensor in first)
        else func(first, *rest, **more)
    )


SHORTCUTS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys((aten.add.Tensor, aten.mul.Tensor, aten.div.Tensor, aten.sub.Tensor), _binary),
    **dict.fromkeys((aten.mul.Scalar, aten.div.Scalar), _binary),
    **dict.fromkeys((aten.pow.Tensor_Scalar, aten.neg.default, aten.rsqrt.default), _unary),
    **dict.fromkeys(
        (
            aten._foreach_addcmul_.Scalar,
            aten._foreach_addcdiv_.Scalar,
            aten._foreach_addcdiv_.ScalarList,
            aten._foreach_lerp_.Scalar,
            aten._foreach_mul_.Scalar,
            aten._foreach_add_.Scalar,
        ),
        _in_place,
    ),
}
