"""Sizes seen at a few points, solved into exact integer polynomials in batch, sequence and rank;
refused on any doubt."""

from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from itertools import combinations
from typing import NamedTuple

from lora_profiler.algebra import Exponents, Polynomial


class Point(NamedTuple):
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


def _value(exponents: Exponents, at: Point) -> int:
    return Polynomial({exponents: 1}).evaluate(*at)


@cache
def fitted(points: tuple[Point, ...], sizes: tuple[int, ...]) -> Polynomial:
    """The sparsest polynomial with whole coefficients through all points: at least one more point
    than terms must agree.

    Raises NoPolynomialError.
    """
    for terms in range(1, MOST_TERMS + 1):
        if terms >= len(points):
            break
        for chosen in combinations(MONOMIALS, terms):
            polynomial = _through(points, sizes, chosen)
            if polynomial is not None:
                return polynomial
    raise NoPolynomialError(f"sizes {sizes} at {points}")


def _through(
    points: Sequence[Point], sizes: Sequence[int], monomials: Sequence[Exponents]
) -> Polynomial | None:
    n = len(monomials)
    rows = [
        [Fraction(_value(e, at)) for e in monomials] + [Fraction(size)]
        for at, size in zip(points, sizes, strict=True)
    ]
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
    solved = [row[n] / row[i] for i, row in enumerate(rows[:n])]
    if any(x.denominator != 1 or x == 0 for x in solved):
        return None
    return Polynomial({e: int(x) for e, x in zip(monomials, solved, strict=True)})
