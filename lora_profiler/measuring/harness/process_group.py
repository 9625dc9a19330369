"""This process among the ranks of a case: how torchrun starts them, how it joins them, how they
agree, and how the model is spread over them."""

import ctypes
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import _disable_current_modes

from lora_profiler.errors import LoraProfilerError
from lora_profiler.measuring.harness.case import Case, read_case, write_case
from lora_profiler.measuring.harness.counters import Counters, recorded
from lora_profiler.measuring.harness.environment import environment
from lora_profiler.measuring.harness.gather import gathered, rank_result, with_reference
from lora_profiler.measuring.harness.machine import oom_kills
from lora_profiler.measuring.harness.process import CHILD, PARENT_VARIABLE
from lora_profiler.measuring.records.locks import write_durably
from lora_profiler.measuring.records.record import Record, now
from lora_profiler.measuring.records.serialize import record_dict, record_from_dict
from lora_profiler.question.workload import FULLY_SHARDED, TrainSetup
from lora_profiler.trace.modeling.sharding import fully_sharded

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
class DistributedModel:
    """What a step calls, and the bytes by address that the ranks' library holds and no Python
    object does: DDP's buckets. `collectives` stand for torch's own as long as this lives."""

    module: torch.nn.Module
    buckets: dict[int, int] = field(default_factory=dict)
    collectives: torch.library.Library | None = None

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


def spread(model: torch.nn.Module, setup: TrainSetup) -> DistributedModel:
    """`model`, in place, as the ranks of `setup` share it. Optimizers come after: theirs are the
    shards.

    Raises UnbuildableError where FSDP finds no layers.
    """
    if setup.world_size == 1:
        return DistributedModel(module=model)
    if setup.sharding == "tp":  # cut as it was built
        in_place = functional_in_place() if setup.device == "cpu" else None
        return DistributedModel(module=model, collectives=in_place)
    if setup.sharding in FULLY_SHARDED:
        mesh = init_device_mesh(setup.device, (setup.world_size,))
        sharded = fully_sharded(model, mesh, setup)
        if setup.device == "cpu":
            collectives_in_place(sharded)
        return DistributedModel(module=sharded)
    replicas: list[DistributedDataParallel] = []
    buckets = _left_by(
        lambda: replicas.append(DistributedDataParallel(model, init_sync=False)), setup.device
    )
    return DistributedModel(module=replicas[0], buckets=buckets)


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


# --- collectives on the CPU: a broadcast for each shard, one all-reduce --------------------
# gloo's all-gather and reduce-scatter copy what they send, on threads of their own that let go of
# it whenever they are scheduled: peaks would depend on the machine's load, and on a library that no
# accelerator trains with. Broadcast and all-reduce work in place. They are given the bytes without
# their owner: what a thread of gloo's still holds then keeps no tensor alive.


class _Buffers:
    """Buffers that are born by a change of size, as gathered weights are:
    `tracker.resizing_observed` hears of both."""

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


def functional_in_place() -> torch.library.Library:
    """The collectives of tensor parallelism, of the same kind: what they return is theirs alone."""
    named: Any = dist.distributed_c10d._resolve_process_group  # type: ignore[attr-defined]  # private

    def all_reduce(given: torch.Tensor, op: str, group: str) -> torch.Tensor:
        made = given.clone(memory_format=torch.contiguous_format)
        with _disable_current_modes():
            dist.all_reduce(_bytes_of(made), group=named(group))
        return made

    def all_gather(given: torch.Tensor, size: int, group: str) -> torch.Tensor:
        made = given.new_empty((given.shape[0] * size, *given.shape[1:]))
        named_group = named(group)
        made.chunk(size)[named_group.rank()].copy_(given)
        with _disable_current_modes():
            for rank, part in enumerate(made.chunk(size)):
                dist.broadcast(_bytes_of(part), group_src=rank, group=named_group)
        return made

    library: Any = torch.library.Library("_c10d_functional", "IMPL")  # type: ignore[no-untyped-call]
    for name, run in (("all_reduce", all_reduce), ("all_gather_into_tensor", all_gather)):
        library.impl(name, run, "CPU", allow_override=True)
    return library  # type: ignore[no-any-return]


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor over the same contiguous memory that does not own it."""
    memory = (ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())
    return torch.frombuffer(memory, dtype=tensor.dtype)


# --- torchrun -------------------------------------------------------------------------------------


def main(arguments: Sequence[str]) -> int:
    count, *child, case_path, result_path = arguments[1:]
    os.environ[PARENT_VARIABLE] = str(os.getpid())  # the children's
    case = read_case(Path(case_path))
    started = now()
    kills = oom_kills()
    exits = _run_ranks(int(count), [*child, case_path, result_path])
    killed = (oom_kills() or 0) > (kills or 0)
    records = {rank: _read(rank_result(Path(case_path), rank)) for rank in range(int(count))}
    whole = gathered(
        case,
        records,
        exits,
        killed,
        lambda: environment(case.workload.setup.device, command=case.command),
    )
    record = replace(whole, started_at=started)
    if record.measurement.went_through and not record.is_rehearsed:
        _emit_phase("reference")
        record = with_reference(record, _reference_losses(case, Path(case_path)))
    record = replace(record, ended_at=now())
    write_durably(Path(result_path), json.dumps(record_dict(record), allow_nan=False))
    return 0


def _run_ranks(count: int, command: Sequence[str]) -> dict[int, int]:
    """Runs `command` once a rank; exit codes of the ranks that failed, negative for a signal, not
    of those ended for them."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    options = ["--standalone", "--local-addr", "127.0.0.1", "--max-restarts", "0", "--no-python"]
    try:
        run(parse_args([*options, "--nproc-per-node", str(count), *command]))  # type: ignore[no-untyped-call]
    except ChildFailedError as e:
        exits = {rank: failure.exitcode for rank, failure in e.failures.items()}
        # which torchrun sends to the others
        own = {rank: code for rank, code in exits.items() if code != -signal.SIGTERM}
        return own or exits
    return {}


def _reference_losses(case: Case, case_path: Path) -> tuple[float, ...]:
    """Of one process that trains on what all ranks trained on: their micro-batches one after
    another, accumulated. None of them where it cannot: one device may not hold what several do,
    and of adapters that it cuts PEFT draws each rank's part by itself: there the first alone, which
    a B of zeros leaves to the base."""
    setup = case.workload.setup
    accumulation = setup.accumulation * setup.batches_at_once
    alone = replace(setup, world_size=1, sharding="none", accumulation=accumulation)
    same = replace(case, workload=replace(case.workload, setup=alone))
    request, answer = case_path.with_suffix(".alone.json"), case_path.with_suffix(".losses.json")
    write_case(request, same)
    command = [*CHILD, "--losses", str(request), str(answer)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
    losses = tuple(json.loads(answer.read_text("utf-8"))) if done.returncode == 0 else ()
    return losses[:1] if setup.sharding == "tp" and setup.lora is not None else losses


def _read(path: Path) -> Record | None:
    try:
        return record_from_dict(json.loads(path.read_text("utf-8")))
    except (OSError, LoraProfilerError, ValueError):
        return None


def _emit_phase(phase: str) -> None:
    print(json.dumps({"phase": phase, "step": None, "done": None}), flush=True)
