"""What CUDA's caching allocator makes of the births and deaths of storages: the bytes it hands out,
and those it reserves.

A simulation of c10/cuda/CUDACachingAllocator.cpp for one stream and default settings; all sizes in
bytes. A request is rounded to 512 bytes and served from the smallest free block that fits, else
from a new segment of the driver. Blocks are split on taking and joined within their segment on
freeing. Three figures differ: requested (what the tensors need), allocated (whole blocks: rounding,
and tails too small to split off) and reserved (segments; what nvidia-smi shows, less context and
other libraries).

Two things the source does not settle. New segments lie above earlier ones here, where the driver
may put them anywhere: that decides between free blocks of one size. And an expandable region never
runs out of addresses."""

import sys
from bisect import bisect_left, insort
from collections.abc import Sequence
from copy import copy
from operator import length_hint
from typing import NamedTuple, Self

from lora_profiler.units import MIB

# --- the allocator --------------------------------------------------------------------------------

# In c10/core/AllocatorConfig.h: kMinBlockSize, kSmallSize, kSmallBuffer, large_segment_size,
# kMinLargeAlloc, kRoundLarge.
BLOCK = 512
"""Every block is a multiple of this."""
SMALL_REQUEST = MIB
"""The largest request, rounded, for the small pool. The large pool leaves tails of up to this size
with their block."""
SMALL_SEGMENT = 2 * MIB
LARGE_SEGMENT = 20 * MIB
"""Segment of the large pool for requests below `OWN_SEGMENT`; from there on, each gets its own, a
multiple of `GRAIN`."""
OWN_SEGMENT = 10 * MIB
GRAIN = 2 * MIB
"""Segments are multiples of this, so capacities between two multiples do not differ."""

EMPTY_CACHE = -(1 << 62)
"""Among the events of a replay: segments without a live block go back to the driver, as
torch.cuda.empty_cache() does."""

# A block is one integer, its size above its address: sorted blocks are in the order of best fit.
_BITS = 52
_ADDRESS = (1 << _BITS) - 1


def size_of(block: int) -> int:
    return block >> _BITS


class SimulatedOutOfMemoryError(Exception):
    """The replay does not complete on a card of this capacity."""

    def __init__(self, capacity_bytes: int | None) -> None:
        super().__init__(f"out of memory on a simulated GPU of {capacity_bytes} bytes")
        self.capacity_bytes = capacity_bytes


class AllocatorPeak(NamedTuple):
    """The largest value of each counter over a replay; the three need not fall together."""

    requested_bytes: int
    allocated_bytes: int
    reserved_bytes: int


class SimulatedCard:
    """The driver: what is reserved of it, and the peak of that."""

    def __init__(self, capacity_bytes: int | None) -> None:
        self.capacity = capacity_bytes
        self.reserved = self.peak = 0

    def reserve(self, size: int) -> bool:
        if self.capacity is not None and self.reserved + size > self.capacity:
            return False
        self.reserved += size
        self.peak = max(self.peak, self.reserved)
        return True


class Pool:
    """The free blocks of the small or the large pool: `free` in the order of best fit, and under
    both of their `ends`.

    Segments lie apart and free neighbours are joined, so an address is an end of one free block at
    most.
    """

    def __init__(self, card: SimulatedCard, small: bool) -> None:
        self.card, self.small = card, small
        self.largest_tail = 0 if small else SMALL_REQUEST
        self.free: list[int] = []
        self.ends: dict[int, int] = {}
        self.segments: dict[int, int] = {}
        self.top = 0

    def copy(self, card: SimulatedCard) -> Self:
        """The same blocks on another card."""
        other = copy(self)
        other.card, other.free = card, self.free.copy()
        other.ends, other.segments = self.ends.copy(), self.segments.copy()
        return other

    def take(self, size: int) -> int:
        """A block for `size` bytes, a multiple of `BLOCK`; 0 when neither the pool nor the driver
        has room."""
        at = self.fit(size)
        if at == len(self.free):
            return self.take(size) if self.grow(size) else 0
        block = self.free.pop(at)
        start, whole = block & _ADDRESS, block >> _BITS
        ends, middle, end = self.ends, start + size, start + whole
        del ends[start]
        if whole - size <= self.largest_tail:
            del ends[end]
            return block
        rest = end - middle << _BITS | middle
        ends[middle] = ends[end] = rest
        insort(self.free, rest)
        return size << _BITS | start

    def give(self, block: int) -> None:
        """Frees a block, joined with its free neighbours."""
        free, ends = self.free, self.ends
        start = block & _ADDRESS
        end = start + (block >> _BITS)
        if start in ends:
            left = ends.pop(start)
            del free[bisect_left(free, left)]
            start = left & _ADDRESS
        if end in ends:
            right = ends.pop(end)
            del free[bisect_left(free, right)]
            end += right >> _BITS
        block = end - start << _BITS | start
        ends[start] = ends[end] = block
        insort(free, block)

    def withdraw(self, block: int) -> None:
        """Takes a free block out of the pool, whole."""
        start = block & _ADDRESS
        del (
            self.free[bisect_left(self.free, block)],
            self.ends[start],
            self.ends[start + (block >> _BITS)],
        )

    @property
    def newest(self) -> int:
        """The last segment, as a block."""
        start = next(reversed(self.segments))
        return self.segments[start] << _BITS | start

    def fit(self, size: int) -> int:
        """Index in `free` of the block to take; its length for none."""
        return bisect_left(self.free, size << _BITS)

    def grow(self, size: int) -> bool:
        """Whether the driver had room for a segment for `size`; it lies free in the pool then."""
        segment = (
            SMALL_SEGMENT
            if self.small
            else LARGE_SEGMENT
            if size < OWN_SEGMENT
            else -(-size // GRAIN) * GRAIN
        )
        if not self.card.reserve(segment):
            return False
        self.segments[self.top] = segment
        self.give(segment << _BITS | self.top)
        self.top += segment + GRAIN
        return True

    def release(self) -> None:
        """Returns segments without a live block to the driver."""
        for block in [b for b in self.free if self.segments.get(b & _ADDRESS) == b >> _BITS]:
            self.withdraw(block)
            self.card.reserved -= self.segments.pop(block & _ADDRESS)


class ExpandablePool(Pool):
    """A pool with expandable segments: one region of addresses, backed by memory page by page;
    `holes` (start: end) are not."""

    def __init__(self, card: SimulatedCard, small: bool) -> None:
        super().__init__(card, small)
        self.largest_tail = 0
        self.page = SMALL_SEGMENT if small else LARGE_SEGMENT
        self.holes = {0: _ADDRESS}

    def copy(self, card: SimulatedCard) -> Self:
        other = super().copy(card)
        other.holes = self.holes.copy()
        return other

    def fit(self, size: int) -> int:
        """As the source has it, a block before a hole counts as large as it could grow, and so is
        passed over for the next."""
        at, free = super().fit(size), self.free
        while at + 1 < len(free) and self._room(free[at]) > self._room(free[at + 1]):
            at += 1
        return at

    def _room(self, block: int) -> int:
        end = (block & _ADDRESS) + (block >> _BITS)
        return self.holes.get(end, end) - (block & _ADDRESS)

    def grow(self, size: int) -> bool:
        """Backs the lowest addresses where `size` fits. What was backed before the driver refuses
        stays, free."""
        for at in sorted(self.holes):
            start = self.ends.get(at, at) & _ADDRESS
            if self._is_clear(start, size):
                break
        while at - start < size:
            hole_end = self.holes.pop(at)
            backed = -(-min(start + size, hole_end) // self.page) * self.page - at
            if not self.card.reserve(backed):
                self.holes[at] = hole_end
                return False
            if at + backed < hole_end:
                self.holes[at + backed] = hole_end
            self.give(backed << _BITS | at)
            at = start + (self.ends[start] >> _BITS)
        return True

    def _is_clear(self, start: int, size: int) -> bool:
        """Whether holes and free blocks alone make up `size` bytes from `start` on."""
        at = start
        while at - start < size:
            block = self.ends.get(at, 0)
            if at in self.holes:
                at = self.holes[at]
            elif block and block & _ADDRESS == at:
                at += block >> _BITS
            else:
                return False
        return True

    def release(self) -> None:
        """Returns the pages on which nothing lives to the driver."""
        for block in self.free.copy():
            start = block & _ADDRESS
            end = start + (block >> _BITS)
            first, last = -(-start // self.page) * self.page, end // self.page * self.page
            if first < last:
                self.withdraw(block)
                for a, b in ((start, first), (last, end)):
                    if a < b:
                        self.give(b - a << _BITS | a)
                self.holes[first] = last
                self.card.reserved -= last - first
        for start in sorted(self.holes, reverse=True):
            end = self.holes[start]
            self.holes[start] = self.holes.pop(end, end)


class Allocator:
    """Both pools of a card."""

    def __init__(
        self, capacity_bytes: int | None = None, expandable_segments: bool = False
    ) -> None:
        self.card = SimulatedCard(capacity_bytes)
        kind = ExpandablePool if expandable_segments else Pool
        self.small, self.large = kind(self.card, small=True), kind(self.card, small=False)

    def copy(self) -> "Allocator":
        other = copy(self)
        other.card = copy(self.card)
        other.small, other.large = (pool.copy(other.card) for pool in (self.small, self.large))
        return other

    def allocate(self, size: int) -> int:
        """The block for a storage of `size` bytes, of which there is at least one."""
        size = -(-size // BLOCK) * BLOCK
        pool = self.pool_for(size)
        return pool.take(size) or self._taken_after_release(pool, size)

    def _taken_after_release(self, pool: Pool, size: int) -> int:
        self.release()
        if block := pool.take(size):
            return block
        raise SimulatedOutOfMemoryError(self.card.capacity)

    def release(self) -> None:
        self.large.release()
        self.small.release()

    def pool_for(self, size: int) -> Pool:
        return self.small if size <= SMALL_REQUEST else self.large

    def free(self, block: int) -> None:
        # A block of the small pool is as large as its request: its tails are always split off.
        self.pool_for(size_of(block)).give(block)


def replay(
    sizes: Sequence[int],
    events: Sequence[int],
    *,
    capacity_bytes: int | None = None,
    expandable_segments: bool = False,
) -> AllocatorPeak:
    """The peaks over `events`: i is the birth of storage i of sizes[i] bytes, ~i its death, or
    `EMPTY_CACHE`. An empty storage takes no block.

    With a capacity, of the memory left for segments, a full card makes the allocator release what
    it can and ask once more. Raises SimulatedOutOfMemoryError where that is not enough.
    """
    return _replayed(sizes, events, Allocator(capacity_bytes, expandable_segments), None)


def timeline(
    sizes: Sequence[int],
    events: Sequence[int],
    *,
    capacity_bytes: int | None = None,
    expandable_segments: bool = False,
) -> list[tuple[int, int, int]]:
    """Requested, allocated and reserved bytes after each event of a `replay`."""
    after: list[tuple[int, int, int]] = []
    _replayed(sizes, events, Allocator(capacity_bytes, expandable_segments), after)
    return after


def _replayed(
    sizes: Sequence[int],
    events: Sequence[int],
    allocator: Allocator,
    after: list[tuple[int, int, int]] | None,
) -> AllocatorPeak:
    card, allocate, free = allocator.card, allocator.allocate, allocator.free
    live: dict[int, int] = {}
    requested = allocated = most_requested = most_allocated = 0
    for event in events:
        if event >= 0:
            if size := sizes[event]:
                live[event] = block = allocate(size)
                requested += size
                allocated += block >> _BITS
                if requested > most_requested:
                    most_requested = requested
                if allocated > most_allocated:
                    most_allocated = allocated
            else:
                live[event] = 0
        elif event == EMPTY_CACHE:
            allocator.release()
        elif block := live.pop(~event):
            free(block)
            requested -= sizes[~event]
            allocated -= block >> _BITS
        if after is not None:
            after.append((requested, allocated, card.reserved))
    return AllocatorPeak(
        requested_bytes=most_requested, allocated_bytes=most_allocated, reserved_bytes=card.peak
    )


# --- the smallest card on which a replay completes ------------------------------------------------


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

    def reserved_on(self, capacity_bytes: int) -> int | None:
        """The most that a `replay` with so much memory for segments reserves; None where it does
        not go through."""
        if not self.completes(capacity_bytes):
            return None
        return next(least for least, most in self._completed if least <= capacity_bytes <= most)

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
