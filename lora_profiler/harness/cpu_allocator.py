"""Every allocation of torch's CPU allocator while some code runs: what kernels take for themselves
is in it.

torch offers no counters for the CPU; its profiler reports each allocation with its address.
`experimental_event_tree` is what torch's own memory profiler reads
(torch/profiler/_memory_profiler.py); `tests/test_harness_memory.py` fails if it changes.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from lora_profiler.attribution import Mark
from lora_profiler.harness.timeline import Allocation, Timeline
from lora_profiler.prediction import Phase

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
            timeline.marks.append(Mark(position=position, step=int(step), phase=phase, note=note))  # type: ignore[arg-type]
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
