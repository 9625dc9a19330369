"""The allocator's own peaks, phase by phase, without the script seeing that they are read and set
back in between."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import torch

COUNTERS = ("requested_bytes", "allocated_bytes", "reserved_bytes")
Key = tuple[int, str]
"""(step, phase); step 0 is all before the first forward pass."""


class Peaks:
    """`of[device][step, phase]`: peak of each of COUNTERS while that phase went on."""

    def __init__(self) -> None:
        self.of: dict[int, dict[Key, dict[str, int]]] = defaultdict(dict)
        self._stats = torch._C._cuda_memoryStats
        self._reset = torch._C._cuda_resetPeakMemoryStats
        self._seen_by_script: dict[int, dict[str, int]] = defaultdict(dict)
        self._key: Key = (0, "setup")
        torch._C._cuda_memoryStats = self._stats_for_script
        torch._C._cuda_resetPeakMemoryStats = self._reset_by_script

    def begin(self, step: int, phase: str) -> None:
        """Ends the phase that went on until now."""
        self.sample()
        self._key = (step, phase)

    def relabel(self, step: int, phase: str) -> None:
        """What went on since the last phase ended was this one, as shows only now."""
        self._key = (step, phase)

    def sample(self) -> None:
        if not torch.cuda.is_initialized():
            return
        for device in range(torch.cuda.device_count()):
            nested = self._stats(device)
            peaks = self.of[device].setdefault(self._key, dict.fromkeys(COUNTERS, 0))
            for counter in COUNTERS:
                peaks[counter] = max(peaks[counter], nested[counter]["all"]["peak"])
            peaks_of_script = self._seen_by_script[device]
            for name, values in _with_peaks(nested):
                peaks_of_script[name] = max(peaks_of_script.get(name, 0), values["peak"])
            self._reset(device)

    def current(self, device: int, counter: str) -> int:
        return int(self._stats(device)[counter]["all"]["current"])

    def retries(self, device: int) -> int:
        """How often the allocator gave its cache back and asked again."""
        return int(self._stats(device)["num_alloc_retries"])

    def _stats_for_script(self, device: int) -> dict[str, Any]:
        nested: dict[str, Any] = self._stats(device)
        peaks_of_script = self._seen_by_script[device]
        for name, values in _with_peaks(nested):
            values["peak"] = max(values["peak"], peaks_of_script.get(name, 0))
        return nested

    def _reset_by_script(self, device: int) -> None:
        self.sample()
        self._seen_by_script[device].clear()


def _with_peaks(nested: dict[str, Any]) -> Iterator[tuple[str, dict[str, int]]]:
    for name, kinds in nested.items():
        for kind, values in kinds.items() if isinstance(kinds, dict) else ():
            if isinstance(values, dict) and "peak" in values:
                yield f"{name}.{kind}", values
