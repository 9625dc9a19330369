"""The median's confidence interval against tables and against the binomial distribution summed term
by term."""

import math
import random

import pytest

from lora_profiler.measuring.records.checks import median_interval, relative_half_width
from lora_profiler.report.labels import interval_text


def rank_by_definition(n: int) -> int:
    """The largest k with P(k <= binomial(n, 1/2) <= n - k) >= 95 %, in whole numbers; 1 where there
    is none."""
    good = [
        k
        for k in range(1, n // 2 + 1)
        if 100 * sum(math.comb(n, i) for i in range(k, n - k + 1)) >= 95 * 2**n
    ]
    return max(good, default=1)


@pytest.mark.parametrize(
    ("n", "low", "high"),
    [(6, 1, 6), (8, 1, 8), (9, 2, 8), (10, 2, 9), (20, 6, 15), (30, 10, 21), (50, 18, 33)],
)
def test_ranks_of_the_usual_tables(n: int, low: int, high: int) -> None:
    """The symmetric intervals that textbooks tabulate for the sign test turned round."""
    assert median_interval(range(1, n + 1)) == (low, (n + 1) / 2, high)


@pytest.mark.parametrize("n", [*range(1, 61), 97, 100, 251])
def test_interval_follows_its_definition(n: int) -> None:
    samples = [float(i) for i in range(1, n + 1)]
    random.Random(n).shuffle(samples)
    k = rank_by_definition(n)
    assert median_interval(samples) == (k, (n + 1) / 2, n + 1 - k)


@pytest.mark.parametrize("n", range(1, 10))
def test_words_call_95_percent_what_covers_it(n: int) -> None:
    """From the lowest to the highest of n the median lies with 1 - 2^(1 - n)."""
    said = interval_text("1 s", "2 s", n)
    assert said.startswith("95 % interval") == (1 - 2.0 ** (1 - n) >= 0.95)
    assert ("1 s to 2 s" in said) == (n > 1)


def test_many_samples_neither_underflow_nor_take_long() -> None:
    low, middle, high = median_interval(range(100_001))
    assert middle == 50_000
    assert abs((high - low) / 2 - 1.96 * math.sqrt(100_001) / 2) < 2


def test_interval_covers_the_true_median_as_often_as_it_says() -> None:
    draw = random.Random(0)
    hits = 0
    for _ in range(2000):
        low, _, high = median_interval([draw.lognormvariate(0, 1) for _ in range(12)])
        hits += low <= 1 <= high
    assert 0.95 <= hits / 2000 <= 0.975  # 12 samples: the 3rd and 10th cover 96.1 %


def test_half_width_is_relative_and_no_sample_is_an_error() -> None:
    assert relative_half_width([9.0, 10.0, 11.0]) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="at least one sample"):
        median_interval([])
