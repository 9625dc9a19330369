"""Small integers of the card, computed on the host: a model of pictures asks its grid of patches
how long its sequences are. Sizes that nobody computes stay as `values` has them."""

import ctypes
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map

_MOST = 1 << 19
"""Elements: the tokens of a batch, and no mask of every pair of them."""
_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
_PLAIN = (torch.Tensor, torch.nn.Parameter)
_INDEXED = (
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
)
_SELECTED = (torch.ops.aten.masked_select.default, torch.ops.aten.masked_scatter_backward.default)
_ACTIVE: list[TorchDispatchMode] = []
_COMPUTED: set[int] = set()
"""Addresses of storages whose values lie on the card as a kernel would have left them."""


def compute_small_integers() -> None:
    """From here on, in this thread and in the backward passes that it starts."""
    if not _ACTIVE:
        _ACTIVE.append(_Computed().__enter__())


def is_computed(tensor: torch.Tensor) -> bool:
    if not tensor.is_cuda or type(tensor) not in _PLAIN or _is_wrapped(tensor):
        return True  # of one without a storage of its own nothing is known
    return bool(_COMPUTED) and tensor.untyped_storage().data_ptr() in _COMPUTED


class _Computed(TorchDispatchMode):
    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Without it torch.compile leaves all that runs under the mode uncompiled."""
        return True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        given = list(_tensors((args, kwargs)))
        if func is torch.ops.aten.lift_fresh.default and given[0].is_cuda and _is_small(given[0]):
            # `torch.tensor` has copied it here, past this mode
            _COMPUTED.add(given[0].untyped_storage().data_ptr())
        if not all(_is_small(each) and is_computed(each) for each in given):
            if func in _INDEXED:
                args = (args[0], _places(args[1]), *args[2:])
            elif func in _SELECTED:
                places = _places([args[1].expand(args[0].shape)])
                if len(places) == args[0].dim() > 1:  # the mask is computed
                    chosen = torch.ops.aten.index.Tensor(args[0], places)
                    return chosen if len(args) == 2 else chosen.view(args[2])
            return _forgotten(func(*args, **kwargs))
        if func.is_view or torch.Tag.nondeterministic_seeded in func.tags:
            return func(*args, **kwargs)
        asks_card = any(each.is_cuda for each in given)
        if asks_card and torch.Tag.dynamic_output_shape in func.tags:
            return tree_map(_on_card, func(*_on_host(args), **_on_host(kwargs)))
        result = func(*args, **kwargs)
        made = list(_tensors(result))
        if not (asks_card or any(each.is_cuda for each in made)) or not all(map(_is_small, made)):
            return _forgotten(result)
        values = func(*_on_host(args), **_on_host(kwargs))
        if not made:
            return values
        for each, value in zip(made, _tensors(values), strict=True):
            _write(each, value)
        return result


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    return (each for each in tree_iter(tree) if isinstance(each, torch.Tensor))


def _is_wrapped(tensor: torch.Tensor) -> bool:
    """By vmap and its like: of a tensor that has no storage of its own."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def _is_small(tensor: torch.Tensor) -> bool:
    return (
        type(tensor) in _PLAIN
        and tensor.device.type in ("cpu", "cuda")
        and tensor.dtype in _INTEGERS
        and tensor.layout is torch.strided
        and not _is_wrapped(tensor)
        and tensor.untyped_storage().nbytes() <= _MOST * tensor.element_size()
    )


def _forgotten(result: Any) -> Any:
    """What no kernel has computed, where something that was computed may have lain before."""
    for each in _tensors(result):
        if _is_small(each):
            _COMPUTED.discard(each.untyped_storage().data_ptr())
    return result


def _places(indices: Any) -> list[Any]:
    """Where a mask is computed, the elements that it selects."""
    found: list[Any] = []
    for each in indices:
        is_mask = each is not None and each.dtype is torch.bool and each.is_cuda
        if is_mask and _is_small(each) and is_computed(each):
            found += map(_on_card, _lying(each).nonzero(as_tuple=True))
        else:
            found.append(each)
    return found


def _on_host(tree: Any) -> Any:
    def moved(each: Any) -> Any:
        if isinstance(each, torch.Tensor):
            return _lying(each) if each.is_cuda else each
        is_card = isinstance(each, torch.device) and each.type == "cuda"
        return torch.device("cpu") if is_card else each

    return tree_map(moved, tree)


def _lying(tensor: torch.Tensor) -> torch.Tensor:
    """The host's view of a tensor in the card's memory, which is address space of the host."""
    storage = tensor.untyped_storage()
    if not storage.nbytes():
        return torch.empty(tensor.shape, dtype=tensor.dtype)
    held = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    flat = torch.frombuffer(held, dtype=tensor.dtype)
    return flat.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def _on_card(value: Any) -> Any:
    if not isinstance(value, torch.Tensor):
        return value
    tensor = torch.empty(value.shape, dtype=value.dtype, device="cuda")
    _write(tensor, value)
    return tensor


def _write(tensor: torch.Tensor, value: torch.Tensor) -> None:
    if not tensor.is_cuda:
        tensor.copy_(value)
    elif tensor.numel():
        _lying(tensor).copy_(value)
        _COMPUTED.add(tensor.untyped_storage().data_ptr())
