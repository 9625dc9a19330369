"""Allocator counters of a device, in the words of `PhaseSample`: exact peaks between two resets,
read without synchronising."""

import gc
from typing import Any

import torch

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
