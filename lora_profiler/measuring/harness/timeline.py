"""Births and deaths of memory over marked phases of training steps: peaks, and what was alive at
one.

Two sources write the same timeline, torch's record of its allocator (`cpu_allocator`) and the
storages that operators return (`tracker`), so that one set of rules reads both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lora_profiler.memory.attribution import Lifetimes, PhaseMark, Span, spans_of
from lora_profiler.memory.prediction import CATEGORIES, Category, Phase


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


@dataclass(slots=True)
class Timeline:
    """Allocations and marks in one order of positions, one position an event."""

    allocations: list[Allocation] = field(default_factory=list)
    marks: list[PhaseMark[Phase]] = field(default_factory=list)
    end: int = 0

    def spans(self) -> list[Span[Phase]]:
        """Every marked stretch, in order."""
        return spans_of(self.marks, self.end)

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
        peaks: dict[tuple[int, Phase], Peak] = {}
        for span in self.spans():
            positions = range(span.start, max(span.stop, span.start + 1))
            at = max(positions, key=lambda i: (live[i], -i))
            key = (span.step, span.phase)
            if key not in peaks or live[at] > peaks[key].size_bytes:
                peaks[key] = Peak(position=at, size_bytes=live[at])
        return peaks


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """An instant and the bytes alive at it."""

    position: int
    size_bytes: int


def steady(peaks: Mapping[tuple[int, Phase], int]) -> dict[Phase, int]:
    """Largest value of each phase over all steps but the first."""
    largest: dict[Phase, int] = {}
    for (step, phase), size in peaks.items():
        if step > 1:
            largest[phase] = max(size, largest.get(phase, 0))
    return largest


# --- what is alive at an instant ------------------------------------------------------------------


@dataclass(slots=True)
class AllocationClaims:
    """Owners by allocation key: `before` for what was alive at the start, `later` for what was seen
    at a position.

    `has_buckets`: see `attribution.Lifetimes`.
    """

    before: dict[int, Category] = field(default_factory=dict)
    later: list[tuple[int, int, Category]] = field(default_factory=list)
    has_buckets: bool = False

    def take_buckets(self, buckets: Mapping[int, int]) -> None:
        self.before |= dict.fromkeys(buckets, "communication")
        self.has_buckets = bool(buckets)

    def by_allocation(self, timeline: Timeline) -> dict[int, Category]:
        """Category by the id of each claimed allocation; the last claim holds."""
        by_key: dict[int, list[Allocation]] = {}
        for a in timeline.allocations:
            by_key.setdefault(a.key, []).append(a)
        owners = {
            id(a): self.before[a.key]
            for a in timeline.allocations
            if a.born < 0 and a.key in self.before
        }
        for position, key, category in self.later:
            for a in by_key.get(key, ()):
                if a.alive_at(position):
                    owners[id(a)] = category
        return owners


def composition(timeline: Timeline, position: int, claims: AllocationClaims) -> dict[Category, int]:
    """Bytes alive at `position` by category; they add up to the live bytes exactly. Nobody's is
    `unattributed`."""
    owners = claims.by_allocation(timeline)
    lifetimes = Lifetimes(timeline.spans(), has_buckets=claims.has_buckets)
    sizes: dict[Category, int] = {}
    for a in timeline.allocations:
        if a.alive_at(position):
            category = owners.get(id(a)) or lifetimes.category(a.born, a.died)
            sizes[category] = sizes.get(category, 0) + a.size_bytes
    return {c: sizes[c] for c in CATEGORIES if c in sizes}


def completed(sizes: Mapping[Category, int], peak_bytes: int) -> dict[Category, int]:
    """`sizes` with what is missing to `peak_bytes`, more or less than nothing, as
    `unattributed`."""
    known: dict[Category, int] = {c: n for c, n in sizes.items() if c != "unattributed"}
    known["unattributed"] = peak_bytes - sum(known.values())
    return known
