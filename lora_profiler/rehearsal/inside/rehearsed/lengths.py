"""How long each simulated text is."""

import math
import random

from .settings import Settings

_SIGMA = 0.6
"""Of the logarithm: the longest of 100 texts is some four times as long as the median."""
_SHORTEST, _LONGEST = 1 / 8, 4
"""Times the mean; 0.5 % of the draws lie outside."""


def tokens_of_row(settings: Settings, row: int) -> int:
    """All texts are of `settings.tokens`; with `varied_lengths` that is the mean of a log-normal
    distribution. A row's length follows from its number alone, the same in every process."""
    mean = settings.tokens
    if not settings.varied_lengths:
        return mean
    drawn = random.Random(row).lognormvariate(math.log(mean) - _SIGMA**2 / 2, _SIGMA)
    return max(1, round(min(max(drawn, _SHORTEST * mean), _LONGEST * mean)))


def size_in_words(settings: Settings) -> str:
    return f"{settings.tokens:,} tokens{' on average' if settings.varied_lengths else ''}"
