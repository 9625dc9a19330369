"""The median of repeated measurements and how far it can be trusted; nothing is assumed of how the
samples scatter."""

import math
from collections.abc import Sequence

CONFIDENCE = 0.95


def median_interval(samples: Sequence[float]) -> tuple[float, float, float]:
    """(low, median, high) in the unit of `samples`: the median and the 95 % confidence interval
    that order statistics give it.

    The interval is [x_(k), x_(n+1-k)] of the sorted samples with the largest k for which a
    binomial(n, 1/2) count lies in k..n-k with at least that probability (W. J. Conover, Practical
    Nonparametric Statistics, 3rd ed., section 3.2). Fewer than six samples cannot give 95 %: low
    and high are then the smallest and the largest, which cover less. Raises ValueError for none.
    """
    if not samples:
        raise ValueError("a median needs at least one sample.")
    ordered = sorted(samples)
    n = len(ordered)
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    k = _rank(n)
    return ordered[k - 1], middle, ordered[n - k]


def half_width_limit(device_kind: str) -> float:
    """Largest `relative_half_width` of step times that is not called noisy: 5 % on a CPU, 1 % on an
    accelerator."""
    return 0.05 if device_kind == "cpu" else 0.01


def relative_half_width(samples: Sequence[float]) -> float:
    """Half the interval's width over the median: what the timing protocol limits. Raises ValueError
    for no samples."""
    low, middle, high = median_interval(samples)
    return (high - low) / 2 / middle


def _rank(n: int) -> int:
    """The k of `median_interval`, from 1. Sums outwards from the middle, so that no term underflows
    for large n."""
    k = n // 2
    term = math.exp(
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
    )
    inside = term if n % 2 == 0 else 2 * term
    while inside < CONFIDENCE and k > 1:
        term *= k / (n - k + 1)
        k -= 1
        inside += 2 * term
    return max(k, 1)
