"""The simulated caching allocator: cases worked out by hand, invariants, and a slow second one
without any structures."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_profiler.memory.compiled import allocator
from lora_profiler.memory.compiled.allocator import (
    Allocator,
    AllocatorPeak,
    ExpandablePool,
    Pool,
    SimulatedOutOfMemoryError,
    Trials,
    replay,
    timeline,
)
from lora_profiler.units import KIB, MIB

# --- worked out by hand ---------------------------------------------------------------------------


def peak(requested: int, allocated: int, reserved: int) -> AllocatorPeak:
    return AllocatorPeak(
        requested_bytes=requested, allocated_bytes=allocated, reserved_bytes=reserved
    )


def births(*sizes: int, **options) -> AllocatorPeak:
    return replay(sizes, range(len(sizes)), **options)


def test_requests_are_rounded_to_512_bytes_and_packed_into_2_mib():
    assert births(1000) == peak(1000, 1024, 2 * MIB)
    assert births(1) == births(1, 0, 0) == peak(1, 512, 2 * MIB)
    assert births(512, 513) == peak(1025, 512 + 1024, 2 * MIB)
    assert births(MIB, MIB) == peak(2 * MIB, 2 * MIB, 2 * MIB)
    assert births(MIB, MIB, 1) == peak(2 * MIB + 1, 2 * MIB + 512, 4 * MIB)


def test_large_requests_share_20_mib():
    # 1000 B: 2 MiB of the small pool. 5 MiB: 20 MiB more, of which 15 stay free. 10 MiB: out of
    # these 15.
    assert births(1000, 5 * MIB).reserved_bytes == 22 * MIB
    assert births(1000, 5 * MIB, 10 * MIB).reserved_bytes == 22 * MIB
    # One byte above 1 MiB is large, and so is what rounds to it; 1 MiB itself is small.
    assert births(MIB + 1).reserved_bytes == 20 * MIB
    assert births(MIB - 1).reserved_bytes == births(MIB).reserved_bytes == 2 * MIB


def test_from_10_mib_on_a_request_has_its_own_segment_with_its_tail():
    # 10 MiB is five times 2 MiB. 11 MiB + 1 B rounds to 11 MiB + 512 B, in a segment of 12 MiB: a
    # tail of 1 MiB - 512 B is not above 1 MiB, so the block is 12 MiB. 10 MiB - 1 B rounds to 10
    # MiB.
    assert births(10 * MIB) == peak(10 * MIB, 10 * MIB, 10 * MIB)
    assert births(10 * MIB, 11 * MIB + 1) == peak(21 * MIB + 1, 22 * MIB, 22 * MIB)
    assert births(10 * MIB - 1) == peak(10 * MIB - 1, 10 * MIB, 10 * MIB)
    # One block less shares 20 MiB.
    assert births(10 * MIB - 512) == peak(10 * MIB - 512, 10 * MIB - 512, 20 * MIB)


def test_tails_of_the_large_pool_are_split_off_above_1_mib():
    # 19 MiB are left of 20 behind the first; a request of 18 MiB would leave exactly 1 MiB, which
    # stays; 512 B less and it goes.
    first = MIB + 512
    rest = 20 * MIB - first
    at_the_limit, below = rest - MIB, rest - MIB - 512
    assert births(first, at_the_limit) == peak(first + at_the_limit, 20 * MIB, 20 * MIB)
    assert births(first, below) == peak(first + below, first + below, 20 * MIB)


def test_freed_neighbours_join():
    # Three blocks fill 20 MiB (5 + 5 + 10). With the outer two free, 11 MiB do not fit; with all
    # free they do.
    sizes = (5 * MIB, 5 * MIB, 9 * MIB + 512 * KIB, 11 * MIB)
    assert replay(sizes, (0, 1, 2, ~0, ~2, 3)).reserved_bytes == 32 * MIB
    assert replay(sizes, (0, 1, 2, ~0, ~2, ~1, 3)).reserved_bytes == 20 * MIB
    # As many orders of dying as there are, the segment is whole again in the end.
    for order in ((~0, ~1, ~2), (~1, ~0, ~2), (~1, ~2, ~0), (~2, ~1, ~0)):
        assert replay(sizes, (0, 1, 2, *order, 3)).reserved_bytes == 20 * MIB


def test_the_smallest_block_that_fits_is_taken_and_the_lowest_of_equals():
    # Free segments of 14 and 12 MiB. 11 MiB take the one of 12 (tail 1 MiB: whole); 14 MiB are left
    # for the next.
    sizes = (14 * MIB, 12 * MIB, 11 * MIB, 14 * MIB)
    assert replay(sizes, (0, 1, ~0, ~1, 2, 3)) == peak(26 * MIB, 26 * MIB, 26 * MIB)
    two = Pool(allocator.SimulatedCard(None), small=False)
    blocks = [two.take(12 * MIB) for _ in range(3)]
    for block in reversed(blocks):
        two.give(block)
    assert [two.take(12 * MIB) for _ in range(3)] == blocks


def test_peaks_need_not_fall_together():
    # 11 MiB + 1 B hold 12 MiB; later 11.5 MiB are requested in the same block, and it is reserved
    # all the while.
    sizes = (11 * MIB + 1, 11 * MIB + 512 * KIB)
    events = (0, ~0, 1, ~1)
    assert timeline(sizes, events) == [
        (11 * MIB + 1, 12 * MIB, 12 * MIB),
        (0, 0, 12 * MIB),
        (11 * MIB + 512 * KIB, 12 * MIB, 12 * MIB),
        (0, 0, 12 * MIB),
    ]
    assert replay(sizes, events) == peak(11 * MIB + 512 * KIB, 12 * MIB, 12 * MIB)
    assert replay((), ()) == peak(0, 0, 0)
    assert timeline((0,), (0, ~0)) == [(0, 0, 0)] * 2


def test_a_full_card_makes_the_allocator_release_and_retry():
    # 10 MiB, dead, lie in the way of 12. Unlimited, both stay reserved; on 12 MiB the first is
    # released.
    assert replay((10 * MIB, 12 * MIB), (0, ~0, 1)).reserved_bytes == 22 * MIB
    assert (
        replay((10 * MIB, 12 * MIB), (0, ~0, 1), capacity_bytes=12 * MIB).reserved_bytes == 12 * MIB
    )
    assert Trials((10 * MIB, 12 * MIB), (0, ~0, 1)).smallest_capacity() == 12 * MIB
    # The 10 MiB fit behind the 4 of a segment of 20, the 17 do not, and the 4 are live: 20 + 18,
    # with a tail of 1.
    sizes, events = (4 * MIB, 10 * MIB, 17 * MIB), (0, 1, ~1, 2)
    assert replay(sizes, events, capacity_bytes=38 * MIB) == peak(21 * MIB, 22 * MIB, 38 * MIB)
    assert Trials(sizes, events).smallest_capacity() == 38 * MIB
    with pytest.raises(SimulatedOutOfMemoryError, match=f"GPU of {37 * MIB} bytes") as e:
        replay(sizes, events, capacity_bytes=37 * MIB)
    assert e.value.capacity_bytes == 37 * MIB


def test_both_pools_are_released():
    # A dead small segment (2 MiB) and a dead large one (20 MiB) make room for 22 MiB.
    assert (
        replay((1, 2 * MIB, 22 * MIB), (0, 1, ~0, ~1, 2), capacity_bytes=22 * MIB).reserved_bytes
        == 22 * MIB
    )
    assert replay((22 * MIB, 1), (0, ~0, 1), capacity_bytes=22 * MIB).reserved_bytes == 22 * MIB


def test_deaths_without_a_birth_are_refused():
    for events in ((~0,), (0, ~0, ~0)):
        with pytest.raises(KeyError):
            replay((1,), events)


# --- expandable segments, by hand -----------------------------------------------------------------


def expanded(sizes: Sequence[int], events: Sequence[int], **options) -> AllocatorPeak:
    return replay(sizes, events, expandable_segments=True, **options)


def test_one_region_grows_by_pages():
    # 5 + 30 MiB are two pages of 20 MiB. Both dead, they are one block of 40 MiB, for 36.
    sizes = (5 * MIB, 30 * MIB, 36 * MIB, 41 * MIB)
    assert expanded(sizes, (0,)).reserved_bytes == 20 * MIB
    assert expanded(sizes, (0, 1)) == peak(35 * MIB, 35 * MIB, 40 * MIB)
    assert expanded(sizes, (0, 1, ~0, ~1, 2)) == peak(36 * MIB, 36 * MIB, 40 * MIB)
    assert expanded(sizes, (0, 1, ~0, ~1, 3)).reserved_bytes == 60 * MIB
    # Only the end grows: behind a live block of 30 MiB, 5 free MiB of the last page help 36 MiB;
    # the 5 before it do not.
    assert expanded(sizes, (0, 1, ~0, 2)).reserved_bytes == 80 * MIB
    # The small pool's pages are 2 MiB.
    assert expanded((MIB, MIB, 512), (0, 1, 2)) == peak(2 * MIB + 512, 2 * MIB + 512, 4 * MIB)


def test_every_tail_is_split_off():
    assert expanded((11 * MIB + 1,), (0,)) == peak(11 * MIB + 1, 11 * MIB + 512, 20 * MIB)


def test_the_end_of_the_region_is_passed_over_for_a_larger_block():
    # Free: 10 MiB at the start, 8 MiB at the end of two pages (10 + 22 + 8). 8 MiB fit the end
    # best, but it can grow; so the start is taken, and 28 MiB then need one page more: 8 + 20. Had
    # the end been taken, they would need two.
    sizes = (10 * MIB, 22 * MIB, 8 * MIB, 28 * MIB)
    assert expanded(sizes, (0, 1, ~0, 2, 3)).reserved_bytes == 60 * MIB


def test_pages_without_anything_live_are_released():
    # Five pages: 10 live, 75 dead, 15 live. Pages 1 to 3 (20 to 80) are released for a card's other
    # pool, 10 to 20 and 80 to 85 stay. On 100 MiB, 41 small MiB need 42: 40 are left and 2.
    sizes = (10 * MIB, 75 * MIB, 15 * MIB, *[MIB] * 41)
    events = (0, 1, 2, ~1, *range(3, 44))
    assert expanded(sizes, events, capacity_bytes=100 * MIB).reserved_bytes == 100 * MIB
    assert timeline(sizes, events, capacity_bytes=100 * MIB, expandable_segments=True)[-1] == (
        66 * MIB,
        66 * MIB,
        82 * MIB,
    )
    # The hole is filled again, from the dead end of the page below it on: 10 + 60 + 5 MiB hold 75
    # without another page.
    again = (*events[:4], 3, ~3, 4)
    filled = (*sizes[:3], MIB, 75 * MIB)
    assert expanded(filled, again, capacity_bytes=100 * MIB + 2 * MIB) == peak(
        100 * MIB, 100 * MIB, 102 * MIB
    )
    assert Trials(filled, again, expandable_segments=True).smallest_capacity() == 100 * MIB


# --- a second one ---------------------------------------------------------------------------------

UNIT = 512


@dataclass
class Slow:
    """Memory by its ranges, (start, end) in units of 512 bytes: what the driver gave and what
    lives; the rest is worked out anew.

    Both are kept for the small pool and the large one; with expandable segments, what was given are
    pages.
    """

    capacity: float
    expandable: bool
    given: list[set[tuple[int, int]]] = field(default_factory=lambda: [set(), set()])
    live: list[dict[int, tuple[int, int]]] = field(default_factory=lambda: [{}, {}])
    next_segment: int = 0
    most_reserved: int = 0

    def reserved(self) -> int:
        return sum(end - start for pool in self.given for start, end in pool)

    def ranges(self, pool: int) -> list[tuple[int, int]]:
        """Segments, or runs of pages."""
        found: list[tuple[int, int]] = []
        for start, end in sorted(self.given[pool]):
            if self.expandable and found and found[-1][1] == start:
                found[-1] = (found[-1][0], end)
            else:
                found.append((start, end))
        return found

    def gaps(self, pool: int) -> list[tuple[int, int]]:
        """Free blocks: what is given and does not live."""
        found = []
        for start, end in self.ranges(pool):
            at = start
            for a, b in sorted(x for x in self.live[pool].values() if start <= x[0] < end):
                if at < a:
                    found.append((at, a))
                at = b
            if at < end:
                found.append((at, end))
        return found

    def birth(self, number: int, size: int) -> None:
        units = max(1, -(-size // UNIT))
        pool = 0 if units <= MIB // UNIT else 1
        block = self.found(pool, units)
        if block is None and not self.grown(pool, units):
            self.release()
            if not self.grown(pool, units):
                raise MemoryError
        start, end = block or self.found(pool, units)
        tail = end - start - units
        keeps_tail = pool == 1 and not self.expandable and tail <= MIB // UNIT
        self.live[pool][number] = (start, end if keeps_tail else start + units)

    def found(self, pool: int, units: int) -> tuple[int, int] | None:
        fitting = sorted((b - a, a, b) for a, b in self.gaps(pool) if b - a >= units)
        if not fitting:
            return None
        if self.expandable:
            # A block that ends where no page is could grow up to the next one. Through the list,
            # while the next grows less.
            runs = [*self.ranges(pool), (float("inf"), 0)]
            grown = {end: following for (_, end), (following, _) in pairwise(runs)}
            while len(fitting) > 1 and grown.get(fitting[1][2], fitting[1][2]) - fitting[1][1] < (
                grown.get(fitting[0][2], fitting[0][2]) - fitting[0][1]
            ):
                del fitting[0]
        return fitting[0][1:]

    def give(self, pool: int, start: int, end: int) -> bool:
        if self.reserved() + end - start > self.capacity / UNIT:
            return False
        self.given[pool].add((start, end))
        self.most_reserved = max(self.most_reserved, self.reserved())
        return True

    def grown(self, pool: int, units: int) -> bool:
        if not self.expandable:
            mib = units * UNIT / MIB
            size = 2 if pool == 0 else 20 if mib < 10 else 2 * -(-mib // 2)
            start = self.next_segment
            self.next_segment += 10**9
            return self.give(pool, start, start + int(size * MIB // UNIT))
        page = (2, 20)[pool] * MIB // UNIT
        taken = sorted(self.live[pool].values())
        pages = {a // page for a, _ in self.given[pool]}
        # The lowest unbacked page behind a backed one such that, from the free block before it on,
        # nothing lives in `units`.
        for number in count():
            if number not in pages and (number == 0 or number - 1 in pages):
                start = next((a for a, b in self.gaps(pool) if b == number * page), number * page)
                if not any(a < start + units and b > start for a, b in taken):
                    break
        # Run by run of unbacked pages, each wholly or not at all.
        run: list[int] = []
        for n in [*range(number, -(-(start + units) // page)), None]:
            if n is not None and n not in pages:
                run.append(n)
            elif run:
                if self.reserved() + len(run) * page > self.capacity / UNIT:
                    return False
                assert all(self.give(pool, r * page, (r + 1) * page) for r in run)
                run = []
        return True

    def release(self) -> None:
        for pool, live in enumerate(self.live):
            self.given[pool] = {
                (start, end)
                for start, end in self.given[pool]
                if any(a < end and b > start for a, b in live.values())
            }

    def death(self, number: int) -> None:
        for pool in self.live:
            pool.pop(number, None)

    def allocated(self) -> int:
        return sum(b - a for pool in self.live for a, b in pool.values())


def slow_timeline(
    sizes, events, capacity: float, expandable: bool
) -> tuple[list[tuple[int, int, int]], int]:
    """As `timeline`; and the peak of reserved bytes, which can fall within an event."""
    slow = Slow(capacity, expandable)
    requested, after = 0, []
    for event in events:
        if event < 0:
            slow.death(~event)
            requested -= sizes[~event]
        elif sizes[event]:
            slow.birth(event, sizes[event])
            requested += sizes[event]
        after.append((requested, slow.allocated() * UNIT, slow.reserved() * UNIT))
    return after, slow.most_reserved * UNIT


EDGES = (512, MIB, 2 * MIB, 4 * MIB, 10 * MIB, 11 * MIB, 12 * MIB, 20 * MIB, 30 * MIB, 40 * MIB)


def random_load(seed: int, most_events: int = 90) -> tuple[list[int], list[int]]:
    """Storages around the sizes where rules change; how many live goes up and down as in the phases
    of a step."""
    r = random.Random(seed)
    sizes: list[int] = []
    events: list[int] = []
    alive: list[int] = []
    left = r.randint(1, most_events)
    while left > 0:
        near = [0, 1, -1, 512, -512, 100 * KIB, r.randrange(4 * MIB)]
        palette = [max(0, r.choice(EDGES) + r.choice(near)) for _ in range(r.randint(1, 4))]
        dying = r.choice((0.1, 0.5, 0.9))
        for _ in range(r.randint(1, 20)):
            left -= 1
            if alive and r.random() < dying:
                events.append(~alive.pop(r.randrange(len(alive))))
            else:
                alive.append(len(sizes))
                events.append(len(sizes))
                sizes.append(r.choice(palette))
    return sizes, events


@pytest.mark.parametrize("expandable", [False, True])
def test_equal_to_the_slow_one_without_a_limit(expandable: bool):
    for seed in range(1000):
        sizes, events = random_load(seed)
        after, reserved = slow_timeline(sizes, events, float("inf"), expandable)
        assert timeline(sizes, events, expandable_segments=expandable) == after, seed
        found = replay(sizes, events, expandable_segments=expandable)
        assert found == peak(max(a for a, _, _ in after), max(b for _, b, _ in after), reserved), (
            seed
        )


@pytest.mark.parametrize("expandable", [False, True])
def test_equal_to_the_slow_one_on_full_cards(expandable: bool):
    completed = failed = pressed = 0
    for seed in range(1000):
        sizes, events = random_load(seed)
        unlimited = replay(sizes, events, expandable_segments=expandable)
        least = Trials(sizes, events, expandable_segments=expandable).smallest_capacity()
        capacity = random.Random(seed).randint(
            max(0, least - 3 * MIB), max(least, unlimited.reserved_bytes - 1)
        )
        options = {"capacity_bytes": capacity, "expandable_segments": expandable}
        try:
            after, reserved = slow_timeline(sizes, events, capacity, expandable)
        except MemoryError:
            failed += 1
            with pytest.raises(SimulatedOutOfMemoryError):
                replay(sizes, events, **options)
        else:
            completed += 1
            assert timeline(sizes, events, **options) == after, seed
            assert replay(sizes, events, **options).reserved_bytes == reserved <= capacity, seed
            pressed += reserved < unlimited.reserved_bytes
    assert completed > pressed > 150 < failed, (completed, pressed, failed)


# --- invariants -----------------------------------------------------------------------------------

SIZES = st.one_of(
    st.integers(1, 3 * MIB),
    st.integers(1, 64 * MIB),
    st.sampled_from(EDGES),
    st.builds(
        lambda edge, off: edge + off, st.sampled_from(EDGES), st.sampled_from((1, -1, 512, -511))
    ),
)
LOADS = st.lists(st.tuples(SIZES, st.integers(0, 2**16), st.booleans()), min_size=1, max_size=80)


def steps(
    load, capacity: int | None, expandable: bool
) -> Iterator[tuple[Allocator, dict[int, int]]]:
    """The allocator and the live blocks (block: requested) after each event; what does not fit is
    left out; all die at last."""
    one = Allocator(capacity, expandable)
    live: dict[int, int] = {}
    for size, pick, dies in load:
        if dies and live:
            block = list(live)[pick % len(live)]
            one.free(block)
            del live[block]
        else:
            try:
                block = one.allocate(size)
            except SimulatedOutOfMemoryError:
                assert capacity is not None
            else:
                assert block not in live
                live[block] = size
        yield one, live
    for block in live:
        one.free(block)
    live.clear()
    yield one, live


def span(block: int) -> tuple[int, int]:
    start = block & allocator._ADDRESS
    return start, start + (block >> allocator._BITS)


def size_of(block: int) -> int:
    return block >> allocator._BITS


@pytest.mark.parametrize("expandable", [False, True])
@pytest.mark.parametrize("capacity", [None, 100 * MIB])
@given(load=LOADS)
def test_invariants(expandable: bool, capacity: int | None, load):
    allocated = 0
    for one, live in steps(load, capacity, expandable):
        for pool, is_small in ((one.small, True), (one.large, False)):
            mine = [b for b in live if (size_of(b) <= MIB) == is_small]
            blocks = sorted(
                [(*span(b), True) for b in pool.free] + [(*span(b), False) for b in mine]
            )
            assert pool.free == sorted(pool.free)
            assert pool.ends == {end: b for b in pool.free for end in span(b)}
            # Blocks do not overlap; they lie in what is reserved, fill it, and two free ones never
            # touch.
            for (_, end, free), (start, _, next_free) in pairwise(blocks):
                assert end <= start and not (end == start and free and next_free)
            if isinstance(pool, ExpandablePool):
                unbacked = [(a, b, False) for a, b in pool.holes.items()]
                assert all(a % pool.page == 0 for a, _, _ in unbacked)
                whole = sorted(blocks + unbacked)
                assert whole[0][0] == 0 and whole[-1][1] == allocator._ADDRESS
                assert all(a[1] == b[0] for a, b in pairwise(whole))
                assert not {a for a, _, _ in unbacked} & {b for _, b, _ in unbacked}
            else:
                for start, size in pool.segments.items():
                    inside = [b for b in blocks if start <= b[0] < start + size]
                    assert inside[0][0] == start and inside[-1][1] == start + size
                    assert all(a[1] == b[0] for a, b in pairwise(inside))
                assert sum(pool.segments.values()) == sum(b - a for a, b, _ in blocks)
        allocated = sum(map(size_of, live))
        free = sum(map(size_of, one.small.free + one.large.free))
        assert allocated + free == one.card.reserved <= one.card.peak <= (capacity or one.card.peak)
        for block, requested in live.items():
            tail = size_of(block) - -(-requested // 512) * 512
            assert tail == 0 or (0 < tail <= MIB < requested and not expandable)
    assert not live and allocated == 0


@given(load=LOADS)
def test_without_deaths_expandable_segments_reserve_the_least_pages(load):
    sizes = [size for size, _, _ in load]
    small = sum(-(-s // 512) * 512 for s in sizes if s <= MIB)
    large = sum(-(-s // 512) * 512 for s in sizes if s > MIB)
    pages = -(-small // (2 * MIB)) * 2 * MIB + -(-large // (20 * MIB)) * 20 * MIB
    assert expanded(sizes, range(len(sizes))) == peak(sum(sizes), small + large, pages)


# --- the smallest GPU ----------------------------------------------------------------------------


def completes(sizes, events, capacity: int, expandable: bool) -> bool:
    try:
        replay(sizes, events, capacity_bytes=capacity, expandable_segments=expandable)
    except SimulatedOutOfMemoryError:
        return False
    return True


@pytest.mark.parametrize("expandable", [False, True])
def test_the_smallest_card_completes_and_the_next_smaller_one_does_not(expandable: bool):
    below_unlimited = 0
    for seed in range(500):
        sizes, events = random_load(seed)
        unlimited = replay(sizes, events, expandable_segments=expandable)
        least = Trials(sizes, events, expandable_segments=expandable).smallest_capacity()
        assert unlimited.requested_bytes <= least <= unlimited.reserved_bytes
        assert least % (2 * MIB) == 0
        assert least == 0 or completes(sizes, events, least, expandable)
        assert least == 0 or not completes(sizes, events, least - 2 * MIB, expandable)
        below_unlimited += least < unlimited.reserved_bytes
    assert below_unlimited > 100


@pytest.mark.parametrize("expandable", [False, True])
def test_it_is_nearly_always_the_limit(expandable: bool):
    # Of all cards from the requested bytes to the unlimited reserve, those from the answer on
    # complete, and no others; but for about one load in fifty, where early releases happen to leave
    # better gaps.
    odd = 0
    for seed in range(200):
        sizes, events = random_load(seed)
        unlimited = replay(sizes, events, expandable_segments=expandable)
        least = Trials(sizes, events, expandable_segments=expandable).smallest_capacity()
        cards = range(
            unlimited.requested_bytes // (2 * MIB) * 2 * MIB, unlimited.reserved_bytes + 1, 2 * MIB
        )
        odd += any(completes(sizes, events, card, expandable) != (card >= least) for card in cards)
    assert odd <= 8


@pytest.mark.parametrize("expandable", [False, True])
def test_what_was_seen_of_other_cards_changes_no_answer(expandable: bool):
    for seed in range(100):
        sizes, events = random_load(seed)
        whole = replay(sizes, events, expandable_segments=expandable)
        trials = Trials(sizes, events, expandable_segments=expandable)
        if seed % 2:
            trials.smallest_capacity()
        cards = random.Random(seed).choices(
            range(whole.requested_bytes, whole.reserved_bytes + 20 * MIB, MIB), k=20
        )
        for card in cards:
            assert trials.completes(card) == completes(sizes, events, card, expandable)


@pytest.mark.parametrize("seed", [311, 352, 564, 760])
def test_a_card_smaller_than_one_that_failed_is_judged_from_its_beginning(seed: int):
    """Of these loads one completes on such a card, by an early release."""
    sizes, events = random_load(seed, 200)
    trials = Trials(sizes, events)
    least = trials.smallest_capacity()
    cards = range(replay(sizes, events).requested_bytes // (2 * MIB) * 2 * MIB, least, 2 * MIB)
    expected = [completes(sizes, events, card, expandable=False) for card in cards]
    assert [trials.completes(card) for card in cards] == expected
    assert any(expected)
