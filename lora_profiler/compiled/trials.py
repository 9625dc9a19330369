"""On how small a card a replay of the simulated allocator still completes."""

import sys
from collections.abc import Sequence
from copy import copy

from lora_profiler.compiled.allocator import BLOCK, EMPTY_CACHE, GRAIN, Allocator, SimulatedOutOfMemoryError


class _Walk:
    """A replay that can stop before an event, be copied, and go on from there on another card."""

    def __init__(self, sizes: Sequence[int], events: Sequence[int], *, expandable: bool) -> None:
        """`sizes` are whole blocks."""
        self._sizes, self._events = sizes, events
        self._at, self._blocks = 0, [0] * len(sizes)
        self.allocator = Allocator(None, expandable)

    def copy(self) -> "_Walk":
        other = copy(self)
        other._blocks = self._blocks.copy()
        other.allocator = self.allocator.copy()
        return other

    def go_on(self, capacity: int, *, releases: bool) -> bool:
        """Whether it came to the end on a card of this capacity. Where that is full it `releases`
        what it can, and stops where that is not enough; else it stops at once, with nothing
        changed."""
        allocator, blocks = self.allocator, self._blocks
        allocator.card.capacity = capacity
        while (full := allocator.serve(self._sizes, self._events, blocks, self._at)) < len(
            self._events
        ):
            self._at = full
            if not releases:
                return False
            asked = self._events[full]
            try:
                blocks[asked] = allocator.allocate(self._sizes[asked])
            except SimulatedOutOfMemoryError:
                return False
            self._at += 1
        self._at = full
        return True


class Trials:
    """The same events on cards of several capacities, none replayed twice.

    Until the driver first refuses, a replay on a small card is that on a larger one, so that all
    begin where the smallest that is still in question was full.
    """

    def __init__(
        self, sizes: Sequence[int], events: Sequence[int], *, expandable_segments: bool = False
    ) -> None:
        self._sizes = [-(-size // BLOCK) * BLOCK for size in sizes]
        self._events = [
            event
            for event in events
            if event == EMPTY_CACHE or self._sizes[event if event >= 0 else ~event]
        ]
        self._expandable = expandable_segments
        self._completed: list[tuple[int, int]] = []  # from the least that suffices to the capacity
        self._failed: set[int] = set()
        self._common = 0, _Walk(self._sizes, events, expandable=expandable_segments)

    def completes(self, capacity_bytes: int) -> bool:
        """Whether a `replay` goes through with so much memory for segments."""
        if any(least <= capacity_bytes <= most for least, most in self._completed):
            return True  # the same replay: what was never reserved is not needed
        if capacity_bytes in self._failed:
            return False
        if self._replayed(capacity_bytes):
            return True
        self._failed.add(capacity_bytes)
        return False

    def smallest_capacity(self, within_bytes: int = GRAIN) -> int:
        """The smallest card, a multiple of `GRAIN`, on which a `replay` completes, by bisection.

        It completes on the answer and not on a card `within_bytes` smaller. Memory and success are
        not quite monotone, since a full card releases early, which can leave better gaps: a still
        smaller card may complete by luck, and a larger one fail.
        """
        total = least = 0
        for event in self._events:
            if event != EMPTY_CACHE:
                total += self._sizes[event] if event >= 0 else -self._sizes[~event]
                least = max(least, total)
        too_small = -(-least // GRAIN) * GRAIN - GRAIN
        self._keep(too_small)
        if not self._completed:
            self._replayed(sys.maxsize)
        while (enough := min(self._completed)[0]) - too_small > within_bytes:
            capacity = (too_small + enough) // 2 // GRAIN * GRAIN
            if not self.completes(capacity):
                too_small = capacity
                self._keep(too_small)
        return enough

    def _keep(self, capacity_bytes: int) -> None:
        """Lets replays on larger cards begin where this one is full; nothing smaller is in question
        any more."""
        if capacity_bytes > self._common[0] and not self._expandable:
            self._common[1].go_on(capacity_bytes, releases=False)
            self._common = capacity_bytes, self._common[1]

    def _replayed(self, capacity_bytes: int) -> bool:
        """Whether it completes; with what it reserved."""
        full, common = self._common
        if full > capacity_bytes:
            common = _Walk(self._sizes, self._events, expandable=self._expandable)
        walk = common.copy()
        if not walk.go_on(capacity_bytes, releases=True):
            return False
        self._completed.append((walk.allocator.card.peak, capacity_bytes))
        return True
