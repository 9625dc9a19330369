"""What the commonest operators return on tensors without data, without asking torch's own meta
kernels, which are slow Python.

Only where nothing can be doubted: contiguous operands of one shape and one floating dtype give a
tensor like the first; an in-place operator on lists gives nothing. Everything else goes torch's
way.
"""

from collections.abc import Callable
from typing import Any

import torch

aten = torch.ops.aten


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
