"""Exact integer polynomials in batch b, sequence s and rank r: what a tensor's size is before
anyone says how long or wide; many of them at one point, and which of many can be the largest.

Three more symbols stand for s rounded up, as the efficient attention kernel pads: t to a multiple
of 32, u to one of 16, v to one of 8.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from math import prod
from operator import ge
from typing import NamedTuple

Exponents = tuple[int, int, int, int, int, int]
CONSTANT: Exponents = (0, 0, 0, 0, 0, 0)
ROUNDINGS = (32, 16, 8)
"""What s is rounded up to in the symbols after b, s and r, in their order."""


def rounded_up(seq: int, multiple: int) -> int:
    return -(-seq // multiple) * multiple


class Polynomial:
    """An immutable sum of integer coefficients times b^i s^j r^k t^m u^n v^o. Supports +, - and *
    with its like and with ints."""

    __slots__ = ("_hash", "terms")
    _hash: int

    def __init__(self, terms: dict[Exponents, int]) -> None:
        self.terms = terms

    def __add__(self, other: "Polynomial | int") -> "Polynomial":
        more = {CONSTANT: other} if isinstance(other, int) else other.terms
        if more is _OF_ZERO or not more:  # half of what is added
            return self
        terms = self.terms.copy()
        for exponents, coefficient in more.items():
            terms[exponents] = terms.get(exponents, 0) + coefficient
        return Polynomial(terms)

    __radd__ = __add__

    def __sub__(self, other: "Polynomial | int") -> "Polynomial":
        less = {CONSTANT: other} if isinstance(other, int) else other.terms
        if less is _OF_ZERO or not less:
            return self
        terms = self.terms.copy()
        for exponents, coefficient in less.items():
            terms[exponents] = terms.get(exponents, 0) - coefficient
        return Polynomial(terms)

    def __mul__(self, other: "Polynomial | int") -> "Polynomial":
        if isinstance(other, int):
            if other == 1:
                return self
            return Polynomial({e: c * other for e, c in self.terms.items()})
        terms: dict[Exponents, int] = {}
        for (a0, a1, a2, a3, a4, a5), ca in self.terms.items():
            for (b0, b1, b2, b3, b4, b5), cb in other.terms.items():
                exponents = (a0 + b0, a1 + b1, a2 + b2, a3 + b3, a4 + b4, a5 + b5)
                terms[exponents] = terms.get(exponents, 0) + ca * cb
        return Polynomial(terms)

    __rmul__ = __mul__

    def __floordiv__(self, divisor: int) -> "Polynomial":
        """Exact division by an int; asserts that nothing is left over."""
        assert all(c % divisor == 0 for c in self.terms.values()), (
            f"{self} is not divisible by {divisor}"
        )
        return Polynomial({e: c // divisor for e, c in self.terms.items()})

    def is_divisible(self, divisor: int) -> bool:
        return all(c % divisor == 0 for c in self.terms.values())

    def ceil_div(self, divisor: int) -> "Polynomial":
        """The smallest whole coefficients that are no less than those of the quotient."""
        return Polynomial({e: -(-c // divisor) for e, c in self.terms.items()})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Polynomial) and (
            self.terms == other.terms or self.nonzero() == other.nonzero()
        )

    def __hash__(self) -> int:
        try:
            return self._hash
        except (
            AttributeError
        ):  # few polynomials are ever hashed, those of a model's tensors again and again
            self._hash = hash(frozenset(self.nonzero().items()))
            return self._hash

    def nonzero(self) -> dict[Exponents, int]:
        return {e: c for e, c in self.terms.items() if c}

    def evaluate(self, batch: int, seq: int, rank: int) -> int:
        monomials = _monomials_at(batch, seq, rank)
        return sum([c * monomials[e] for e, c in self.terms.items()])

    def at_batch(self, batch: int) -> "Polynomial":
        """The same with a number for b."""
        terms: dict[Exponents, int] = {}
        for (i, *others), coefficient in self.terms.items():
            j, k, m, n, o = others
            exponents = (0, j, k, m, n, o)
            terms[exponents] = terms.get(exponents, 0) + coefficient * batch**i
        return Polynomial(terms)

    def of_batches(self, factor: int) -> "Polynomial":
        """The same of `factor` times as many rows."""
        return Polynomial({e: c * factor ** e[0] for e, c in self.terms.items()})

    def at_length(self, length: "Polynomial") -> "Polynomial":
        """The same of rows of `length`, itself in s; rounded up it is taken to be as long as the
        rounding can make it."""
        result = Polynomial({})
        for (i, j, k, *rounded), coefficient in self.nonzero().items():
            term = Polynomial({(i, 0, k, 0, 0, 0): coefficient})
            longest = [length + multiple - 1 for multiple in ROUNDINGS]
            for factor, power in zip((length, *longest), (j, *rounded), strict=True):
                for _ in range(power):
                    term = term * factor
            result = result + term
        return result

    def shifted(self, batch: int, seq: int, rank: int) -> "Polynomial":
        """The same value in other symbols: b, s, r counted from the given sizes up, t, u and v from
        s up.

        What is zero or more from those sizes on has no negative symbol left, so that coefficients
        decide for that range: see `undominated`.
        """
        result = Polynomial({})
        symbols = (B + batch, S + seq, R + rank, *(S + seq + more for more in (S32, S16, S8)))
        for exponents, coefficient in self.nonzero().items():
            term = constant(coefficient)
            for symbol, power in zip(symbols, exponents, strict=True):
                for _ in range(power):
                    term = term * symbol
            result = result + term
        return result

    def __str__(self) -> str:
        """'4096*b*s + 512*s + 8', highest powers first; 's32' is s rounded up to 32, 's16' to
        16, 's8' to 8."""
        names = ("b", "s", "r", *(f"s{multiple}" for multiple in ROUNDINGS))
        parts = []
        for exponents, coefficient in sorted(self.nonzero().items(), reverse=True):
            factors = [str(coefficient)] if coefficient != 1 or exponents == CONSTANT else []
            for name, power in zip(names, exponents, strict=True):
                factors += [name] if power == 1 else [f"{name}^{power}"] if power else []
            parts.append("*".join(factors))
        return " + ".join(parts).replace("+ -", "- ") or "0"

    __repr__ = __str__


class RunningSum:
    """A sum that changes in place, for long chains of which few values are needed."""

    __slots__ = ("_terms",)

    def __init__(self, start: Polynomial) -> None:
        self._terms = start.terms.copy()

    def add(self, more: Polynomial) -> None:
        if more.terms is not _OF_ZERO:
            terms = self._terms
            for exponents, coefficient in more.terms.items():
                terms[exponents] = terms.get(exponents, 0) + coefficient

    def subtract(self, less: Polynomial) -> None:
        if less.terms is not _OF_ZERO:
            terms = self._terms
            for exponents, coefficient in less.terms.items():
                terms[exponents] = terms.get(exponents, 0) - coefficient

    @property
    def value(self) -> Polynomial:
        return Polynomial(self._terms.copy())


def total(polynomials: Iterable[Polynomial]) -> Polynomial:
    """The sum of any number of polynomials, 0 of none."""
    terms: dict[Exponents, int] = {}
    for polynomial in polynomials:
        for exponents, coefficient in polynomial.terms.items():
            terms[exponents] = terms.get(exponents, 0) + coefficient
    return Polynomial(terms)


def product(polynomials: Iterable[Polynomial]) -> Polynomial:
    """The product of any number of polynomials, 1 of none."""
    result = constant(1)
    for polynomial in polynomials:
        result = result * polynomial
    return result


def constant(value: int) -> Polynomial:
    return Polynomial({CONSTANT: value})


ZERO = constant(0)
_OF_ZERO = ZERO.terms
B = Polynomial({(1, 0, 0, 0, 0, 0): 1})
S = Polynomial({(0, 1, 0, 0, 0, 0): 1})
R = Polynomial({(0, 0, 1, 0, 0, 0): 1})
S32 = Polynomial({(0, 0, 0, 1, 0, 0): 1})
S16 = Polynomial({(0, 0, 0, 0, 1, 0): 1})
S8 = Polynomial({(0, 0, 0, 0, 0, 1): 1})
TOKENS = B * S


def undominated(candidates: Iterable[Polynomial]) -> tuple[Polynomial, ...]:
    """The candidates that can be the maximum for some sizes: those that no other one dominates
    coefficient by coefficient.

    In their own order, of equals the first.
    """
    known = tuple(candidates)
    monomials = {exponents for one in known for exponents in one.terms}
    first: dict[tuple[int, ...], int] = {}
    for number, one in enumerate(known):
        terms = one.terms
        first.setdefault(tuple([terms.get(exponents, 0) for exponents in monomials]), number)
    return tuple(known[number] for number in sorted(first[kept] for kept in front_of(first)))


def front_of(vectors: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Of different vectors those with no other that is as large in every place.

    None is dominated by one with a smaller sum: with the largest sums first, what is kept once
    stays, and the first ones kept rule out most others.
    """
    front: list[tuple[int, ...]] = []
    for vector in sorted(vectors, key=sum, reverse=True):
        for kept in front:
            if all(map(ge, kept, vector)):
                break
        else:
            front.append(vector)
    return front


class _Monomials(dict[Exponents, int]):
    """The values of monomials at one point, each worked out when it is first looked up: thousands
    of polynomials are evaluated at the point of a question."""

    def __init__(self, batch: int, seq: int, rank: int) -> None:
        self._symbols = batch, seq, rank, *(rounded_up(seq, multiple) for multiple in ROUNDINGS)

    def __missing__(self, exponents: Exponents) -> int:
        value = self[exponents] = prod(map(pow, self._symbols, exponents))
        return value


_monomials_at = lru_cache(maxsize=16)(_Monomials)


class Values(NamedTuple):
    """Batch, sequence and rank of one question (rank 1 where there is no adapter: no polynomial
    asks)."""

    batch: int
    seq: int
    rank: int


class PolynomialTable(NamedTuple):
    """Polynomials over one list of monomials, so that many of them cost one list of products."""

    monomials: tuple[Exponents, ...]
    rows: tuple[tuple[tuple[int, int], ...], ...]
    polynomials: tuple[Polynomial, ...]

    @classmethod
    def of(cls, polynomials: Sequence[Polynomial]) -> "PolynomialTable":
        terms_of_rows = [p.nonzero() for p in polynomials]
        monomials = sorted({e for terms in terms_of_rows for e in terms})
        index = {e: i for i, e in enumerate(monomials)}
        rows = tuple([tuple([(index[e], c) for e, c in terms.items()]) for terms in terms_of_rows])
        return cls(tuple(monomials), rows, tuple(polynomials))

    def evaluate(self, at: Values) -> list[int]:
        b, s, r = at
        t, u, v = (rounded_up(s, multiple) for multiple in ROUNDINGS)
        powers = [b**i * s**j * r**k * t**m * u**n * v**o for i, j, k, m, n, o in self.monomials]
        return [sum([powers[i] * c for i, c in row]) for row in self.rows]
