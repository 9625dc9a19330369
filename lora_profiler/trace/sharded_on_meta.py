"""FSDP2 and DDP on tensors without data: a fake process group, collectives that move nothing and
are written down, storages that FSDP frees and takes again.

The real `fully_shard` and `DistributedDataParallel` run; replaced is what would touch memory or
look for a device. Sources: torch 2.13
`distributed/fsdp/_fully_shard/{_fsdp_collectives,_fsdp_param,_fsdp_param_group}.py`,
`nn/parallel/distributed.py`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.utils._python_dispatch import _disable_current_modes

from lora_profiler._common.polynomial import constant
from lora_profiler.memory.analytic.persistent import TrainableTensor, state_bytes
from lora_profiler.memory.prediction import Collective, Phase
from lora_profiler.question.workload import FULLY_SHARDED, TrainSetup
from lora_profiler.trace.modeling import make_optimizer
from lora_profiler.trace.patching import replaced
from lora_profiler.trace.tracer import Tracer


@dataclass(frozen=True, slots=True)
class Sent:
    """One collective of the steady step: `size_bytes` is the full, unsharded size."""

    collective: Collective
    phase: Phase
    size_bytes: int


@contextmanager
def fake_group(world_size: int, rank: int = 0) -> Iterator[DeviceMesh]:
    """Inside, this process is `rank` of `world_size` that do not exist. Raises RuntimeError where
    there is a process group."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=rank, world_size=world_size, store=FakeStore())
    try:
        yield init_device_mesh("cpu", (world_size,))
    finally:
        dist.destroy_process_group()


def fullest_rank(model: torch.nn.Module, setup: TrainSetup) -> int:
    """The one whose ZeroRedundancyOptimizer has most states; of other shardings the first."""
    if setup.sharding != "zero1":
        return 0
    with fake_group(setup.world_size):
        optimizer: Any = make_optimizer(model, setup)
        dealt = optimizer._partition_parameters()

    def states(parameter: torch.Tensor) -> int:
        shape = tuple(map(constant, parameter.shape))
        tensor = TrainableTensor(shape, str(parameter.dtype).removeprefix("torch."))
        return state_bytes(tensor, setup).evaluate(1, 1, 1)

    sizes = [sum(states(p) for group in own for p in group["params"]) for own in dealt]
    return sizes.index(max(sizes))


@contextmanager
def collectives_noted(
    model: torch.nn.Module, setup: TrainSetup, tracer: Tracer, sent: list[Sent]
) -> Iterator[None]:
    """Collectives of FSDP2's units and broadcasts of ZeroRedundancyOptimizer only write themselves
    into `sent`; those of tensor parallelism are operators, which `noted_collectives` notes."""

    def broadcast(*, tensor: torch.Tensor, **options: Any) -> SimpleNamespace:
        sent.append(Sent("broadcast", cast(Phase, tracer.phase), tensor.nbytes))
        return SimpleNamespace(wait=lambda: None)

    with ExitStack() as stack:
        if setup.sharding in FULLY_SHARDED:
            _record_collectives(model, tracer, sent)
            stack.enter_context(_fsdp_on_meta(tracer))
        elif setup.sharding == "zero1":
            stack.enter_context(replaced(dist, "broadcast", broadcast))
        elif setup.sharding == "tp":
            stack.enter_context(_strides_unseen())
        yield


class _OnMeta:
    """Buffers without data, and no communication but a note of it."""

    def __init__(self, collective: Collective, tracer: Tracer, sent: list[Sent]) -> None:
        self._collective, self._tracer, self._sent = collective, tracer, sent

    def allocate(
        self, size: Sequence[int], *, dtype: torch.dtype, device: torch.device
    ) -> torch.Tensor:
        buffer = torch.empty(*size, dtype=dtype, device="meta")
        self._tracer.claim(buffer, "communication")
        return buffer

    def __call__(
        self, output_tensor: torch.Tensor, input_tensor: torch.Tensor, **options: Any
    ) -> None:
        whole = max(output_tensor, input_tensor, key=torch.Tensor.numel)
        self._sent.append(
            Sent(
                self._collective,
                cast(Phase, self._tracer.phase),
                whole.numel() * whole.element_size(),
            )
        )


def _record_collectives(model: torch.nn.Module, tracer: Tracer, sent: list[Sent]) -> None:
    """Gives every unit of a sharded model collectives that only write themselves into `sent`, and
    tells its parameters that what is cast for them has no data either."""
    for module in model.modules():
        if isinstance(module, dist.fsdp.FSDPModule):
            for group in module._get_fsdp_state()._fsdp_param_groups:
                for parameter in group.fsdp_params:
                    parameter.device = torch.device("meta")
            module.set_custom_all_gather(_OnMeta("all_gather", tracer, sent))  # type: ignore[arg-type]  # a protocol by its looks
            module.set_custom_reduce_scatter(_OnMeta("reduce_scatter", tracer, sent))  # type: ignore[arg-type]


def noted_collectives(tracer: Tracer, sent: list[Sent]) -> dict[Any, Callable[..., Any]]:
    """The operators that send under tensor parallelism, and what runs in their place: themselves,
    with a note in `sent`."""

    def noting(collective: Collective) -> Callable[..., Any]:
        def run(func: Any, given: Any, *rest: Any) -> Any:
            made = func(given, *rest)
            if isinstance(given, list):
                whole = given[0]
            else:
                whole = max(given, made, key=torch.Tensor.numel)
            phase = cast(Phase, tracer.phase)
            sent.append(Sent(collective, phase, whole.numel() * whole.element_size()))
            return made

        return run

    def wrapped(_func: Any, given: torch.Tensor) -> torch.Tensor:
        return given.detach()  # the operator's own stand-in makes another one

    functional = torch.ops._c10d_functional
    return {
        functional._wrap_tensor_autograd.default: wrapped,
        functional.all_reduce.default: noting("all_reduce"),
        functional.all_gather_into_tensor.default: noting("all_gather"),
        functional.reduce_scatter_tensor.default: noting("reduce_scatter"),
        torch.ops.c10d.allreduce_.default: noting("all_reduce"),
    }


@contextmanager
def _strides_unseen() -> Iterator[None]:
    """transformers asks an empty tensor on the meta device for strides, which takes no memory where
    real ones are elsewhere: `distributed/tensor_parallel.py`, _from_local_last_dim_shard."""
    from transformers.distributed.tensor_parallel import TensorParallelLayer

    made: Any = TensorParallelLayer._from_local_last_dim_shard

    def unseen(*args: Any) -> Any:
        with _disable_current_modes():
            return made(*args)

    with replaced(TensorParallelLayer, "_from_local_last_dim_shard", staticmethod(unseen)):
        yield


@contextmanager
def _fsdp_on_meta(tracer: Tracer) -> Iterator[None]:
    """FSDP takes parameters on the meta device, finds no streams, and tells `tracer` of storages it
    frees and takes again."""
    from torch.distributed.fsdp._fully_shard import (
        _fsdp_collectives,
        _fsdp_param,
        _fsdp_param_group,
    )

    alloc, free = _fsdp_param.alloc_storage, _fsdp_param.free_storage

    def alloc_storage(tensor: torch.Tensor) -> None:
        alloc(tensor)
        tracer.see(tensor)
        tracer.claim(tensor, "communication")

    def free_storage(tensor: torch.Tensor) -> None:
        tracer.freed(tensor)
        free(tensor)

    handle = _fsdp_collectives._get_device_handle  # type: ignore[attr-defined]  # a private import of torch's own
    with ExitStack() as stack:
        stack.enter_context(
            replaced(_fsdp_collectives, "_get_device_handle", lambda kind: handle("cpu"))
        )
        stack.enter_context(
            replaced(
                _fsdp_param_group.FSDPParamGroup, "_validate_no_meta_params", lambda self: None
            )
        )
        stack.enter_context(replaced(_fsdp_param, "alloc_storage", alloc_storage))
        stack.enter_context(replaced(_fsdp_param, "free_storage", free_storage))
        yield


def replicated_on_meta(model: torch.nn.Module, tracer: Tracer, sent: list[Sent]) -> torch.nn.Module:
    """`model` under DDP, whose buckets are born now. They stay as they are: filling them anew in
    the order in which gradients came, as DDP does after the first step, asks a broadcast for
    numbers, and changes no sum."""

    def all_reduced(_state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:  # type: ignore[name-defined]
        buffer = bucket.buffer()
        sent.append(
            Sent("all_reduce", cast(Phase, tracer.phase), buffer.numel() * buffer.element_size())
        )
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(buffer)
        return done

    with tracer:
        replica = torch.nn.parallel.DistributedDataParallel(model, init_sync=False)
    replica.register_comm_hook(None, all_reduced)
    replica.reducer = _NeverRebuilt(replica.reducer)  # type: ignore[assignment]
    replica.logger = SimpleNamespace(
        set_runtime_stats_and_log=lambda: None
    )  # its clock knows no meta device, and says so
    return replica


class _NeverRebuilt:
    """DDP's reducer, but for `_rebuild_buckets`."""

    def __init__(self, reducer: Any) -> None:
        self._reducer = reducer

    def _rebuild_buckets(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reducer, name)
