"""Sizes seen at a few points, solved into exact integer polynomials in batch, sequence and rank;
refused on any doubt."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cache
from itertools import combinations, combinations_with_replacement, product
from math import prod
from typing import NamedTuple

import torch

from lora_profiler._common.polynomial import Exponents, Polynomial
from lora_profiler.memory.compiled.law import OF_LOSS, factors_of, role_of, sizes_of
from lora_profiler.memory.compiled.profile import Law, Monomial
from lora_profiler.memory.compiled.tape import Layout
from lora_profiler.question.model_spec import ModelSpec


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


# --- laws of a type -------------------------------------------------------------------------------

# Sizes seen in toys, solved into a law: each is a product of factors that the models have, or a sum
# of two or three of them; refused on any doubt.

MOST_FACTORS = 4
BLOCKS = -1
"""In place of a number of factors: a factor that counts blocks of a weight, tried after all
products, to which it is equal where nothing is rounded up."""
LARGEST_DIVISOR = 64
_PRIME = 2**61 - 1
"""Ratios of sizes are looked up modulo it; what is found is checked in whole numbers."""
_SMALL_PRIME = 2**31 - 1
_PAIRS = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
"""Rows of the minors by which a determinant of four is expanded, and with which sign."""
_SIGNS = torch.tensor([[1], [-1], [1], [1], [-1], [1]])
_SHARES = (
    *((1, k) for n in range(1, 9) for k in (n, -n)),
    *((k, 1) for n in range(2, 9) for k in (n, -n)),
)
"""In sums of two: B(S - 1), S + k - 1 of a convolution."""
_OF_MODULE: Mapping[Exponents, tuple[int, ...]] = {
    (1, 1, 0, 0, 0, 0): (1, 2),
    (1, 1, 1, 0, 0, 0): (0, 1),
    (0, 0, 1, 0, 0, 0): (0, 1, 2),
    (0, 0, 0, 0, 0, 0): (1, 2),
    (1, 2, 0, 0, 0, 0): (1,),
}
"""How many widths of a module its FLOPs and elements have beside tokens and rank: an adapter's
stand beside those of its layer, and attention's beside the square of the length."""
_OF_EXPERTS: Mapping[Exponents, tuple[int, ...]] = {
    (1, 1, 0, 0, 0, 0): (2, 3),
    (1, 1, 1, 0, 0, 0): (1, 2),
    (0, 0, 1, 0, 0, 0): (1, 2, 3),
    (0, 0, 0, 0, 0, 0): (1, 2, 3),
}
"""The same of experts in one weight, whose number and the number chosen count too."""
_OF_ATTENTION: Mapping[Exponents, tuple[int, ...]] = {(1, 2, 0, 0, 0, 0): (2,)}
"""The same of a module without widths: heads and their widths, beside the square of the length."""
_WITHOUT_LENGTH = sorted(MONOMIALS, key=lambda exponents: any((exponents[1], *exponents[3:])))
"""For one length alone: what does not grow with it first, since that is a number like any."""
Column = tuple[int, ...]
Part = tuple[tuple[int, ...], Exponents]
Term = tuple[Fraction, tuple[int, ...], Exponents]


class LawFit:
    """A law in the making, fitted through `models`, each at its own point."""

    def __init__(
        self,
        models: Sequence[ModelSpec],
        points: Sequence[TracedSizes],
        layout: Layout,
        rank: int | None,
        losses: Sequence[Sequence[int]],
    ) -> None:
        """`rank`: see `factors_of`. `losses`: for each model its factors `OF_LOSS`, none where the
        law has the loss."""
        found = [
            factors_of(model, layout, rank) | dict(zip(OF_LOSS, loss, strict=False))
            for model, loss in zip(models, losses, strict=True)
        ]
        by_values: dict[Column, list[str]] = {}
        for name in found[0]:
            by_values.setdefault(tuple(one[name] for one in found), []).append(name)
        constant = [values for values in by_values if len(set(values)) == 1]
        self._layout = layout
        self._constants = {name: values[0] for values in constant for name in by_values.pop(values)}
        self._factors = tuple(map(tuple, by_values.values()))
        self._columns = tuple(by_values)
        self._ratios = proportional(self._factors, self._columns)
        self._plain = [i for i, names in enumerate(self._factors) if "/" not in names[0]]
        self._blocks = [i for i, names in enumerate(self._factors) if "/" in names[0]]
        of_config = sizes_of(models[0]).keys()
        self._of_config = [i for i in self._plain if of_config & {*self._factors[i]}]
        self._of_experts = [
            i
            for i in self._of_config
            if {"experts", "chosen"} & {role_of(name) for name in self._factors[i]}
        ]
        self._frames = tuple(
            i for i, names in enumerate(self._factors) if "max_source_positions" in names
        )
        self._symbols = [
            (exponents, tuple(Polynomial({exponents: 1}).evaluate(*point) for point in points))
            for exponents in (MONOMIALS if len({p.seq for p in points}) > 1 else _WITHOUT_LENGTH)
        ]
        self._numbers: dict[Monomial, int] = {}
        self._products: dict[int, dict[Column, tuple[int, ...]]] = {}
        self.polynomial = cache(self._polynomial)
        self._of_module = cache(self._sum_of_module)

    @property
    def law(self) -> Law:
        return Law(self._factors, self._constants, tuple(self._numbers), self._ratios)

    def _polynomial(self, sizes: Column) -> Polynomial:
        """Over the law's monomials. Raises NoPolynomialError."""
        if found := self._product(sizes):
            return found
        for degree, (terms, columns) in product(range(3), self._sums_of_two()):
            if factor := self._times(sizes, columns, degree):
                coefficient, factors = factor
                return self._sum([(coefficient * k, (*factors, *own), e) for k, (own, e) in terms])
        raise NoPolynomialError(f"sizes {sizes} of toys")

    def of_module(self, name: str, sizes: Column) -> Polynomial:
        """Of a number that belongs to a module, which may also be a sum over what is made of its
        own widths. Raises NoPolynomialError."""
        found = self._product(sizes) or self._of_module(self._layout.first_like(name), sizes)
        if found is None:
            raise NoPolynomialError(f"numbers {sizes} of {name} in toys")
        return found

    def _product(self, sizes: Column) -> Polynomial | None:
        if not any(sizes):
            return Polynomial({})
        for degree, (exponents, symbols) in product(
            (*range(MOST_FACTORS + 1), BLOCKS), self._symbols
        ):
            if found := self._times(sizes, symbols, degree):
                coefficient, factors = found
                return self._sum([(coefficient, factors, exponents)])
        return None

    def _sum_of_module(self, name: str, sizes: Column) -> Polynomial | None:
        head = f"{name}."
        own = [i for i in self._plain if any(n.startswith(head) for n in self._factors[i])]
        degrees = _OF_MODULE if own else _OF_ATTENTION
        if any(n.startswith(head) and n.endswith("[2]") for i in own for n in self._factors[i]):
            own, degrees = sorted({*own, *self._of_experts}), _OF_EXPERTS
        basis = {
            self._column(factors, symbols): (factors, exponents)
            for exponents, symbols in reversed(self._symbols)
            for degree, times in self._degrees(degrees, exponents)
            for widths in combinations_with_replacement(own or self._of_config, degree)
            for factors in [(*widths, *self._frames * times)]
        }
        for chosen in spanning([*basis], sizes):
            solution = solved(chosen, sizes)
            if solution and all(x.denominator == 1 and x > 0 for x in solution):
                return self._sum([(x, *basis[c]) for x, c in zip(solution, chosen, strict=True)])
        return None

    def _degrees(
        self, degrees: Mapping[Exponents, tuple[int, ...]], exponents: Exponents
    ) -> Iterator[tuple[int, int]]:
        """How many widths stand beside `exponents`, and how often the length of an encoder's input
        in place of the tokens."""
        yield from ((degree, 0) for degree in degrees.get(exponents, ()))
        if self._frames and not exponents[1]:
            batch, _, rank, i, j, k = exponents
            for times in (1, 2):
                of_tokens = degrees.get((batch, times, rank, i, j, k), ())
                yield from ((degree, times) for degree in of_tokens)

    def _column(self, factors: Sequence[int], symbols: Column) -> Column:
        return tuple(
            symbol * prod(self._columns[i][toy] for i in factors)
            for toy, symbol in enumerate(symbols)
        )

    def _sum(self, terms: Sequence[Term]) -> Polynomial:
        made: dict[Exponents, int] = {}
        for coefficient, factors, exponents in terms:
            monomial = Monomial(tuple(sorted(factors)), coefficient.denominator, exponents)
            number = self._numbers.setdefault(monomial, len(self._numbers))
            made[number, 0, 0, 0, 0, 0] = coefficient.numerator
        return Polynomial(made)

    def _times(
        self, sizes: Column, over: Column, degree: int
    ) -> tuple[Fraction, tuple[int, ...]] | None:
        """The number and the `degree` factors by which `over` must be multiplied."""
        if not (all(over) and all(sizes)):
            return None
        quotients = [
            size * pow(part, -1, _PRIME) % _PRIME for size, part in zip(sizes, over, strict=True)
        ]
        factors = self._of_degree(degree).get(_ratios(quotients))
        if factors is None:
            return None
        columns = self._column(factors, over)
        coefficient = Fraction(sizes[0], columns[0])
        is_equal = all(coefficient * c == size for c, size in zip(columns, sizes, strict=True))
        is_small = coefficient.denominator <= LARGEST_DIVISOR
        return (coefficient, factors) if is_equal and is_small else None

    def _of_degree(self, degree: int) -> Mapping[Column, tuple[int, ...]]:
        """Products of so many factors by their ratios over the toys, of several the smallest one,
        of which others are multiples; of one factor that is a number of blocks for `BLOCKS`."""
        if degree not in self._products:
            ones = (1,) * len(self._columns[0])
            few, count = (self._blocks, 1) if degree == BLOCKS else (self._plain, degree)
            chosen = combinations_with_replacement(few, count)
            found: dict[Column, tuple[int, tuple[int, ...]]] = {}
            for factors in chosen:
                column = self._column(factors, ones)
                ratios = _ratios(column)
                if ratios not in found or column[0] < found[ratios][0]:
                    found[ratios] = column[0], factors
            self._products[degree] = {ratios: factors for ratios, (_, factors) in found.items()}
        return self._products[degree]

    def _sums_of_two(self) -> Iterator[tuple[Sequence[tuple[int, Part]], Column]]:
        """Of symbols and sizes of the config."""
        simple: list[tuple[Part, Column]] = [
            ((factors, exponents), self._column(factors, symbols))
            for exponents, symbols in self._symbols[:8]
            for factors in ((), *((i,) for i in self._of_config))
        ]
        for ((a, x), (b, y)), (m, n) in product(combinations(simple, 2), _SHARES):
            yield [(m, a), (n, b)], tuple(m * i + n * j for i, j in zip(x, y, strict=True))


def proportional(
    factors: Sequence[Sequence[str]], columns: Sequence[Column]
) -> tuple[tuple[int, int, int, int], ...]:
    """`Law.ratios`: each factor that was a fixed multiple of an earlier one in every toy. Counts of
    blocks are left out, since they are rounded up."""
    first: dict[Column, int] = {}
    found = []
    for i, column in enumerate(columns):
        if "/" in factors[i][0]:
            continue
        other = first.setdefault(_ratios(column), i)
        if other != i:
            share = Fraction(column[0], columns[other][0])
            found.append((i, other, share.numerator, share.denominator))
    return tuple(found)


def spanning(columns: Sequence[Column], sizes: Column) -> Iterator[tuple[Column, ...]]:
    """Two columns of four numbers each, and then three, that `sizes` lies in the span of, as far as
    modulo `_SMALL_PRIME` can tell."""
    every = torch.tensor([*columns, sizes]).remainder(_SMALL_PRIME)

    def minors(one: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        return torch.stack(
            [(one[a] * others[:, b] - one[b] * others[:, a]) % _SMALL_PRIME for a, b in _PAIRS]
        )

    parts = minors(every[-1], every[:-1])
    for i in range(len(columns)):  # with the sizes taken away two are as one
        others = parts[:, i + 1 :]
        differs = [
            (parts[a, i] * others[b] - parts[b, i] * others[a]) % _SMALL_PRIME != 0
            for a, b in ((0, 1), (0, 2), (1, 2))
        ]
        same = ~(differs[0] | differs[1] | differs[2])
        yield from ((columns[i], columns[i + 1 + j]) for j in same.nonzero().flatten().tolist())
    rest = parts.flip(0) * _SIGNS
    for i in range(len(columns)):
        parts = minors(every[i], every[i + 1 : -1])
        found = sum((a[:, None] * b) % _SMALL_PRIME for a, b in zip(parts, rest, strict=True))
        for j, k in ((found % _SMALL_PRIME) == 0).nonzero().tolist():
            if i + 1 + j < k:
                yield columns[i], columns[i + 1 + j], columns[k]


def _ratios(column: Sequence[int]) -> Column:
    inverse = pow(column[0], -1, _PRIME)
    return tuple(x * inverse % _PRIME for x in column[1:])
