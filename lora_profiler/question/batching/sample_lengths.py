"""How long the samples of a data set are, in tokens."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from lora_profiler.errors import UsageError
from lora_profiler.units import shown

LONGEST = 2**24
"""Longest sample accepted, in tokens."""
MOST_SAMPLES = 10**9
MOST_IN_ORDER = 5_000_000
"""Samples that packing and grouping go through, one by one."""
SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleLengths:
    """Samples by their length in tokens.

    `counts` are the samples of each length, shortest first. `order` are the lengths in the order of
    the data, None where only how many there are is known: packing then takes them in an order drawn
    with a fixed seed. `source` says where they come from, `notes` what was assumed.

    Raises UsageError where there is no sample.

    Examples:
        >>> from lora_profiler.question.batching.sample_lengths import SampleLengths
        >>> SampleLengths(counts={100: 3, 200: 1}, source="four samples").num_samples
        4
    """

    counts: Mapping[int, int]
    source: str
    order: tuple[int, ...] | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.counts:
            raise UsageError(f"{self.source} has no sample.")

    @property
    def num_samples(self) -> int:
        return sum(self.counts.values())

    @property
    def num_tokens(self) -> int:
        return sum(length * count for length, count in self.counts.items())

    @property
    def mean(self) -> float:
        return self.num_tokens / self.num_samples

    @property
    def longest(self) -> int:
        return max(self.counts)

    def quantile(self, share: float) -> int:
        """The shortest length that at least `share` of the samples do not exceed."""
        return weighted_quantile(self.counts, share)

    def in_order(self) -> list[int]:
        """Every sample's length, as packing meets them.

        Raises UsageError for more samples than are gone through one by one.
        """
        if self.num_samples > MOST_IN_ORDER:
            raise UsageError(
                f"{self.num_samples:,} samples are too many to be packed or grouped one by one;"
                f" give a"
                f" part of them, up to {MOST_IN_ORDER:,}."
            )
        if self.order is not None:
            return list(self.order)
        from random import Random

        lengths = [length for length, count in self.counts.items() for _ in range(count)]
        Random(SEED).shuffle(lengths)
        return lengths


def lengths_of(lengths: Iterable[int], source: str = "the lengths given") -> SampleLengths:
    """Lengths of samples in the order of the data.

    Raises UsageError for a length that no sample has.

    Examples:
        >>> from lora_profiler import lengths_of
        >>> lengths_of([512, 128, 128]).mean
        256.0
    """
    order = tuple(lengths)
    for number, length in enumerate(order, start=1):
        check_length(length, f"sample {number} of {source}")
    return SampleLengths(counts=counted(order), order=order, source=source)


def counted(lengths: Iterable[int]) -> dict[int, int]:
    """How many there are of each length, shortest first."""
    counts: dict[int, int] = {}
    for length in lengths:
        counts[length] = counts.get(length, 0) + 1
    return dict(sorted(counts.items()))


def check_length(length: object, where: str) -> None:
    """Raises UsageError for what is no length of a sample."""
    if not isinstance(length, int) or isinstance(length, bool) or not 1 <= length <= LONGEST:
        raise UsageError(
            f"{where} has a length of {shown(length)} tokens; it must be a whole number from 1 to"
            f" {LONGEST:,}."
        )


def weighted_quantile(weights: Mapping[int, float], share: float) -> int:
    """The smallest key at which the weights up to it reach `share` of all; keys ascend."""
    least = share * sum(weights.values())
    for key, reached in _running(weights):
        if reached >= least:
            return key
    return max(weights)  # what rounding leaves


def _running(weights: Mapping[int, float]) -> Iterator[tuple[int, float]]:
    reached = 0.0
    for key, weight in weights.items():
        reached += weight
        yield key, reached
