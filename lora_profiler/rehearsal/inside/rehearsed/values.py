"""Where the bytes that a step asks for depend on values, which a pretended card has none of."""

import ctypes
import linecache
import sys
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

import torch

from .holes import holes
from .integers import is_computed
from .weights import STOOD_IN

LARGEST_CASE: list[str] = []
"""Operators that were answered with their largest case, in the order in which they came."""
LAST_READ: dict[str, str] = {}
"""`where` the script last read a value of the card, and the `value` that it got."""
DECOMPOSED: list[str] = []
"""Decompositions of matrices that the script asked for."""
_DECOMPOSITIONS = (
    "linalg_qr", "_linalg_svd", "_linalg_eigh", "linalg_cholesky_ex", "linalg_inv_ex", "geqrf",
    "linalg_householder_product", "linalg_lu_factor_ex", "_linalg_solve_ex",
)  # fmt: skip
_DRAWN = (
    "normal_", "uniform_", "trunc_normal_", "xavier_normal_", "xavier_uniform_", "kaiming_normal_",
    "kaiming_uniform_",
)  # fmt: skip
_LARGE = 1 << 16
_MOST_INDICES = 1 << 22
_LARGE_FLOPS = 1 << 31
_COPIED_BYTES = 1 << 20
"""COPIED_BYTES of stubs/runtime.c."""
_library = torch.library.Library("aten", "IMPL")


def take_largest_cases() -> None:
    _library.impl("nonzero", _everything, "CUDA", allow_override=True)
    _library.impl("_unique2", _all_different, "CUDA", allow_override=True)
    _library.impl("_unique", _of_isin, "CUDA", allow_override=True)


def _note_largest_case(name: str) -> None:
    if name not in LARGEST_CASE:
        LARGEST_CASE.append(name)


def _all_different(
    tensor: torch.Tensor,
    is_sorted: bool = True,
    return_inverse: bool = False,
    return_counts: bool = False,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """torch sorts first, also where no order is asked for: `is_sorted` changes no size."""
    _note_largest_case("unique")
    values, places = tensor.flatten().sort()
    inverse = places.view(tensor.shape) if return_inverse else places.new_empty(0)
    counts = torch.empty_like(places) if return_counts else places.new_empty(0)
    return values, inverse, counts


def _of_isin(
    tensor: torch.Tensor, is_sorted: bool = True, return_inverse: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    return _all_different(tensor, is_sorted, return_inverse)[:2]


def _everything(tensor: torch.Tensor) -> torch.Tensor:
    _note_largest_case("nonzero")
    # as torch's own: one row a dimension, then transposed
    found = torch.empty((tensor.dim(), tensor.numel()), dtype=torch.int64, device=tensor.device)
    if 0 < found.numel() <= _LARGE:  # what lay there before may be no index
        ctypes.memset(found.data_ptr(), 0, found.nbytes)
    return found.t()


def sort_nothing() -> None:
    """What is sorted on the card is in the order in which it lies there, so that the host finds
    what the indices name."""
    _library.impl("topk", _first_ones, "CUDA", allow_override=True)
    _library.impl("sort.stable", _as_they_lie, "CUDA", allow_override=True)


def _first_ones(
    tensor: torch.Tensor, k: int, dim: int = -1, largest: bool = True, is_sorted: bool = True
) -> tuple[torch.Tensor, torch.Tensor]:
    sizes = list(tensor.shape)
    if sizes:
        sizes[dim] = k
    values, indices = tensor.new_empty(sizes), tensor.new_empty(sizes, dtype=torch.int64)
    torch.ops.aten.topk.values(tensor, k, dim, largest, is_sorted, values=values, indices=indices)
    _count_up(indices, dim)
    return values, indices


def _as_they_lie(
    tensor: torch.Tensor, *, stable: bool | None, dim: int = -1, descending: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    values, indices = torch.empty_like(tensor), torch.empty_like(tensor, dtype=torch.int64)
    torch.ops.aten.sort.values_stable(
        tensor, stable=stable, dim=dim, descending=descending, values=values, indices=indices
    )
    _count_up(indices, dim)
    return values, indices


def _count_up(indices: torch.Tensor, dim: int) -> None:
    """0, 1, 2, ... along a dimension; written into the simulated memory, since no kernel would."""
    if indices.dim() and indices.numel() < _MOST_INDICES and indices.is_contiguous():
        shape = [-1 if each == dim % indices.dim() else 1 for each in range(indices.dim())]
        counted = torch.arange(indices.shape[dim]).view(shape).expand(indices.shape).contiguous()
        ctypes.memmove(indices.data_ptr(), counted.data_ptr(), counted.nbytes)


def decompose_nothing() -> None:
    """QR, SVD and the like give tensors of the right sizes; their workspaces are not known."""
    for name in _DECOMPOSITIONS:
        operator = getattr(torch.ops.aten, name).default
        _library.impl(name, partial(_of_its_sizes, name, operator), "CUDA", allow_override=True)
    _library.impl("_linalg_check_errors", lambda *_, **__: None, "CUDA", allow_override=True)


def _of_its_sizes(name: str, operator: Any, *args: Any, **kwargs: Any) -> Any:
    if name.lstrip("_") not in DECOMPOSED:
        DECOMPOSED.append(name.lstrip("_"))
    device = next(each.device for each in args if isinstance(each, torch.Tensor))
    to_meta = [each.to("meta") if isinstance(each, torch.Tensor) else each for each in args]
    sizes = operator(*to_meta, **kwargs)
    made = [
        torch.empty_strided(each.shape, each.stride(), dtype=each.dtype, device=device)
        for each in (sizes if isinstance(sizes, tuple) else (sizes,))
    ]
    return tuple(made) if isinstance(sizes, tuple) else made[0]


def multiply_no_zeros() -> None:
    """Products on the host with the weights of a model that is simulated, as where a script
    evaluates it before it goes to the GPU: they would take minutes, and be zeros."""
    for name in ("mm", "addmm", "bmm", "baddbmm"):
        _library.impl(name, partial(_product, name), "CPU", allow_override=True)


def _product(name: str, *args: Any, **kwargs: Any) -> torch.Tensor:
    left, right = args[-2:]
    sizes = (*left.shape[:-1], right.shape[-1])
    if STOOD_IN and 2 * left.numel() * right.shape[-1] > _LARGE_FLOPS:
        return holes(sizes, left.dtype)
    computed: torch.Tensor = getattr(torch.ops.aten, name).out(
        *args, out=left.new_empty(sizes), **kwargs
    )
    return computed


def read_masks_as_true() -> None:
    """A mask that is copied to the host selects everything there, too: generated texts end where
    they were allowed to, and not before they begin. A sparse tensor has its elements at the first
    place, and a view has the values that it shows, which no kernel gathers."""
    for name in ("cpu", "to", "tolist", "numpy"):
        setattr(torch.Tensor, name, _of_true(getattr(torch.Tensor, name)))


def _of_true(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def read(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if tensor.is_sparse and tensor.is_cuda:
            moved = original(tensor, *args, **kwargs)
            if not moved.is_cuda:
                moved._indices().zero_()
            return moved
        if tensor.dtype is not torch.bool or is_computed(tensor):
            result = original(tensor, *args, **kwargs)
            return _gathered(tensor, result) if tensor.is_cuda else result
        if original.__name__ == "tolist":
            return original(torch.ones(tensor.shape, dtype=torch.bool))
        result = original(tensor, *args, **kwargs)
        is_mask = isinstance(result, torch.Tensor) and result.dtype is torch.bool
        return result.fill_(True) if is_mask and result.device.type == "cpu" else result

    return read


def _gathered(tensor: torch.Tensor, copy: Any) -> Any:
    """`copy` on the host with the values that lie on the card: of a small view that is not
    contiguous, and of indices that are too many for the stub to copy."""
    is_here = isinstance(copy, list) or getattr(copy, "is_cpu", False)
    most = _LARGE if tensor.is_floating_point() else _MOST_INDICES
    if not is_here or type(tensor) is not torch.Tensor or not 0 < tensor.numel() <= most:
        return copy
    if tensor.is_contiguous() and tensor.nbytes <= _COPIED_BYTES:
        return copy
    sizes, strides = tensor.shape, tensor.stride()
    last = sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    held = (ctypes.c_char * ((last + 1) * tensor.element_size())).from_address(tensor.data_ptr())
    values = torch.frombuffer(held, dtype=tensor.dtype).as_strided(sizes, strides)
    return values.tolist() if isinstance(copy, list) else copy.copy_(values)


def note_reads() -> None:
    """Where the script reads a number or a bool of the card, which decides what it does next."""
    for name in ("item", "__bool__", "__int__", "__float__", "__index__"):
        setattr(torch.Tensor, name, _noted(getattr(torch.Tensor, name)))


def _noted(original: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(original)
    def read(tensor: torch.Tensor) -> Any:
        is_largest = LARGEST_CASE and tensor.is_cuda and tensor.numel() > 1
        if is_largest and original.__name__ == "item":  # where a real card finds one element
            value = original(torch.zeros((), dtype=tensor.dtype))
        else:
            value = original(tensor)
        if tensor.is_cuda:
            frame = sys._getframe(1)
            if value is True and _is_guard(frame.f_code.co_filename, frame.f_lineno):
                value = False
            place = f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"
            LAST_READ.update(where=place, value=str(value))
        return value

    return read


def _is_guard(file: str, number: int) -> bool:
    """Whether the line looks for what no step computes, `torch.isnan(x).any()`, or its condition
    does nothing but raise: `if (std == 0).any(): raise`."""
    line = linecache.getline(file, number).strip()
    if "isnan(" in line or "isinf(" in line:
        return True
    if not line.startswith(("if ", "elif ")) or not line.endswith(":"):
        return False
    return linecache.getline(file, number + 1).strip().startswith("raise ")


def find_no_infinities() -> None:
    """A scaler skips the optimizer's step where a gradient is infinite, and no card has computed
    any."""
    torch.amp.GradScaler._maybe_opt_step = _stepped  # type: ignore[assignment]


def _stepped(
    scaler: torch.amp.GradScaler, optimizer: Any, state: Any, *args: Any, **kwargs: Any
) -> Any:
    for found_inf in state["found_inf_per_device"].values():
        found_inf.item()  # the host waits for it
    return optimizer.step(*args, **kwargs)


def draw_no_weights() -> None:
    """Random weights are never looked at. `trunc_normal_` may draw until all values lie inside, and
    here none is ever drawn."""
    for name in _DRAWN:
        original = getattr(torch.nn.init, name, None)
        if original is not None:
            setattr(torch.nn.init, name, _without_large(original))


def _without_large(original: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def draw(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        on_card = tensor.is_cuda and original.__name__ == "trunc_normal_"
        if on_card or (tensor.device.type == "cpu" and tensor.numel() > _LARGE):
            return tensor
        return original(tensor, *args, **kwargs)

    draw.__name__ = original.__name__
    return draw
