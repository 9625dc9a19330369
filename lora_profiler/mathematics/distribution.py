"""Whether numbers are drawn from a named distribution: their moments in standard errors, and a
Kolmogorov-Smirnov test."""

import math
from dataclasses import dataclass
from typing import Literal

import torch

Kind = Literal["normal", "uniform"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Of a sample scaled to unit variance under the hypothesis; `*_z` are distances from those of
    the standard normal, in the standard errors of a normal sample of this size.
    """

    count: int
    mean: float
    deviation: float
    skewness: float
    excess_kurtosis: float
    mean_z: float
    deviation_z: float
    skewness_z: float
    kurtosis_z: float

    @property
    def largest_z(self) -> float:
        return max(
            abs(self.mean_z), abs(self.deviation_z), abs(self.skewness_z), abs(self.kurtosis_z)
        )


def moments(sample: torch.Tensor) -> Moments:
    """Moments of a 1-D float64 sample that should be standard normal."""
    n = sample.numel()
    mean = sample.mean()
    centred = sample - mean
    deviation = centred.square().mean().sqrt()
    skewness = (centred**3).mean() / deviation**3
    excess = (centred**4).mean() / deviation**4 - 3
    return Moments(
        count=n,
        mean=mean.item(),
        deviation=deviation.item(),
        skewness=skewness.item(),
        excess_kurtosis=excess.item(),
        mean_z=mean.item() * math.sqrt(n),
        deviation_z=(deviation.item() - 1) * math.sqrt(2 * n),
        skewness_z=skewness.item() * math.sqrt(n / 6),
        kurtosis_z=excess.item() * math.sqrt(n / 24),
    )


def kolmogorov_smirnov(sample: torch.Tensor, kind: Kind) -> tuple[float, float]:
    """(distance, p-value) of a 1-D float64 sample from the standard normal, or from the uniform
    distribution on [-1, 1].

    The p-value is that of the limiting distribution with Stephens's correction, good from some tens
    of numbers on.
    """
    n = sample.numel()
    ordered = sample.sort().values
    below = torch.special.ndtr(ordered) if kind == "normal" else ((ordered + 1) / 2).clamp(0, 1)
    ranks = torch.arange(1, n + 1, dtype=torch.float64) / n
    distance = max((ranks - below).max().item(), (below - ranks + 1 / n).max().item())
    return distance, _kolmogorov_tail((math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n)) * distance)


def _kolmogorov_tail(x: float) -> float:
    """P(K > x) of Kolmogorov's distribution."""
    if x < 0.2:
        return 1.0
    total = 2 * sum((-1) ** (j - 1) * math.exp(-2 * j * j * x * x) for j in range(1, 101))
    return min(1.0, max(0.0, float(total)))
