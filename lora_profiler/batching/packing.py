"""Samples packed into rows, by the rule of each trainer: which samples share a row, in the order of
the data."""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator, Sequence

MAP_BLOCK = 1000
"""Rows that `datasets.Dataset.map` hands on at a time; TRL packs each block for itself."""
MULTIPACK_BLOCK = 100_000
MULTIPACK_SAMPLES = 200
"""Samples that axolotl packs at a time, and the most in a row: its `sample_packing_group_size` and
`sample_packing_bin_size`."""

Row = list[int]
"""Lengths of the samples of one row."""


def best_fit_decreasing(lengths: Sequence[int], row_length: int, *, split: bool) -> list[Row]:
    """TRL's `bfd`, `bfd_split` with `split`: the longest first, each into the row that it leaves
    the least room in. Longer ones than a row are cut, or split into rows of their own and a
    rest."""
    rows: list[Row] = []
    for block in _blocks(lengths, MAP_BLOCK):
        pieces = list(_split(block, row_length)) if split else [min(n, row_length) for n in block]
        rows += _best_fit(sorted(pieces, reverse=True), row_length)
    return rows


def _split(lengths: Sequence[int], row_length: int) -> Iterator[int]:
    for length in lengths:
        whole, rest = divmod(length, row_length)
        yield from (row_length,) * whole
        if rest:
            yield rest


def _best_fit(lengths: Sequence[int], row_length: int) -> list[Row]:
    rows: list[Row] = []
    rooms: list[int] = []  # of rows that have some left, ascending, each once
    with_room: dict[int, deque[Row]] = {}
    for length in lengths:
        at = bisect_left(rooms, length)
        if at < len(rooms):
            room = rooms[at]
            waiting = with_room[room]
            row = waiting.popleft()
            if not waiting:
                del rooms[at]
        else:
            room, row = row_length, []
            rows.append(row)
        row.append(length)
        if left := room - length:
            others = with_room.setdefault(left, deque())
            if not others:
                insort(rooms, left)
            others.append(row)
    return rows


def wrapped(lengths: Sequence[int], row_length: int) -> list[int]:
    """TRL's `wrapped`: all tokens of a block in a row after the other, cut wherever a row is full.
    The tokens of each row."""
    rows: list[int] = []
    for block in _blocks(lengths, MAP_BLOCK):
        whole, rest = divmod(sum(block), row_length)
        rows += [row_length] * whole
        if rest:
            rows.append(rest)
    return rows


def first_fit(lengths: Sequence[int], row_length: int) -> list[Row]:
    """axolotl's multipack: each sample, as it comes, into the first row with room for it. None is
    longer than a row."""
    rows: list[Row] = []
    for block in _blocks(lengths, MULTIPACK_BLOCK):
        rows += _first_fit(block, row_length)
    return rows


def _first_fit(lengths: Sequence[int], row_length: int) -> list[Row]:
    """Over a tree of rows in which each node knows the largest room below it."""
    leaves = 1
    while leaves < len(lengths):
        leaves *= 2
    room = [0] * (2 * leaves)
    rows: list[Row] = []
    for length in lengths:
        if room[1] < length:
            node = leaves + len(rows)
            rows.append([])
            left = row_length - length
        else:
            node = 1
            while node < leaves:
                node *= 2
                if room[node] < length:
                    node += 1
            left = room[node] - length
        row = rows[node - leaves]
        row.append(length)
        room[node] = left if len(row) < MULTIPACK_SAMPLES else 0
        while node > 1:
            node //= 2
            larger = max(room[2 * node], room[2 * node + 1])
            if room[node] == larger:
                break
            room[node] = larger
    return rows


def _blocks(lengths: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(lengths), size):
        yield lengths[start : start + size]
