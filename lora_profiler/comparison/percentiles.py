"""How repeated times scatter: median with its interval, mean, quantiles, deviations, drift."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, stdev

from lora_profiler.records.statistics import median_interval

MOST_POINTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Statistics of samples in their own unit. `low` and `high` are the 95 % interval of the median
    (`samples.median_interval`).

    `mad` is the median absolute deviation from the median, unscaled; `sd` the sample standard
    deviation, None for one sample. `drift` is the Theil-Sen slope over the order of the samples as
    a share of the median: 0.01 is 1 % more each step.
    """

    n: int
    median: float
    low: float
    high: float
    mean: float
    p10: float
    p20: float
    p80: float
    p90: float
    mad: float
    sd: float | None
    smallest: float
    largest: float
    drift: float | None

    @property
    def relative_half_width(self) -> float:
        return (self.high - self.low) / 2 / self.median


def spread(samples: Sequence[float]) -> Spread:
    """The spread of at least one positive sample. Raises ValueError for none."""
    low, middle, high = median_interval(samples)
    ordered = sorted(samples)
    return Spread(
        n=len(samples),
        median=middle,
        low=low,
        high=high,
        mean=sum(samples) / len(samples),
        p10=quantile(ordered, 0.1),
        p20=quantile(ordered, 0.2),
        p80=quantile(ordered, 0.8),
        p90=quantile(ordered, 0.9),
        mad=median(abs(x - middle) for x in samples),
        sd=stdev(samples) if len(samples) > 1 else None,
        smallest=ordered[0],
        largest=ordered[-1],
        drift=slope(samples) / middle if len(samples) > 1 else None,
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of sorted samples lie, between two of them in proportion
    (numpy's "linear")."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def slope(samples: Sequence[float]) -> float:
    """Theil-Sen slope per sample of at least two: the median of the slopes between all pairs, which
    outliers hardly move.

    More than MOST_POINTS samples are first gathered into medians of equally many, since the pairs
    grow with the square.
    """
    size = -(-len(samples) // MOST_POINTS)
    points = [median(samples[i : i + size]) for i in range(0, len(samples) - size + 1, size)]
    return (
        median(
            (b - a) / (j - i)
            for i, a in enumerate(points)
            for j, b in enumerate(points[i + 1 :], i + 1)
        )
        / size
    )
