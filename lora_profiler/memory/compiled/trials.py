"""On how small a card a replay of the simulated allocator still completes."""

import sys
from bisect import bisect_left, insort
from collections.abc import Sequence
from copy import copy
from operator import length_hint

from lora_profiler.memory.compiled.allocator import (
    _ADDRESS,
    _BITS,
    BLOCK,
    EMPTY_CACHE,
    GRAIN,
    SMALL_REQUEST,
    Allocator,
    Pool,
    SimulatedOutOfMemoryError,
    size_of,
)


class _Walk:
    """A replay that can stop before an event, be copied, and go on from there on another card."""

    def __init__(self, sizes: Sequence[int], events: Sequence[int], *, expandable: bool) -> None:
        """`sizes` are whole blocks."""
        self._sizes, self._events = sizes, events
        self._at, self._blocks = 0, [0] * len(sizes)
        self._out_of = dict[int, int]()  # a block that was split: what it was taken out of
        self.allocator = Allocator(None, expandable)

    def copy(self) -> "_Walk":
        other = copy(self)
        other._blocks, other._out_of = self._blocks.copy(), self._out_of.copy()
        other.allocator = self.allocator.copy()
        return other

    def go_on(self, capacity: int, *, releases: bool, end: int | None = None) -> bool:
        """Whether it came to the `end` on a card of this capacity. Where that is full it `releases`
        what it can, and stops where that is not enough; else it stops at once, with nothing
        changed."""
        allocator, sizes, events, blocks = self.allocator, self._sizes, self._events, self._blocks
        allocator.card.capacity = capacity
        end = len(events) if end is None else end
        while True:
            self._at = _serve(allocator, sizes, events, blocks, self._out_of, self._at, end)
            if self._at == end:
                return True
            if not releases:
                return False
            asked = events[self._at]
            try:
                blocks[asked] = allocator.allocate(sizes[asked])
            except SimulatedOutOfMemoryError:
                return False
            self._at += 1

    def go_on_once_more(self, capacity: int, again: int) -> bool:
        """`go_on` to the end, where the events from number `again` on are as many before them once
        more, of other storages: each of these steps gives back what the one before it left. The
        later one is left out where it can only do the same, and so reserve nothing more.

        That is where it has the same blocks to give back, so that as much is free beside the
        segments that the earlier one asked for; and where none of these had been taken sooner if it
        had been there.
        """
        allocator, sizes, events, blocks = self.allocator, self._sizes, self._events, self._blocks
        begin = 2 * again - len(events)
        if self._at > begin or not self.go_on(capacity, releases=True, end=begin):
            return self.go_on(capacity, releases=True)
        grown: list[tuple[int, Pool, int]] = []
        while not self.go_on(allocator.card.reserved, releases=False, end=again):
            at, reserved = self._at, allocator.card.reserved
            if not self.go_on(capacity, releases=True, end=at + 1):
                return False
            pool = allocator.pool_for(sizes[events[at]])
            segment = self._out_of[events[at]] = pool.newest
            if allocator.card.reserved != reserved + size_of(segment):  # others were released
                return self.go_on(capacity, releases=True)
            grown.append((at, pool, segment))
        earlier = events[begin:again]
        born = set(earlier)
        is_the_same = all(
            blocks[~one] == blocks[~other]
            for one, other in zip(earlier, events[again:], strict=True)
            if one < 0 and ~one not in born
        ) and all(self._spares(begin, *new) for new in grown)
        return is_the_same or self.go_on(capacity, releases=True)

    def _spares(self, begin: int, at: int, pool: Pool, segment: int) -> bool:
        """Whether no request of `pool` from event `begin` to before `at` had taken `segment`: what
        it took comes before it in the order of best fit, or the segment is too small."""
        sizes, blocks, out_of = self._sizes, self._blocks, self._out_of
        return all(
            out_of.get(event, blocks[event]) < segment
            or sizes[event] > size_of(segment)
            or (sizes[event] <= SMALL_REQUEST) is not pool.small
            for event in self._events[begin:at]
            if event >= 0
        )


def _serve(
    allocator: Allocator,
    sizes: Sequence[int],
    events: Sequence[int],
    blocks: list[int],
    out_of: dict[int, int],
    at: int,
    end: int,
) -> int:
    """Serves `events`, as of `replay`, from number `at` to before `end`. Returns the number of
    the first one for which there is no room, without releasing anything; `end` where there is
    room for all.

    `sizes` are whole blocks; `blocks` takes the block of every storage, 0 for an empty one,
    and `out_of` what it was split off.
    What `Pool` does in `take` and `give`, written out for tens of thousands of events.
    """
    small, large = allocator.small, allocator.large
    of_small = small, small.free, small.ends, small.largest_tail
    of_large = large, large.free, large.ends, large.largest_tail
    fits_best = type(large) is Pool
    coming = iter(events[at:end])
    for event in coming:
        if event >= 0:
            size = sizes[event]
            if size > SMALL_REQUEST:
                pool, free, ends, tail = of_large
            elif size:
                pool, free, ends, tail = of_small
            else:
                continue
            high = size << _BITS
            index = bisect_left(free, high) if fits_best else pool.fit(size)
            if index == len(free):
                block = pool.take(size)
                if not block:
                    return end - length_hint(coming) - 1
                blocks[event] = block
                continue
            block = free.pop(index)
            start, whole = block & _ADDRESS, block >> _BITS
            del ends[start]
            if whole - size <= tail:
                del ends[start + whole]
                blocks[event] = block
            else:
                rest = block - high + size
                ends[start + size] = ends[start + whole] = rest
                insort(free, rest)
                blocks[event], out_of[event] = high | start, block
        elif event == EMPTY_CACHE:
            allocator.release()
        else:
            block = blocks[~event]
            whole, start = block >> _BITS, block & _ADDRESS
            if whole > SMALL_REQUEST:
                _, free, ends, _ = of_large
            elif whole:  # in the small pool tails are always split off
                _, free, ends, _ = of_small
            else:
                continue
            behind = start + whole
            if start in ends:
                left = ends.pop(start)
                del free[bisect_left(free, left)]
                start = left & _ADDRESS
                block = behind - start << _BITS | start
            if behind in ends:
                right = ends.pop(behind)
                del free[bisect_left(free, right)]
                behind += right >> _BITS
                block = behind - start << _BITS | start
            ends[start] = ends[behind] = block
            insort(free, block)
    return end


class Trials:
    """The same events on cards of several capacities, none replayed twice.

    Until the driver first refuses, a replay on a small card is that on a larger one, so that all
    begin where the smallest that is still in question was full.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        events: Sequence[int],
        again: int | None = None,
        *,
        expandable_segments: bool = False,
    ) -> None:
        """`again`: see `requests.Requests`."""
        self._sizes = [-(-size // BLOCK) * BLOCK for size in sizes]
        self._events, self._expandable = events, expandable_segments
        self._again = again
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
        done = (
            walk.go_on(capacity_bytes, releases=True)
            if self._again is None or self._expandable
            else walk.go_on_once_more(capacity_bytes, self._again)
        )
        if not done:
            return False
        self._completed.append((walk.allocator.card.peak, capacity_bytes))
        return True
