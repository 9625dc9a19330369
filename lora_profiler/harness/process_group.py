"""This process among the ranks of a case: how it joins them, how they agree, and how the model is
spread over them."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel

from lora_profiler.harness.counters import Counters
from lora_profiler.harness.cpu_allocator import recorded
from lora_profiler.harness.gloo_in_place import collectives_in_place
from lora_profiler.modeling.sharding import fully_sharded
from lora_profiler.workload import FULLY_SHARDED, TrainSetup

BUCKETS = -2
"""Stands for the address of DDP's buckets where that is not known, or no longer."""


@dataclass(frozen=True, slots=True)
class Ranks:
    """Which of how many processes this one is."""

    rank: int = 0
    size: int = 1

    def agree(self, value: float) -> float:
        """What rank 0 says: decisions that depend on the clock must be the same everywhere, or
        ranks wait for each other."""
        if self.size == 1:
            return value
        tensor = torch.tensor([float(value)], dtype=torch.float64)
        dist.broadcast(tensor, src=0)
        return float(tensor)

    def wait(self) -> None:
        """Until all are here, so that none is gone while another still talks to it."""
        self.agree(0.0)


@contextmanager
def joined(setup: TrainSetup) -> Iterator[Ranks]:
    """The process group that torchrun's variables describe; alone where the setup has one rank.

    Its own time limit is out of the way: the one of the case ends a rank that hangs. Left without a
    word after an error, since a rank that is lost answers nobody; the process then ends as soon as
    its record is kept (`child`).
    """
    if setup.world_size == 1:
        yield Ranks()
        return
    backend = (
        "gloo"
        if setup.device == "cpu"
        else f"cpu:gloo,{setup.device}:{dist.get_default_backend_for_device(setup.device)}"
    )
    dist.init_process_group(backend, timeout=timedelta(days=7))
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    yield ranks
    ranks.wait()
    dist.destroy_process_group()


def own_rank() -> int | None:
    """This process's rank as torchrun numbers it, None for one that was started alone."""
    rank = os.environ.get("RANK")
    return None if rank is None else int(rank)


@dataclass(slots=True, kw_only=True)
class Spread:
    """What a step calls, and the bytes by address that the ranks' library holds and no Python
    object does: DDP's buckets."""

    module: torch.nn.Module
    buckets: dict[int, int] = field(default_factory=dict)

    def without_exchange(self) -> AbstractContextManager[Any]:
        """For a micro-batch that others follow: DDP sends the sum of gradients once, FSDP must give
        up each whole gradient."""
        if isinstance(self.module, DistributedDataParallel):
            return self.module.no_sync()
        return nullcontext()

    def settle(self) -> None:
        """After the first steps: DDP has filled its buckets anew, as large together, at addresses
        that nobody knows."""
        self.buckets = {BUCKETS: sum(self.buckets.values())} if self.buckets else {}


def spread(model: torch.nn.Module, setup: TrainSetup) -> Spread:
    """`model`, in place, as the ranks of `setup` share it. Optimizers come after: theirs are the
    shards.

    Raises UnbuildableError where FSDP finds no layers.
    """
    if setup.world_size == 1:
        return Spread(module=model)
    if setup.sharding in FULLY_SHARDED:
        mesh = init_device_mesh(setup.device, (setup.world_size,))
        sharded = fully_sharded(model, mesh, setup)
        if setup.device == "cpu":
            collectives_in_place(sharded)
        return Spread(module=sharded)
    replicas: list[DistributedDataParallel] = []
    buckets = _left_by(
        lambda: replicas.append(DistributedDataParallel(model, init_sync=False)), setup.device
    )
    return Spread(module=replicas[0], buckets=buckets)


def _left_by(make: Callable[[], None], kind: str) -> dict[int, int]:
    """Bytes that `make` leaves allocated: by address on the CPU, whose record must know them to see
    them die; else as one."""
    counters = Counters(kind)
    if kind == "cpu":
        timeline = recorded({}, lambda record: make())
        return {a.key: a.size_bytes for a in timeline.allocations if a.died is None}
    before = counters.read()["requested_bytes"] if counters.available else None
    make()
    after = counters.read()["requested_bytes"] if counters.available else None
    if before is not None and after is not None and after > before:
        return {BUCKETS: after - before}
    return {}


def reshard(model: torch.nn.Module) -> None:
    """Gives up the weights that a forward pass without a backward one left gathered: the next step
    would take stale ones."""
    for module in model.modules():
        if isinstance(module, dist.fsdp.FSDPModule):
            module.reshard()
