"""Births and deaths of memory over marked phases of training steps: peaks, and what was alive at
one.

Two sources write the same timeline, torch's record of its allocator (`cpu_allocator`) and the
storages that operators return (`tracker`), so that one set of rules reads both.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from lora_profiler.prediction import Phase


@dataclass(slots=True, kw_only=True, eq=False)
class Allocation:
    """Bytes alive from position `born` up to, but not at, position `died` (None: to the end). -1:
    there before the start.

    `key` tells allocations apart while they live: an address, or a storage's identity.
    """

    key: int
    size_bytes: int
    born: int = -1
    died: int | None = None

    def alive_at(self, position: int) -> bool:
        return self.born <= position and (self.died is None or position < self.died)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """From `position` on, `phase` of `step` runs. `note` names an instant within a phase instead of
    starting one."""

    position: int
    step: int
    phase: Phase
    note: str = ""


@dataclass(slots=True)
class Timeline:
    """Allocations and marks in one order of positions, one position an event."""

    allocations: list[Allocation] = field(default_factory=list)
    marks: list[Mark] = field(default_factory=list)
    end: int = 0

    def spans(self) -> Iterator[tuple[int, Phase, int, int]]:
        """(step, phase, first position, position behind the last) of every marked stretch, in
        order."""
        starts = [m for m in self.marks if not m.note]
        for mark, following in zip(starts, [*starts[1:], None], strict=True):
            yield (
                mark.step,
                mark.phase,
                mark.position,
                following.position if following else self.end,
            )

    def position_of(self, step: int, note: str) -> int | None:
        """Where `note` stands in `step`, None if it does not."""
        return next((m.position for m in self.marks if m.step == step and m.note == note), None)

    def live_bytes(self) -> list[int]:
        """Live bytes at each position."""
        changes = [0] * (self.end + 1)
        base = 0
        for a in self.allocations:
            if a.born < 0:
                base += a.size_bytes
            else:
                changes[a.born] += a.size_bytes
            if a.died is not None:
                changes[a.died] -= a.size_bytes
        live, total = [], base
        for change in changes:
            total += change
            live.append(total)
        return live

    def peaks(self) -> dict[tuple[int, Phase], "Peak"]:
        """The first largest instant of each phase of each step; a phase that runs twice
        (accumulation) counts as one."""
        live = self.live_bytes()
        found: dict[tuple[int, Phase], Peak] = {}
        for step, phase, start, stop in self.spans():
            at = max(range(start, max(stop, start + 1)), key=lambda i: (live[i], -i))
            if (step, phase) not in found or live[at] > found[step, phase].size_bytes:
                found[step, phase] = Peak(position=at, size_bytes=live[at])
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """An instant and the bytes alive at it."""

    position: int
    size_bytes: int


def steady(peaks: Mapping[tuple[int, Phase], int]) -> dict[Phase, int]:
    """Largest value of each phase over all steps but the first."""
    found: dict[Phase, int] = {}
    for (step, phase), size in peaks.items():
        if step > 1:
            found[phase] = max(size, found.get(phase, 0))
    return found
