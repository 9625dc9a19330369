"""An exception of a training run as a status and a reason that can be stored."""

import re
import traceback

import torch

from lora_profiler.errors import UnbuildableError
from lora_profiler.measuring.harness.environment import without_paths
from lora_profiler.measuring.harness.tracker import BudgetExceededError
from lora_profiler.measuring.records.record import Failure, Status

OUT_OF_MEMORY_TEXTS = (
    "out of memory",
    "DefaultCPUAllocator: can't allocate memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "Cannot allocate memory",
)
"""What torch and its libraries say in a plain RuntimeError when memory is short."""
_NVML_IN_ALLOCATOR = re.compile(r"NVML_SUCCESS == .*CUDACachingAllocator", re.DOTALL)
"""torch asks NVML who holds the memory only once an allocation has failed for good. In containers
and on MIG slices NVML may not answer, and that assertion is then all that is heard: pytorch issues
112377, 130486, 197312."""
UNSUPPORTED_TEXTS = (
    "not implemented for",
    "No available kernel",
    "does not support",
    "is not supported",
    (  # its documentation: a feature that is missing; short memory has codes of its own
        "CUDNN_STATUS_NOT_SUPPORTED"
    ),
)
_TRIED = re.compile(r"(?:Tried to allocate|you tried to allocate) ([0-9.]+) ?(bytes|KiB|MiB|GiB)")
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_LOG_LINES = 12


def is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    message = str(error)
    short = (
        any(text in message for text in OUT_OF_MEMORY_TEXTS)
        or _NVML_IN_ALLOCATOR.search(message) is not None
    )
    return isinstance(error, RuntimeError) and short


def status_of(error: BaseException) -> Status:
    """oom, interrupted, unsupported (no such device, or no kernel for what was asked), or crash."""
    if is_out_of_memory(error):
        return "oom"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, NotImplementedError | UnbuildableError) or any(
        text in str(error) for text in UNSUPPORTED_TEXTS
    ):
        return "unsupported"
    return "crash"


def failure_of(
    error: BaseException, phase: str, step: int | None, **counters: int | None
) -> Failure:
    """What is kept of an error: its first lines, where it happened, and the bytes that it names.
    Paths are cut to file names."""
    tried = (
        error.tried_bytes if isinstance(error, BudgetExceededError) else _tried_bytes(str(error))
    )
    log = "".join(traceback.format_exception(error)[-4:])
    return Failure(
        reason=without_paths(f"{type(error).__name__}: {error}")[:600],
        phase=phase,
        step=step,
        tried_bytes=tried,
        free_bytes=counters.get("free_bytes"),
        allocated_bytes=(
            error.live_bytes
            if isinstance(error, BudgetExceededError)
            else counters.get("allocated_bytes")
        ),
        reserved_bytes=counters.get("reserved_bytes"),
        log=(
            None
            if is_out_of_memory(error)
            else without_paths("\n".join(log.splitlines()[-_LOG_LINES:]))
        ),
    )


def _tried_bytes(text: str) -> int | None:
    match = _TRIED.search(text)
    return round(float(match[1]) * _UNITS[match[2]]) if match else None
