"""Sizes seen at a few points, solved into exact integer polynomials in batch, sequence and rank;
refused on any doubt."""

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from itertools import combinations
from typing import NamedTuple

from lora_profiler._common.polynomial import Exponents, Polynomial


class TracedSizes(NamedTuple):
    """Sizes of one trace; rank 1 without an adapter."""

    batch: int
    seq: int
    rank: int


class NoPolynomialError(Exception):
    """No small polynomial with whole coefficients goes through what was seen."""


MONOMIALS: tuple[Exponents, ...] = (
    (0, 0, 0, 0, 0, 0),
    (1, 1, 0, 0, 0, 0),
    (1, 0, 0, 0, 0, 0),
    (0, 1, 0, 0, 0, 0),
    (0, 0, 1, 0, 0, 0),
    (1, 1, 1, 0, 0, 0),
    (1, 2, 0, 0, 0, 0),
    (0, 2, 0, 0, 0, 0),
    (1, 0, 0, 1, 0, 0),
    (1, 1, 0, 0, 1, 0),
    (0, 1, 1, 0, 0, 0),
    (1, 0, 1, 0, 0, 0),
    (0, 0, 0, 1, 0, 0),
    (1, 1, 0, 1, 0, 0),
    (0, 1, 0, 1, 0, 0),
    (0, 1, 0, 0, 1, 0),
    (1, 0, 0, 2, 0, 0),
    (0, 0, 2, 0, 0, 0),
    (2, 0, 0, 0, 0, 0),
    (0, 1, 0, 0, 0, 1),
    (1, 1, 0, 0, 0, 1),
)
"""Powers of batch, sequence, rank, and the sequence rounded up to 32, 16 and 8, the usual ones
first."""
MOST_TERMS = 3


def _value(exponents: Exponents, at: TracedSizes) -> int:
    return Polynomial({exponents: 1}).evaluate(*at)


@cache
def fitted(points: tuple[TracedSizes, ...], sizes: tuple[int, ...]) -> Polynomial:
    """The sparsest polynomial with whole coefficients through all points: at least one more point
    than terms must agree.

    Raises NoPolynomialError.
    """
    for terms in range(1, min(MOST_TERMS + 1, len(points))):
        for chosen in combinations(MONOMIALS, terms):
            columns = [[_value(e, at) for at in points] for e in chosen]
            solution = solved(columns, sizes)
            if solution is not None and all(x.denominator == 1 for x in solution):
                return Polynomial({e: int(x) for e, x in zip(chosen, solution, strict=True)})
    raise NoPolynomialError(f"sizes {sizes} at {points}")


def solved(columns: Sequence[Sequence[int]], sizes: Sequence[int]) -> list[Fraction] | None:
    """The coefficients by which the columns add up to `sizes` in every row. None where there are
    none, or a column is not needed."""
    n = len(columns)
    rows = [[Fraction(x) for x in row] for row in zip(*columns, sizes, strict=True)]
    for column in range(n):
        pivot = next((i for i in range(column, len(rows)) if rows[i][column]), None)
        if pivot is None:
            return None
        rows[column], rows[pivot] = rows[pivot], rows[column]
        lead = rows[column]
        for i, row in enumerate(rows):
            if i != column and row[column]:
                factor = row[column] / lead[column]
                rows[i] = [x - factor * y for x, y in zip(row, lead, strict=True)]
    if any(row[n] for row in rows[n:]):
        return None
    solution = [row[n] / row[i] for i, row in enumerate(rows[:n])]
    return solution if all(solution) else None
