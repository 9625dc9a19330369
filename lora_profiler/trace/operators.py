"""Operators that the tracer stands in for: it writes in place what autograd would, and answers for
the commonest ones itself.

While a dispatch mode is active, autograd adds gradients out of place. Sources: torch
`csrc/autograd/input_buffer.cpp` for sums, `areAnyTensorSubclassLike` in
`csrc/autograd/FunctionsManual.cpp` for the others. The counts of uses are private and of one
version of torch: `tests/trace/test_overrides.py` tries every operator.

torch's own meta kernels are slow Python. They are spared only where nothing can be doubted:
contiguous operands of one shape and one floating dtype give a tensor like the first; an in-place
operator on lists gives nothing. Everything else goes torch's way."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from lora_profiler.question.workload import Workload
from lora_profiler.trace.modeling.contents import with_images

# --- operators ------------------------------------------------------------------------------------

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


# --- tensors that have numbers --------------------------------------------------------------------

# Tensors that have numbers in a trace: tokens and the sizes of images, at which the code of models
# that see looks. They lie on the CPU and stand for tensors of the device.

_INDEXED = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
"""Take an index with data beside a tensor without any."""
Call = tuple[Any, tuple[Any, ...], Mapping[str, Any]]


def batch_with_images(workload: Workload, rows: int) -> dict[str, torch.Tensor]:
    """`rows` sequences with their images: tokens with data, since models look for those of images,
    and pixels without."""
    setup = workload.setup
    ids = torch.zeros((rows, setup.seq_len), dtype=torch.int64)
    batch = {"input_ids": ids, "labels": ids}
    if setup.is_padded:
        batch["attention_mask"] = mask = torch.ones_like(ids)
        mask[:, -setup.padded_tokens :] = 0
    return with_images(workload.model, setup, batch, "meta")


def on_one_device(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """The call as it is made on one device: beside a tensor without data others have none either,
    what is sent to the device stays where it is, and no pixel of an image is blank."""
    if func is aten._to_copy.default and kwargs.get("device") is not None:
        rest = {name: value for name, value in kwargs.items() if name != "device"}
        if rest.get("dtype") in (None, args[0].dtype):
            return aten.alias.default, args, {}
        return func, args, rest
    if func is aten.eq.Scalar and args[0].device.type == "meta":
        return aten.zeros.default, (args[0].shape,), {"dtype": torch.bool}
    if func in _INDEXED or not _are_mixed((args, kwargs)):
        return func, args, kwargs
    return func, *tree_map(_without_data, (args, kwargs))


def _are_mixed(values: Any) -> bool:
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]
    return {tensor.device.type for tensor in tensors if tensor.ndim} == {"cpu", "meta"}


def _without_data(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and value.device.type == "cpu" and value.ndim:
        return torch.empty_like(value, device="meta")
    return value
