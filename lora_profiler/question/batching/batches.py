"""The batches of an epoch: which shapes there are, and how many of each; samples packed into rows
by the rule of each trainer."""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb
from random import Random
from typing import Literal, get_args

from lora_profiler.errors import UsageError, did_you_mean
from lora_profiler.question.batching.sample_lengths import (
    SEED,
    SampleLengths,
    counted,
    lengths_of,
    weighted_quantile,
)
from lora_profiler.units import shown

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


Batching = Literal[
    "random", "grouped", "packed", "packed-split", "packed-wrapped", "packed-axolotl"
]
BATCHINGS: tuple[Batching, ...] = get_args(Batching)
MEGABATCHES = 50
"""Batches that `LengthGroupedSampler` sorts at a time; a quarter of all where there are fewer."""
LEAST_SIMULATED = 10_000
"""Samples of as many epochs as are drawn where an expectation is not worked out exactly."""
_NEGLIGIBLE = 1e-18


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """The micro-batches of an epoch, all ranks together.

    `counts` are the expected numbers of batches by their length in tokens, shortest first;
    `batch_size` rows are in each, but in `rest`, what is left over at the end, by rows and length.
    `packed` is the mean length of the samples in a row, None where a row holds one or does not know
    where they end. `num_tokens` are those of the samples that are trained on: `cut_samples` lost
    their end, or were left out whole under axolotl's rule.

    Examples:
        >>> from lora_profiler import lengths_of
        >>> from lora_profiler.question.batching.batches import batches_of
        >>> batches = batches_of(lengths_of([100, 300, 200, 400]), batch_size=2)
        >>> batches.longest, round(batches.expected_longest, 3), round(batches.padding_factor, 3)
        (400, 1.0, 1.333)
    """

    batching: Batching
    batch_size: int
    counts: Mapping[int, float]
    rest: tuple[int, Mapping[int, float]] | None
    packed: int | None
    num_samples: int
    num_tokens: int
    cut_samples: int

    @property
    def num_batches(self) -> int:
        return round(sum(self.counts.values())) + (self.rest is not None)

    @property
    def longest(self) -> int:
        """Tokens of each row of the longest batch that can occur."""
        return max(self.counts)

    @property
    def expected_longest(self) -> float:
        """How many batches as long as the longest an epoch is expected to have."""
        return self.counts[self.longest]

    @property
    def median(self) -> int:
        """Length of the median batch."""
        return weighted_quantile(self.counts, 0.5)

    @property
    def processed_tokens(self) -> float:
        """Tokens that the model sees in an epoch, padding included."""
        tokens = self.batch_size * sum(length * count for length, count in self.counts.items())
        if self.rest is not None:
            rows, counts = self.rest
            tokens += rows * sum(length * count for length, count in counts.items())
        return tokens

    @property
    def padding_factor(self) -> float:
        """Tokens that the model sees for each token of the data."""
        return self.processed_tokens / self.num_tokens

    @property
    def has_padding(self) -> bool:
        return round(self.processed_tokens) > self.num_tokens

    @property
    def padding(self) -> float:
        """Share of the tokens of padded batches that is padding; of packed ones 0, whose longest
        are full."""
        if self.batching not in ("random", "grouped") or not self.has_padding:
            return 0.0
        return 1 - self.num_tokens / self.processed_tokens

    def parts(self, count: int) -> list[tuple[int, float]]:
        """Mean lengths of `count` parts of the batches, each of as many, and the share of each:
        what an average over all is taken of. Fewer where there are fewer lengths."""
        total = sum(self.counts.values())
        sums: list[list[float]] = [[0.0, 0.0] for _ in range(count)]
        reached = 0.0
        for length, weight in self.counts.items():
            middle = (reached + weight / 2) / total
            part = sums[min(int(middle * count), count - 1)]
            part[0] += weight
            part[1] += weight * length
            reached += weight
        return [(round(tokens / weight), weight / total) for weight, tokens in sums if weight]


def batches_of(
    lengths: SampleLengths,
    *,
    batching: Batching = "random",
    batch_size: int = 1,
    max_length: int | None = None,
    pad_to_multiple_of: int | None = None,
    accumulation: int = 1,
) -> Batches:
    """The batches that a trainer makes of samples of these lengths in an epoch.

    "random" draws batches and pads each to its longest; "grouped" draws as transformers'
    `LengthGroupedSampler` does, over batches of `batch_size` x `accumulation`. "packed" and
    "packed-split" are TRL's `bfd` and `bfd_split`: a batch is one row, as FlashAttention takes it;
    "packed-wrapped" is TRL's `wrapped`; "packed-axolotl" axolotl's multipack, one row of
    `batch_size` x `max_length`. Samples are cut at `max_length`, which packing needs.

    Random batches are worked out exactly; the others are drawn with a fixed seed.

    Raises UsageError for a size that is none, and for samples that are all left out.

    Examples:
        >>> from lora_profiler import lengths_of
        >>> from lora_profiler.question.batching.batches import batches_of
        >>> batches_of(lengths_of([3, 5, 8]), batching="packed", max_length=8).counts
        {8: 2.0}
    """
    if batching not in BATCHINGS:
        raise UsageError(
            f"batching is {batching!r}; accepted:"
            f" {', '.join(BATCHINGS)}.{did_you_mean(batching, BATCHINGS)}"
        )
    sizes = {
        "batch size": batch_size,
        "maximum length": max_length,
        "multiple to pad to": pad_to_multiple_of,
        "accumulation": accumulation,
    }
    for name, size in sizes.items():
        if size is not None and (not isinstance(size, int) or size < 1):
            raise UsageError(f"{name} is {shown(size)}; it must be a whole number from 1.")
    if batching in ("random", "grouped"):
        return _padded(
            lengths, batching, batch_size, max_length, pad_to_multiple_of or 1, accumulation
        )
    if max_length is None:
        raise UsageError("packing needs the length of a row; give --seq-len.")
    return _packed(lengths, batching, batch_size, max_length, pad_to_multiple_of or 1)


def _padded(
    lengths: SampleLengths,
    batching: Batching,
    batch_size: int,
    max_length: int | None,
    multiple: int,
    accumulation: int,
) -> Batches:
    cut, cut_samples = _cut(lengths.counts, max_length)
    num_samples = lengths.num_samples
    batch_size = min(batch_size, num_samples)
    whole, over = divmod(num_samples, batch_size)
    rest: tuple[int, Mapping[int, float]] | None
    if batching == "random":
        padded = _merged(cut, multiple)
        counts = _longest_of_drawn(padded, batch_size, whole)
        rest = (over, _longest_of_drawn(padded, over, 1)) if over else None
    else:
        samples = [min(length, max_length or length) for length in lengths.in_order()]
        counts, rest = _grouped(samples, batch_size, accumulation, multiple)
    return Batches(
        batching=batching,
        batch_size=batch_size,
        counts=counts,
        rest=rest,
        packed=None,
        num_samples=num_samples,
        num_tokens=sum(length * count for length, count in cut.items()),
        cut_samples=cut_samples,
    )


def _cut(counts: Mapping[int, int], max_length: int | None) -> tuple[dict[int, int], int]:
    """The lengths after the cut, and how many samples lost their end."""
    if max_length is None or max(counts) <= max_length:
        return dict(counts), 0
    cut = {length: count for length, count in counts.items() if length <= max_length}
    longer = sum(counts.values()) - sum(cut.values())
    cut[max_length] = cut.get(max_length, 0) + longer
    return cut, longer


def _merged(counts: Mapping[int, int], multiple: int) -> dict[int, int]:
    """The lengths, each padded to a multiple."""
    merged: dict[int, int] = {}
    for length, count in counts.items():
        padded = _padded_to(length, multiple)
        merged[padded] = merged.get(padded, 0) + count
    return merged


def _padded_to(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _longest_of_drawn(
    counts: Mapping[int, int], batch_size: int, num_batches: int
) -> dict[int, float]:
    """Expected numbers of batches by their longest sample, of samples drawn without putting any
    back; lengths that no batch can have are left out."""
    total = sum(counts.values())
    expected: dict[int, float] = {}
    reached, below = 0, 0.0
    for length, count in counts.items():
        reached += count
        share = _share_of_batches(reached, total, batch_size)
        if share > below:
            expected[length] = num_batches * (share - below)
        below = share
    return expected


def _share_of_batches(reached: int, total: int, batch_size: int) -> float:
    """Of all ways to draw a batch, those that take it of the `reached` shortest samples."""
    share = 1.0
    for drawn in range(batch_size):
        share *= max(reached - drawn, 0) / (total - drawn)
        if share < _NEGLIGIBLE:
            return 0.0
    return share


def _grouped(
    samples: list[int], batch_size: int, accumulation: int, multiple: int
) -> tuple[dict[int, float], tuple[int, Mapping[int, float]] | None]:
    over, epochs = len(samples) % batch_size, _epochs(len(samples))

    def ordered(shuffled: Sequence[int]) -> Sequence[int]:
        return grouped_by_length(shuffled, batch_size * accumulation)

    counts, lasts = _drawn(samples, batch_size, epochs, multiple, max, ordered)
    return counts, (over, lasts) if over else None


def _drawn(
    values: list[int],
    batch_size: int,
    epochs: int,
    multiple: int,
    length: Callable[[Sequence[int]], int],
    ordered: Callable[[Sequence[int]], Sequence[int]] = lambda shuffled: shuffled,
) -> tuple[dict[int, float], dict[int, float]]:
    """How many batches there are of each length in one of so many epochs, of whole ones and of
    those left over; `length` is that of a batch of `values`, which are shuffled."""
    random, whole = Random(SEED), len(values) // batch_size
    lengths: list[int] = []
    lasts: list[int] = []
    for _ in range(epochs):
        random.shuffle(values)
        order = ordered(values)
        made = [
            _padded_to(length(order[start : start + batch_size]), multiple)
            for start in range(0, len(order), batch_size)
        ]
        lengths += made[:whole]
        lasts += made[whole:]
    return _shares(lengths, epochs), _shares(lasts, epochs)


def grouped_by_length(shuffled: Sequence[int], batch_size: int) -> list[int]:
    """The lengths in the order of transformers' `LengthGroupedSampler`, whose batch is that of an
    optimizer step: sorted within megabatches, and the longest of all first."""
    megabatch = max(min(len(shuffled) // (batch_size * 4), MEGABATCHES), 1) * batch_size
    groups = [
        sorted(shuffled[start : start + megabatch], reverse=True)
        for start in range(0, len(shuffled), megabatch)
    ]
    longest = max(range(len(groups)), key=lambda number: groups[number][0])
    groups[0][0], groups[longest][0] = groups[longest][0], groups[0][0]
    return [length for group in groups for length in group]


def _epochs(num_samples: int) -> int:
    return -(-LEAST_SIMULATED // num_samples)


def _shares(lengths: Sequence[int], epochs: int) -> dict[int, float]:
    """How many there are of each length in one of so many epochs."""
    return {length: count / epochs for length, count in counted(lengths).items()}


def _packed(
    lengths: SampleLengths, batching: Batching, batch_size: int, max_length: int, multiple: int
) -> Batches:
    samples = lengths.in_order()
    if batching == "packed-wrapped":
        return _wrapped(lengths, samples, batch_size, max_length, multiple)
    if batching == "packed-axolotl":
        row_length = batch_size * max_length
        kept = [length for length in samples if length <= max_length]
        if not kept:
            raise UsageError(
                f"axolotl leaves out samples longer than its sequence_len, {max_length:,} tokens,"
                " and all of them are."
            )
        Random(SEED).shuffle(kept)
        rows = first_fit(kept, row_length)
        counts: Mapping[int, float] = {_padded_to(row_length, multiple): float(len(rows))}
        rest = None
        cut_samples = len(samples) - len(kept)
    else:
        rows = best_fit_decreasing(samples, max_length, split=batching == "packed-split")
        cut_samples = sum(length > max_length for length in samples) * (batching == "packed")
        counts, rest = _flattened(rows, batch_size, multiple)
    num_tokens = sum(map(sum, rows))
    return Batches(
        batching=batching,
        batch_size=1,
        counts=counts,
        rest=rest,
        packed=max(1, round(num_tokens / sum(map(len, rows)))),
        num_samples=lengths.num_samples,
        num_tokens=num_tokens,
        cut_samples=cut_samples,
    )


def _wrapped(
    lengths: SampleLengths, samples: Sequence[int], batch_size: int, max_length: int, multiple: int
) -> Batches:
    """Rows as samples: those that are not full are padded as others are."""
    rows = lengths_of(wrapped(samples, max_length))
    drawn = _padded(rows, "random", batch_size, None, multiple, 1)
    return replace(drawn, batching="packed-wrapped", num_samples=lengths.num_samples)


def _flattened(
    rows: Sequence[Row], batch_size: int, multiple: int
) -> tuple[dict[int, float], tuple[int, Mapping[int, float]] | None]:
    """Batches of so many packed rows, each one row of all their tokens, rows drawn at random. The
    longest that can occur is among them, however rare."""
    tokens = [sum(row) for row in rows]
    batch_size = min(batch_size, len(tokens))
    whole, over = divmod(len(tokens), batch_size)
    epochs = _epochs(len(tokens)) if batch_size > 1 else 1
    counts, lasts = _drawn(tokens, batch_size, epochs, multiple, sum)
    longest, expected = _longest_flattened(tokens, batch_size, whole)
    counts.setdefault(_padded_to(longest, multiple), expected)  # last, as it is the longest
    return counts, (1, lasts) if over else None


def _longest_flattened(
    tokens: Sequence[int], batch_size: int, num_batches: int
) -> tuple[int, float]:
    """The largest sum of so many rows, and how many batches of an epoch are expected to have it."""
    longest = sorted(tokens, reverse=True)[:batch_size]
    ties = longest.count(longest[-1])
    ways = comb(tokens.count(longest[-1]), ties)
    return sum(longest), num_batches * ways / comb(len(tokens), batch_size)
