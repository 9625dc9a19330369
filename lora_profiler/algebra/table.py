"""Many polynomials at one point: each power is worked out once."""

from collections.abc import Sequence
from typing import NamedTuple

from lora_profiler.algebra.polynomial import Exponents, Polynomial, rounded_up


class Values(NamedTuple):
    """Batch, sequence and rank of one question (rank 1 where there is no adapter: no polynomial
    asks)."""

    batch: int
    seq: int
    rank: int


class Table(NamedTuple):
    """Polynomials over one list of monomials, so that many of them cost one list of products."""

    monomials: tuple[Exponents, ...]
    rows: tuple[tuple[tuple[int, int], ...], ...]
    polynomials: tuple[Polynomial, ...]

    @classmethod
    def of(cls, polynomials: Sequence[Polynomial]) -> "Table":
        found = [p.nonzero() for p in polynomials]
        monomials = sorted({e for terms in found for e in terms})
        index = {e: i for i, e in enumerate(monomials)}
        rows = tuple([tuple([(index[e], c) for e, c in terms.items()]) for terms in found])
        return cls(tuple(monomials), rows, tuple(polynomials))

    def evaluate(self, at: Values) -> list[int]:
        b, s, r = at
        t, u = rounded_up(s, 32), rounded_up(s, 16)
        powers = [b**i * s**j * r**k * t**m * u**n for i, j, k, m, n in self.monomials]
        return [sum([powers[i] * c for i, c in row]) for row in self.rows]
