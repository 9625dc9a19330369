"""Live bytes of the storages that operators return: the same on every device, and the only source
where a device counts nothing.

What a kernel takes for itself is not seen. Everything alive before must be registered, or optimizer
states are missed.
"""

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lora_profiler.measuring.harness.counters import Counters
from lora_profiler.measuring.harness.ownership import storage_of
from lora_profiler.measuring.harness.timeline import Allocation, Timeline
from lora_profiler.memory.attribution import PhaseMark
from lora_profiler.memory.prediction import Phase

_SCRATCH = -1
_ATTENTION_KERNELS = {
    "_scaled_dot_product_flash_attention": "flash",
    "_scaled_dot_product_efficient_attention": "efficient",
    "_scaled_dot_product_cudnn_attention": "cudnn",
    "_scaled_dot_product_flash_attention_for_cpu": "cpu",
    # what torch's own decomposition of the attention calls, and nothing else does
    "_safe_softmax": ("math"),
}
"""torch's operator -> the name that a prediction gives the kernel."""


_HELD_BY_NOBODY_ELSE = (4, 2)
"""Largest use counts of a tensor and of its storage while only autograd's own buffer holds it."""


def _sums_gradients(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> bool:
    """Whether this is autograd adding two gradients, which it does in place if nobody else holds
    the first of them.

    While a dispatch mode is active it never does (torch/csrc/autograd/input_buffer.cpp), so the
    tracker does it in its stead.
    """
    if func is not torch.ops.aten.add.Tensor or kwargs or len(args) != 2 or torch.is_grad_enabled():
        return False
    # private: without it a sum is taken for a tensor of its own
    if not hasattr(torch.Tensor, "_use_count"):
        return False
    a, b = args
    if (
        not (isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor))
        or a.shape != b.shape
        or a.dtype != b.dtype
    ):
        return False
    tensors, storages = _HELD_BY_NOBODY_ELSE
    uses: int = a._use_count()  # type: ignore[attr-defined]
    return uses <= tensors and torch._C._storage_Use_Count(a.untyped_storage()._cdata) <= storages


@contextmanager
def resizing_observed(notify: Callable[[torch.UntypedStorage], None]) -> Iterator[None]:
    """Inside, `notify` hears of each storage that changes its size. No operator returns it: FSDP
    frees gathered weights so."""
    resize = torch.UntypedStorage.resize_

    def resize_(storage: torch.UntypedStorage, size: int) -> Any:
        resized = resize(storage, size)
        notify(storage)
        return resized

    torch.UntypedStorage.resize_ = resize_  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign]


class BudgetExceededError(torch.OutOfMemoryError):
    """Raised by the tracker in place of a device that is full. Bytes: the budget, those alive,
    those that came on top."""

    def __init__(self, budget_bytes: int, live_bytes: int, tried_bytes: int) -> None:
        super().__init__(
            f"out of memory: {live_bytes} B alive and {tried_bytes} B more requested, of a budget"
            f" of {budget_bytes} B"
        )
        self.budget_bytes, self.live_bytes, self.tried_bytes = budget_bytes, live_bytes, tried_bytes


class StorageTracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes a timeline of all storages on `device_type` while it is active.

    `existing` are tensors that are alive already, `unseen` bytes by key that no tensor of Python's
    holds. With `budget_bytes`, raises BudgetExceededError once more than that is alive. With
    `counters`, what an operator's kernel takes beyond its outputs is there for the time of the
    operator.
    """

    def __init__(
        self,
        device_type: str,
        existing: Iterable[torch.Tensor],
        budget_bytes: int | None = None,
        counters: Counters | None = None,
        unseen: Mapping[int, int] | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.timeline = Timeline()
        self._device_type = device_type
        self._budget_bytes = budget_bytes
        self._counters = counters
        self._alive: dict[int, Allocation] = {}
        self.live_bytes = 0
        self._in_backward = False
        self.attention_kernels: set[str] = set()
        for tensor in existing:
            self._add(tensor, born=-1)
        self._has_unseen = bool(unseen)
        for key, size in (unseen or {}).items():
            self.timeline.allocations.append(Allocation(key=key, size_bytes=size))
            self.live_bytes += size

    def mark(self, step: int, phase: Phase, note: str = "") -> None:
        if not note:
            self._in_backward = phase == "backward"
        self.timeline.marks.append(
            PhaseMark(position=self._next(), step=step, phase=phase, note=note)
        )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if self._counters is not None:
            self._counters.reset_peaks()
        if self._in_backward and _sums_gradients(func, args, kwargs):
            func = torch.ops.aten.add_.Tensor
        result = func(*args, **(kwargs or {}))
        kernel = _ATTENTION_KERNELS.get(func.overloadpacket.__name__)
        if kernel is not None:
            self.attention_kernels.add(kernel)
        old = self._unseen_among(args, kwargs)
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and storage_of(leaf)._cdata not in old:
                self._add(leaf)
        if self._counters is not None:
            self._add_scratch(self._counters.read())
        return result

    def _unseen_among(self, args: tuple[Any, ...], kwargs: Mapping[str, Any] | None) -> set[int]:
        """Storages of `args`, where some are counted already as bytes that nobody sees: DDP writes
        into its buckets' views."""
        if not self._has_unseen:
            return set()
        return {
            storage_of(leaf)._cdata
            for leaf in tree_leaves((args, kwargs))
            if isinstance(leaf, torch.Tensor)
        }

    def _add_scratch(self, read: Mapping[str, int | None]) -> None:
        scratch = (read["requested_peak_bytes"] or 0) - (read["requested_bytes"] or 0)
        if scratch > 0:
            position = self._next()
            self.timeline.allocations.append(
                Allocation(key=_SCRATCH, size_bytes=scratch, born=position, died=self._next())
            )

    def _add(self, tensor: torch.Tensor, born: int | None = None) -> None:
        if tensor.device.type != self._device_type:
            return
        self._add_storage(storage_of(tensor), born)

    def _add_storage(self, storage: torch.UntypedStorage, born: int | None = None) -> None:
        key, size = storage._cdata, storage.nbytes()
        if not size or key in self._alive:
            return
        position = self._next() if born is None else born
        allocation = self._alive[key] = Allocation(key=key, size_bytes=size, born=position)
        self.timeline.allocations.append(allocation)
        self.live_bytes += size
        weakref.finalize(storage, self._remove, allocation)
        if self._budget_bytes is not None and self.live_bytes > self._budget_bytes:
            raise BudgetExceededError(self._budget_bytes, self.live_bytes - size, size)

    def resized(self, storage: torch.UntypedStorage) -> None:
        """Notes a storage that was emptied or filled while its tensors live on."""
        before = self._alive.get(storage._cdata)
        if before is not None:
            self._remove(before)
        if storage.device.type == self._device_type:
            self._add_storage(storage)

    def _remove(self, allocation: Allocation) -> None:
        if self._alive.get(allocation.key) is allocation:
            del self._alive[allocation.key]
            self.live_bytes -= allocation.size_bytes
            allocation.died = self._next()

    def _next(self) -> int:
        self.timeline.end += 1
        return self.timeline.end - 1
