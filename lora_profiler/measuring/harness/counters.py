"""Allocator counters of a device, in the words of `PhaseSample`: exact peaks between two resets,
read without synchronising; on a CPU from torch's own profiler of allocations."""

import gc
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from lora_profiler.measuring.harness.timeline import Allocation, Timeline
from lora_profiler.memory.attribution import PhaseMark
from lora_profiler.memory.prediction import Phase

_STATS = {
    "requested_bytes": "requested_bytes.all.current",
    "requested_peak_bytes": "requested_bytes.all.peak",
    "allocated_bytes": "allocated_bytes.all.current",
    "allocated_peak_bytes": "allocated_bytes.all.peak",
    "active_peak_bytes": "active_bytes.all.peak",
    "reserved_bytes": "reserved_bytes.all.current",
    "reserved_peak_bytes": "reserved_bytes.all.peak",
}
_COUNTS = ("num_alloc_retries", "num_ooms", "num_device_alloc", "num_sync_all_streams")
_HIGHEST = {
    "segments_peak": "segment.all.peak",
    "inactive_split_bytes_peak": "inactive_split_bytes.all.peak",
}


class Counters:
    """The caching allocator of "cuda" (ROCm too) or "xpu". `available` is False where the device
    keeps no such counters."""

    def __init__(self, kind: str) -> None:
        self._api: Any = getattr(torch, kind, None) if kind in ("cuda", "xpu") else None
        self.available = (
            self._api is not None
            and hasattr(self._api, "memory_stats")
            and bool(self._api.is_available())
        )

    def read(self) -> dict[str, int | None]:
        """Every counter that the device gives, in bytes; None for one that it does not know."""
        stats = self._api.memory_stats() if self.available else {}
        return {name: stats.get(key) for name, key in _STATS.items()}

    def reset_peaks(self) -> None:
        if self.available:
            self._api.reset_peak_memory_stats()

    def counts(self) -> dict[str, int]:
        """How often, since the process started, the allocator did what slows it down; empty where
        it does not count."""
        stats = self._api.memory_stats() if self.available else {}
        return {name: int(stats[name]) for name in _COUNTS if stats.get(name) is not None}

    def highest(self) -> dict[str, int]:
        """Most segments and most bytes in fragments since the last reset of the peaks."""
        stats = self._api.memory_stats() if self.available else {}
        return {
            name: int(stats[key]) for name, key in _HIGHEST.items() if stats.get(key) is not None
        }

    def synchronize(self) -> None:
        if self._api is not None:
            self._api.synchronize()


class Health:
    """What slowed the allocator down in measured steps: its counts from each `begin` to `end`, and
    the most of what has a peak.

    The allocator counts since the process started. Loading, warm-up and the passes that only
    explain stay out: what they met says nothing about a step, and may well be met by them alone.
    """

    def __init__(self) -> None:
        self.found: dict[str, int] = {}
        self._before: dict[str, int] | None = None

    def begin(self, counters: Counters) -> None:
        self._before = counters.counts()

    def observe(self, counters: Counters) -> None:
        """To be called before the peaks are reset."""
        for name, value in counters.highest().items():
            self.found[name] = max(value, self.found.get(name, 0))

    def end(self, counters: Counters) -> None:
        """Does nothing where nothing was begun."""
        if self._before is None:
            return
        before, self._before = self._before, None
        self.observe(counters)
        for name, value in counters.counts().items():
            self.found[name] = self.found.get(name, 0) + value - before.get(name, 0)


def empty_cache(kind: str) -> None:
    """Ends what nobody reaches any more, and gives the driver back the cached memory that nothing
    lives in; the CPU caches none.

    Else what one part of a run leaves in the cache is reserved in the next, whose reserved peak it
    raises.
    """
    gc.collect()
    empty = getattr(torch.get_device_module(kind), "empty_cache", None)
    if empty is not None:
        empty()


def driver_bytes(kind: str) -> int | None:
    """What the Metal driver has given to this process; the only counter that MPS has beside that of
    live tensors."""
    if kind == "mps" and torch.mps.is_available():
        return int(torch.mps.driver_allocated_memory())
    return None


# --- cpu allocator --------------------------------------------------------------------------------


_MARK = "lora_profiler.mark/"


class AllocatorRecord:
    """Records a timeline between `start` and `stop`; `existing` are the bytes at each address that
    is in use already."""

    def __init__(self, existing: Mapping[int, int]) -> None:
        self._existing = dict(existing)
        self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)

    def start(self) -> None:
        self._profile.start()

    def mark(self, step: int, phase: Phase, note: str = "") -> None:
        with record_function(f"{_MARK}{step}/{phase}/{note}"):
            pass

    def resized(self, storage: torch.UntypedStorage) -> None:
        """The allocator has recorded it."""

    def stop(self) -> Timeline:
        self._profile.stop()
        tree = self._profile.profiler.kineto_results.experimental_event_tree()  # type: ignore[union-attr]
        return _timeline(tree, self._existing)


def _timeline(tree: Any, existing: Mapping[int, int]) -> Timeline:
    events = sorted(_relevant(tree), key=lambda event: event[0])
    timeline = Timeline()
    alive = {
        address: Allocation(key=address, size_bytes=size) for address, size in existing.items()
    }
    timeline.allocations += alive.values()
    for position, (_, name, address, size) in enumerate(events):
        if name:
            step, phase, note = name.split("/")
            mark = PhaseMark(position=position, step=int(step), phase=phase, note=note)
            timeline.marks.append(mark)  # type: ignore[arg-type]
        elif size > 0:
            if address in alive:
                # unreported, as the deaths of what was there before are
                alive[address].died = position
            alive[address] = Allocation(key=address, size_bytes=size, born=position)
            timeline.allocations.append(alive[address])
        elif address in alive:
            # else it is from before, and nobody said so: its bytes were never counted
            alive.pop(address).died = position
    timeline.end = len(events)
    return timeline


def _relevant(tree: Any) -> Iterator[tuple[int, str, int, int]]:
    """(time, mark, address, bytes) of every mark and allocation of the CPU; the mark is "" for an
    allocation."""
    stack = list(tree)
    while stack:
        node = stack.pop()
        stack += node.children
        if node.name == "[memory]":
            fields = node.extra_fields
            if fields.device.type == "cpu":
                yield node.start_time_ns, "", fields.ptr, fields.alloc_size
        elif node.name.startswith(_MARK):
            yield node.start_time_ns, node.name.removeprefix(_MARK), 0, 0


def recorded(existing: Mapping[int, int], run: Callable[[AllocatorRecord], None]) -> Timeline:
    """The timeline of `run`, which marks its phases on the record that it is given."""
    record = AllocatorRecord(existing)
    record.start()
    try:
        run(record)
    finally:
        timeline = record.stop()
    return timeline
