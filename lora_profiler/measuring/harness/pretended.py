"""A card that is not there: whether this process has one, where the parent starts a process that
does, and what of a record is then left.

The stub libraries are the rehearsal's (`lora_profiler.rehearsal`); here they are only recognised,
by a function that no library of NVIDIA's has. So whoever measures over them, however it was
started, leaves a rehearsed record.
"""

import ctypes
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lora_profiler.measuring.harness.nvml import OF_DRIVER
from lora_profiler.measuring.records.checks import NOT_REHEARSED
from lora_profiler.measuring.records.record import REHEARSED, Device, Environment, Measurement
from lora_profiler.question.gpu_platform import TORCH, Platform, version_of

LIMITS = (
    "Values were not computed and times mean nothing: only sizes, their order and the kernels' "
    "choice are real.",
    "Sizes that depend on values are the largest; experts get all tokens or none.",
    "The driver's context, NCCL's buffers and cuDNN's workspace are not counted.",
)
RUN_VARIABLE = "LORA_PROFILER_RUN"
"""A folder of one run, for what ranks tell each other; with it the process takes the largest of
sizes that depend on values."""
_MARK = "pretended_launches"
_OF_HOST = ("cpu", "logical_cpus", "threads", "memory_bytes", "memory_limit_bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pretended:
    """Where a case is rehearsed: a Python with a CUDA build of torch, and the variables that put
    the stub libraries under it; PYTHONPATH among them names this package too. `missing` are
    distributions that it lacks."""

    python: Path
    torch: str
    variables: Mapping[str, str]
    capability: int
    count: int
    missing: frozenset[str] = frozenset()

    @property
    def child(self) -> tuple[str, ...]:
        return (str(self.python), "-m", "lora_profiler.measuring.harness.entry")

    @property
    def platform(self) -> Platform:
        return Platform(capability=self.capability, torch=version_of(self.torch) or TORCH)


def is_pretended() -> bool:
    """Whether the stub libraries are loaded in this process."""
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), _MARK)


def marked(environment: Environment) -> Environment:
    """That of a rehearsed record: of this host and of a driver nothing is left, since nothing in
    the record depends on them."""
    device = replace(
        environment.device,
        kind=REHEARSED,
        name=f"{environment.device.name}, {REHEARSED}",
        **dict.fromkeys(OF_DRIVER),
    )
    variables = {k: v for k, v in environment.variables.items() if k != "LD_PRELOAD"}
    nothing: dict[str, Any] = dict.fromkeys(_OF_HOST)
    return replace(environment, device=device, variables=variables, limits=LIMITS, **nothing)


def unknown_card() -> Device:
    """Of a rehearsal whose process never told what it ran on."""
    return Device(kind=REHEARSED, name=f"unknown, {REHEARSED}")


def without_times(measurement: Measurement) -> Measurement:
    """`measurement` without what only a real run has."""
    empty = Measurement(status=measurement.status)
    nothing = {name: getattr(empty, name) for name in NOT_REHEARSED}
    ranks = tuple(replace(rank, loss=()) for rank in measurement.ranks)
    return replace(measurement, ranks=ranks, process_vram_method="none", **nothing)
