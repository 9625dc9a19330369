"""A number for every module of a folded model: one entry for all units of a stack, whose first and
last may differ."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lora_profiler.algebra import Polynomial
from lora_profiler.compiled.affine import Affine, affine_from_json, affine_json
from lora_profiler.compiled.tape import Layout


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
