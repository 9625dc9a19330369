"""How long the samples of a data set are, in tokens."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations

from lora_profiler.errors import UsageError, did_you_mean
from lora_profiler.units import shown

# --- lengths --------------------------------------------------------------------------------------

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


# --- a distribution by its figures ----------------------------------------------------------------

# `--lengths mean=600,max=4096`: a distribution of lengths by a few of its figures. Conversations
# and documents are nearly log-normal: many are short and few are long.

SIGMA = 0.85
"""Spread of the logarithm where no second figure tells it: as facts/trainers.md drew 50,000
conversations of 600 tokens on average."""
SAMPLES = 10_000
FIGURES = ("mean", "median", "p95", "max", "min", "sigma", "samples")
_Z95 = 1.6448536269514722
"""The quantile of 95 % of the standard normal distribution."""
_LONGEST = 2**20
"""Longest sample of a distribution, which is worked out length by length."""
_SIGMAS = (1e-3, 5.0)
_MOST_STEPS = 200


def from_figures(text: str) -> SampleLengths:
    """Lengths of a log-normal distribution, as many as `samples=` says, cut at `max`: each length
    as often as the distribution has it, so that nothing is drawn. `mean` is that of the lengths
    after the cut.

    Raises UsageError for figures that no such distribution has.
    """
    figures = _parsed(text)
    count = int(figures.pop("samples", SAMPLES))
    low, high = int(figures.get("min", 1)), int(figures.get("max", _LONGEST))
    mu, sigma, notes = _parameters(figures, low, high, text)
    counts: dict[int, int] = {}
    before, length = 0, low
    while before < count:
        reached = count if length >= high else round(count * _below(length + 0.5, mu, sigma))
        if reached > before:
            counts[length] = reached - before
            before = reached
        length += 1
    words = ", ".join(f"{name} {figures[name]:g}" for name in FIGURES if name in figures)
    return SampleLengths(counts=counts, source=f"log-normal lengths, {words}", notes=notes)


def _parsed(text: str) -> dict[str, float]:
    figures: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if name not in FIGURES or not equals:
            raise UsageError(
                f"--lengths is {text[:80]!r}; write mean=600,max=4096 or name a file."
                f"{did_you_mean(name, FIGURES)} Figures: {', '.join(FIGURES)}"
            )
        if name in figures:
            raise UsageError(f"--lengths gives {name} twice; leave one out.")
        figures[name] = _number(name, value)
    if not {"mean", "median", "p95"} & figures.keys():
        raise UsageError(
            "--lengths needs mean=, median= or p95= to know how long samples are, as in"
            " mean=600,max=4096."
        )
    if len({"mean", "median", "p95", "sigma"} & figures.keys()) > 2:
        raise UsageError(
            "--lengths takes two of mean, median, p95 and sigma, which fix a log-normal"
            " distribution; leave the others out."
        )
    return figures


def _number(name: str, text: str) -> float:
    most = {"samples": MOST_SAMPLES, "sigma": _SIGMAS[1]}.get(name, _LONGEST)
    least = _SIGMAS[0] if name == "sigma" else 1
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    whole = name in ("max", "min", "samples")
    if not least <= value <= most or (whole and not value.is_integer()):
        raise UsageError(
            f"{name} of --lengths is {shown(text)}; it must be a {'whole ' if whole else ''}number"
            f" from {least:g} to {most:,}."
        )
    return value


def _parameters(
    figures: Mapping[str, float], low: int, high: int, text: str
) -> tuple[float, float, tuple[str, ...]]:
    """Mean and spread of the logarithm, and what was assumed for them."""
    ranked = [name for name in ("min", "median", "mean", "p95", "max") if name in figures]
    for lesser, greater in combinations(ranked, 2):
        may_cross = (lesser, greater) == ("mean", "p95")  # a mean may lie above 95 % of the lengths
        if figures[lesser] >= figures[greater] and not may_cross:
            raise UsageError(
                f"--lengths has {greater}={figures[greater]:g}, which is not above"
                f" {lesser}={figures[lesser]:g}; no log-normal distribution is like that."
            )
    mean, median, p95 = (figures.get(name) for name in ("mean", "median", "p95"))
    if median is not None and p95 is not None:
        return math.log(median), math.log(p95 / median) / _Z95, ()
    if mean is not None and (median is not None or p95 is not None):
        fixed, z = (median, 0.0) if median is not None else (p95, _Z95)
        assert fixed is not None
        log = math.log(fixed)
        sign = 1 if median is not None else -1  # a wider spread below a fixed p95 lowers the mean
        ends = _SIGMAS if median is not None else (_SIGMAS[0], _Z95)
        sigma = _bisected(lambda s: sign * (_mean(log - z * s, s, low, high) - mean), *ends)
        mu = log - z * sigma
        if abs(_mean(mu, sigma, low, high) - mean) > 0.01 * mean:
            raise UsageError(
                f"--lengths is {text[:80]!r}; no log-normal distribution has these figures."
            )
        return mu, sigma, ()
    sigma = figures.get("sigma", SIGMA)
    notes = (
        ()
        if "sigma" in figures
        else (
            f"The spread of the lengths is assumed, sigma={SIGMA:g}; give a second figure: median=,"
            " p95= or sigma=.",
        )
    )
    if median is not None or p95 is not None:
        return (math.log(median) if median else math.log(p95 or 0.0) - _Z95 * sigma), sigma, notes
    assert mean is not None
    mu = _bisected(
        lambda m: _mean(m, sigma, low, high) - mean,
        math.log(low) - 10 * sigma,
        math.log(high) + 10 * sigma,
    )
    return mu, sigma, notes


def _bisected(rises: Callable[[float], float], low: float, high: float) -> float:
    """Where a function that rises crosses zero; an end where it does not."""
    for _ in range(_MOST_STEPS):
        middle = (low + high) / 2
        if not low < middle < high:
            break
        if rises(middle) < 0:
            low = middle
        else:
            high = middle
    return low


def _below(length: float, mu: float, sigma: float) -> float:
    """Share of the samples up to a length."""
    return _normal((math.log(length) - mu) / sigma)


def _normal(z: float) -> float:
    return 0.5 * math.erfc(-z / math.sqrt(2))


def _mean(mu: float, sigma: float, low: float, high: float) -> float:
    """Of a log-normal length whose shorter ones are `low` and whose longer ones are `high`."""
    a, b = ((math.log(end) - mu) / sigma for end in (low, high))
    inside = math.exp(min(mu + sigma * sigma / 2, 700.0)) * (
        _normal(b - sigma) - _normal(a - sigma)
    )
    return low * _normal(a) + inside + high * _normal(-b)
