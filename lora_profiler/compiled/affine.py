"""Polynomials in batch, sequence and rank whose coefficients grow linearly with the number of units
of a stack."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

from lora_profiler.algebra import Exponents, Polynomial


class Affine(NamedTuple):
    """`base` + units x `per_unit`."""

    base: Polynomial
    per_unit: Polynomial

    @classmethod
    def through(cls, units: int, here: Polynomial, next_: Polynomial) -> "Affine":
        """The one that is `here` at `units` and `next_` at one unit more."""
        per_unit = next_ - here
        return cls(Polynomial((here - per_unit * units).nonzero()), Polynomial(per_unit.nonzero()))

    @classmethod
    def constant(cls, polynomial: Polynomial) -> "Affine":
        return cls(polynomial, Polynomial({}))

    def at(self, units: int) -> Polynomial:
        return self.base + self.per_unit * units if self.per_unit.terms else self.base


AffineJson = dict[str, list[int]]


def affine_json(affine: Affine) -> AffineJson:
    """{"1,1,0,0,0": [coefficient, coefficient a unit]}; the second is left out where it is 0."""
    base, per_unit = affine.base.nonzero(), affine.per_unit.nonzero()
    document = {}
    for exponents in sorted({*base, *per_unit}):
        pair = [base.get(exponents, 0), per_unit.get(exponents, 0)]
        document[",".join(map(str, exponents))] = pair if pair[1] else pair[:1]
    return document


def affine_from_json(data: Mapping[str, Sequence[int]]) -> Affine:
    base: dict[Exponents, int] = {}
    per_unit: dict[Exponents, int] = {}
    for name, pair in data.items():
        exponents = _exponents(name)
        base[exponents] = pair[0]
        if len(pair) > 1:
            per_unit[exponents] = pair[1]
    return Affine(Polynomial(base), Polynomial(per_unit))


@cache
def _exponents(name: str) -> Exponents:
    """A profile has thousands of monomials, and few different ones."""
    i, j, k, m, n = map(int, name.split(","))
    return i, j, k, m, n
