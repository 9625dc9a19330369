"""Polynomials in batch, sequence and rank whose coefficients grow linearly with the number of units
of a stack; and a number for every module of a folded model: one entry for all units, whose first
and last may differ."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from lora_profiler._common.polynomial import Exponents, Polynomial
from lora_profiler.memory.compiled.tape import Layout


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
    """{"1,1,0,0,0": [coefficient, coefficient a unit]}; the second is left out where it is 0, and
    so is the last exponent, which older profiles have not."""
    base, per_unit = affine.base.nonzero(), affine.per_unit.nonzero()
    document = {}
    for exponents in sorted({*base, *per_unit}):
        pair = [base.get(exponents, 0), per_unit.get(exponents, 0)]
        written = exponents if exponents[-1] else exponents[:-1]
        document[",".join(map(str, written))] = pair if pair[1] else pair[:1]
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
    i, j, k, m, n, *last = map(int, name.split(","))
    return i, j, k, m, n, *(last or (0,))


class ModuleNumber(NamedTuple):
    """`name` has "{k}" for a layer's place in its unit (see `Layout.name`); then `first`, `inner`
    and `last` are the units'."""

    name: str
    first: Polynomial
    inner: Polynomial
    last: Polynomial

    @property
    def in_units(self) -> bool:
        return "{" in self.name and "{~" not in self.name

    @property
    def total(self) -> Affine:
        if not self.in_units:
            return Affine.constant(self.first)
        return Affine(self.first + self.last - self.inner * 2, self.inner)

    def at(self, layout: Layout | None, units: int) -> Iterator[tuple[str, Polynomial]]:
        """(module, number) at a depth."""
        if layout is None:
            yield self.name, self.first
        elif not self.in_units:
            yield layout.name(self.name, 0, units), self.first
        else:
            for unit in range(units):
                number = self.first if unit == 0 else self.last if unit == units - 1 else self.inner
                yield layout.name(self.name, unit, units), number


def total(numbers: Sequence[ModuleNumber]) -> Affine:
    found = Affine(Polynomial({}), Polynomial({}))
    for number in numbers:
        one = number.total
        found = Affine(found.base + one.base, found.per_unit + one.per_unit)
    return found


def numbers_json(numbers: Sequence[ModuleNumber]) -> list[list[Any]]:
    """An entry whose three numbers are one is written once."""
    rows = []
    for name, *triple in numbers:
        distinct = triple[:1] if triple[0] == triple[1] == triple[2] else triple
        rows.append([name, *(affine_json(Affine.constant(p)) for p in distinct)])
    return rows


def numbers_from_json(rows: Sequence[Sequence[Any]]) -> tuple[ModuleNumber, ...]:
    numbers = []
    for name, *written in rows:
        polynomials = [_plain(p) for p in written]
        first, inner, last = polynomials * 3 if len(polynomials) == 1 else polynomials
        numbers.append(ModuleNumber(name, first, inner, last))
    return tuple(numbers)


def _plain(data: Mapping[str, Sequence[int]]) -> Polynomial:
    return affine_from_json(data).base
