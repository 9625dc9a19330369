"""FSDP's collectives on the CPU without the copies that gloo takes for its own: a broadcast for
each shard, one all-reduce.

gloo's all-gather and reduce-scatter copy what they send, on threads of their own that let go of it
whenever they are scheduled: peaks would depend on the machine's load, and on a library that no
accelerator trains with. Broadcast and all-reduce work in place. They are given the bytes without
their owner: what a thread of gloo's still holds then keeps no tensor alive.
"""

import ctypes
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.utils._python_dispatch import _disable_current_modes


class _Buffers:
    """Buffers that are born by a change of size, as gathered weights are:
    `tracker.told_of_resizing` hears of both."""

    def allocate(
        self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        buffer = torch.empty(0, dtype=dtype, device=device)
        storage = buffer.untyped_storage()
        storage.resize_(torch.Size(size).numel() * dtype.itemsize)
        return buffer.set_(storage, 0, torch.Size(size))  # type: ignore[call-overload,no-any-return]


class _AllGather(_Buffers):
    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: dist.ProcessGroup,
        async_op: bool = False,
    ) -> None:
        shards = output_tensor.view(group.size(), -1)
        own = shards[group.rank()]
        if own.data_ptr() != input_tensor.data_ptr():
            own.copy_(input_tensor.view(-1))
        with _disable_current_modes():
            for rank, shard in enumerate(shards):
                if shard.numel():
                    dist.broadcast(_bytes_of(shard), group_src=rank, group=group)


class _ReduceScatter(_Buffers):
    def __call__(
        self,
        output_tensor: torch.Tensor,
        input_tensor: torch.Tensor,
        group: dist.ProcessGroup,
        op: dist.ReduceOp,
        async_op: bool = False,
    ) -> None:
        averages = dist.ReduceOp(dist.ReduceOp.AVG) == op
        with _disable_current_modes():
            if input_tensor.numel():
                dist.all_reduce(
                    _bytes_of(input_tensor), op=dist.ReduceOp.SUM if averages else op, group=group
                )
        if averages:
            input_tensor.div_(group.size())
        output_tensor.copy_(
            input_tensor.view(group.size(), -1)[group.rank()].view_as(output_tensor)
        )


def collectives_in_place(model: torch.nn.Module) -> None:
    """Gives every unit of a sharded model these collectives."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_custom_all_gather(_AllGather())  # type: ignore[arg-type]  # the interface by shape, not by name
            module.set_custom_reduce_scatter(_ReduceScatter())  # type: ignore[arg-type]


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor over the same contiguous memory that does not own it."""
    memory = (ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())
    return torch.frombuffer(memory, dtype=tensor.dtype)
