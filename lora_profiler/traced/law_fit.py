"""Sizes seen in toys, solved into a law: each is a product of factors that the models have, or a
sum of two or three of them; refused on any doubt."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from functools import cache
from itertools import chain, combinations, combinations_with_replacement, product
from math import prod

from lora_profiler.algebra import Exponents, Polynomial
from lora_profiler.compiled.law import factors_of, sizes_of
from lora_profiler.compiled.profile import Law, Monomial
from lora_profiler.compiled.tape import Layout
from lora_profiler.model_spec import ModelSpec
from lora_profiler.traced.fit import MONOMIALS, NoPolynomialError, Point, solved

MOST_FACTORS = 4
BLOCKS = -1
"""In place of a number of factors: a factor that counts blocks of a weight, tried after all
products, to which it is equal where nothing is rounded up."""
LARGEST_DIVISOR = 64
_PRIME = 2**61 - 1
"""Ratios of sizes are looked up modulo it; what is found is checked in whole numbers."""
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
}
"""How many widths of a module its FLOPs and elements have beside tokens and rank: an adapter's
stand beside those of its layer."""
_OF_ATTENTION: Mapping[Exponents, tuple[int, ...]] = {(1, 2, 0, 0, 0, 0): (2,)}
"""The same of a module without widths: heads and their widths, beside the square of the length."""
Column = tuple[int, ...]
Part = tuple[tuple[int, ...], Exponents]
Term = tuple[Fraction, tuple[int, ...], Exponents]


class LawFit:
    """A law in the making, fitted through `models`, each at its own point."""

    def __init__(
        self, models: Sequence[ModelSpec], points: Sequence[Point], layout: Layout
    ) -> None:
        found = [factors_of(model, layout) for model in models]
        by_values: dict[Column, list[str]] = {}
        for name in found[0]:
            by_values.setdefault(tuple(one[name] for one in found), []).append(name)
        constant = [values for values in by_values if len(set(values)) == 1]
        self._layout = layout
        self._constants = {name: values[0] for values in constant for name in by_values.pop(values)}
        self._factors = tuple(map(tuple, by_values.values()))
        self._columns = tuple(by_values)
        self._plain = [i for i, names in enumerate(self._factors) if "/" not in names[0]]
        self._blocks = [i for i, names in enumerate(self._factors) if "/" in names[0]]
        of_config = sizes_of(models[0]).keys()
        self._of_config = [i for i in self._plain if of_config & {*self._factors[i]}]
        self._symbols = [
            (exponents, tuple(Polynomial({exponents: 1}).evaluate(*point) for point in points))
            for exponents in MONOMIALS
        ]
        self._numbers: dict[Monomial, int] = {}
        self._products: dict[int, dict[Column, tuple[int, ...]]] = {}
        self.polynomial = cache(self._polynomial)

    @property
    def law(self) -> Law:
        return Law(self._factors, self._constants, tuple(self._numbers))

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
        found = self._product(sizes) or self._sum_of_module(name, sizes)
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
        head = f"{self._layout.first_like(name)}."
        own = [i for i in self._plain if any(n.startswith(head) for n in self._factors[i])]
        degrees = _OF_MODULE if own else _OF_ATTENTION
        basis = [
            (factors, exponents, self._column(factors, symbols))
            for exponents, symbols in self._symbols
            for degree in degrees.get(exponents, ())
            for factors in combinations_with_replacement(own or self._of_config, degree)
        ]
        for chosen in chain(combinations(basis, 2), combinations(basis, 3)):
            solution = solved([column for *_, column in chosen], sizes)
            if solution and all(x.denominator == 1 and x > 0 for x in solution):
                return self._sum([(x, f, e) for x, (f, e, _) in zip(solution, chosen, strict=True)])
        return None

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
        """Products of so many factors by their ratios over the toys; of one factor that is a number
        of blocks for `BLOCKS`."""
        if degree not in self._products:
            ones = (1,) * len(self._columns[0])
            few, count = (self._blocks, 1) if degree == BLOCKS else (self._plain, degree)
            chosen = combinations_with_replacement(few, count)
            found: dict[Column, tuple[int, ...]] = {}
            for factors in chosen:
                found.setdefault(_ratios(self._column(factors, ones)), factors)
            self._products[degree] = found
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


def _ratios(column: Sequence[int]) -> Column:
    inverse = pow(column[0], -1, _PRIME)
    return tuple(x * inverse % _PRIME for x in column[1:])
