"""How a fact of a card is taken: sizes, peaks, what autograd keeps, and times."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

WARMUPS, REPEATS = 3, 15
HOLD_CYCLES = 50_000_000
"""The card spins so long before a timed series that the host has queued it all: short kernels are
not timed by their launch."""
SMALLER_ON_CPU = 16


def sized(size: int, device: str) -> int:
    """A size, smaller on a CPU unless it is small already."""
    return max(size // SMALLER_ON_CPU, min(size, 16)) if device == "cpu" else size


def most_allocated(run: Callable[[], object]) -> int:
    """Bytes on a CPU, beside what was there."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    live = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    return peak


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


@contextmanager
def saved(besides: tuple[torch.Tensor, ...] = ()) -> Iterator[list[dict[str, Any]]]:
    """Collects what autograd keeps inside, each storage once: dtype, shape and bytes. `besides` are
    left out."""
    found: list[dict[str, Any]] = []
    seen = {t.untyped_storage()._cdata for t in besides}
    alive: list[torch.Tensor] = []  # else an address could come again

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in seen:
            seen.add(storage._cdata)
            alive.append(tensor.detach())
            found.append(
                {
                    "dtype": str(tensor.dtype).removeprefix("torch."),
                    "shape": list(tensor.shape),
                    "bytes": storage.nbytes(),
                }
            )
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found


@contextmanager
def peak_of() -> Iterator[list[int]]:
    """The requested bytes by which the block inside rose over its start, in a list that is filled
    at the end."""
    found: list[int] = []
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_stats()["requested_bytes.all.current"]
    yield found
    torch.cuda.synchronize()
    found.append(torch.cuda.memory_stats()["requested_bytes.all.peak"] - before)


def seconds_of(function: Callable[[], Any], device: str) -> float:
    """Median of a series after a warm-up: by events on a GPU, by the clock on a CPU."""
    for _ in range(WARMUPS):
        function()
    if device == "cpu":
        return median(_clocked(function) for _ in range(REPEATS))
    wait(device)
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(REPEATS + 1)]
    torch.cuda._sleep(HOLD_CYCLES)
    marks[0].record()
    for mark in marks[1:]:
        function()
        mark.record()
    wait(device)
    return median(a.elapsed_time(b) for a, b in pairwise(marks)) / 1000


def _clocked(function: Callable[[], Any]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began
