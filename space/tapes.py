"""What training asks CUDA's allocator for, with batch, length, rank and card left open: the
requests of `memory.compiled.requests`, folded for the page without a server."""

import json
from collections.abc import Sequence
from typing import Any

from lora_profiler._common.polynomial import ZERO, Polynomial, Values
from lora_profiler.memory.compiled.allocator import EMPTY_CACHE
from lora_profiler.memory.compiled.evaluation import Evaluation, tape_of
from lora_profiler.memory.compiled.requests import GIVEN_BACK, OWN, Asked, Asking
from lora_profiler.memory.compiled.tape import Stretch
from lora_profiler.question.support.check import profile_unsupported_reason
from lora_profiler.question.workload import DTYPE_BYTES, Workload

Matrix = list[Any]
"""[monomials, for each the coefficients of all polynomials]. Those are differences from one to the
next, of which layer after layer makes the same: a quarter of the bytes once they are deflated."""


def matrix(polynomials: Sequence[Polynomial]) -> Matrix:
    monomials = sorted({e for p in polynomials for e in p.nonzero()})
    columns = [[p.terms.get(e, 0) for p in polynomials] for e in monomials]
    return [monomials, list(map(_differences, columns))]


class Open(int):
    """A size with its value at one question, and how it comes about at any: `kind` "size" is a
    polynomial; "rows" one over the rows that flash attention pads to, and another; "sum" the
    scratch of a sum over so many columns; "workspace" that of BLAS."""

    kind: str
    of: tuple[Any, ...]

    def __new__(cls, value: int, kind: str, *of: Any) -> "Open":
        made = super().__new__(cls, value)
        made.kind, made.of = kind, of
        return made

    @classmethod
    def size(cls, value: int, polynomial: Polynomial) -> int:
        """Open where it depends on the question."""
        is_constant = not any(any(exponents) for exponents in polynomial.nonzero())
        return value if is_constant else cls(value, "size", polynomial)

    def __mul__(self, factor: int) -> int:
        return Open.size(int(self) * factor, self._polynomial * factor)

    __rmul__ = __mul__

    def __floordiv__(self, divisor: int) -> int:
        return Open.size(int(self) // divisor, self._polynomial // divisor)

    def __add__(self, other: int) -> int:
        """Of rows, and of what each row has beside them."""
        assert self.kind == "rows" and isinstance(other, Open)
        return Open(int(self) + int(other), "rows", self.of[0], other._polynomial)

    @property
    def _polynomial(self) -> Polynomial:
        assert self.kind == "size", self.kind
        polynomial: Polynomial = self.of[0]
        return polynomial

    @property
    def written(self) -> list[Any]:
        """As the page reads it."""
        return [self.kind, *(matrix([p]) if isinstance(p, Polynomial) else p for p in self.of)]


class _Recorded(Asking):
    """The requests of a workload as they are folded: what comes before the steps, and each stretch
    with the first births of the blocks that it gives storages back from."""

    def __init__(self, evaluation: Evaluation, workload: Workload) -> None:
        self.stretches: list[tuple[Asked, list[int]]] = []
        self.before: tuple[int, list[int]] | None = None
        self.once_more: tuple[int, int, list[tuple[int, int]]] | None = None
        super().__init__(evaluation, workload)

    def _steps(self, stretches: Sequence[Stretch]) -> None:
        if self.before is None:
            self.before = len(self._events), list(self._numbers)
        for stretch in stretches:
            key = id(stretch.events), self._unmade, self._phase if self._unmade else ""
            super()._steps([stretch])
            asked = self._asked[key]
            born = [stretch.born_in(death, self._units) for death in asked.homes]
            self.stretches.append((asked, born))

    def _once_more(self, last: Sequence[Stretch], first: int, born: int) -> None:
        at, numbers = len(self.stretches), self._numbers[:born]
        super()._once_more(last, first, born)
        if len(self.stretches) > at:
            now = zip(numbers, self._numbers[:born], strict=True)
            heirs = [(n, new) for n, (old, new) in enumerate(now) if old != new]
            self.once_more = at, born, heirs

    def _valued(self, size: Polynomial, at: Values) -> int:
        return Open.size(size.evaluate(*at), size)

    def _over_rows(self, size: int) -> int:
        assert isinstance(size, Open)
        return Open(super()._over_rows(int(size)), "rows", size.of[0], ZERO)

    def _scratch_of_sum(self, size: int) -> int:
        width = DTYPE_BYTES[self._workload.setup.dtype]
        return Open(super()._scratch_of_sum(size), "sum", int(size) // width)

    @property
    def _workspace(self) -> int:
        return Open(super()._workspace, "workspace")


KINDS = ("sizes", "befores", "shapes", "stretches", "ways")


class Tapes:
    """Those of several ways to train, which share what is equal."""

    def __init__(self) -> None:
        self._known: dict[str, dict[str, int]] = {kind: {} for kind in KINDS}
        self._of: dict[tuple[Evaluation, str, bool], int] = {}

    @property
    def document(self) -> dict[str, list[Any]]:
        """`sizes`: numbers, or kinds with what they are of. `befores`: [requests, or how far back
        the one is that is given back; births]. `shapes`: [births, events as `_written`];
        `stretches`: [shape, sizes]. `ways`: [sizes, before, stretches with first births of homes,
        once more]; births and homes are differences."""
        return {kind: list(map(json.loads, known)) for kind, known in self._known.items()}

    def place(self, workload: Workload) -> int | None:
        """The place of a way among all; None where there is no tape, or none that can be folded."""
        evaluation = None if profile_unsupported_reason(workload) else tape_of(workload)
        if evaluation is None:
            return None
        setup = workload.setup
        is_cudnn = Asking.is_cudnn(workload)
        key = evaluation, setup.dtype, is_cudnn
        if key not in self._of:
            self._of[key] = self._folded(_Recorded(evaluation, workload))
        return self._of[key]

    def _put(self, kind: str, what: Any) -> int:
        known = self._known[kind]
        return known.setdefault(json.dumps(what), len(known))

    def _folded(self, found: _Recorded) -> int:
        own: dict[int, int] = {}

        known: dict[int, int] = {}  # by identity: most sizes are one object many times

        def local(size: int) -> int:
            """Numbered as they come, so that models of one kind share their stretches."""
            if id(size) not in known:
                written = size.written if isinstance(size, Open) else size
                known[id(size)] = own.setdefault(self._put("sizes", written), len(own))
            return known[id(size)]

        assert found.before is not None
        count, numbers = found.before
        sizes, events = found.requests.sizes, found.requests.events[:count]
        assert events[-1] == EMPTY_CACHE and EMPTY_CACHE not in events[:-1]
        taken, requests = 0, list[int]()
        for event in events[:-1]:
            requests.append(local(sizes[event]) if event >= 0 else ~(taken - 1 - ~event))
            taken += event >= 0
        before = self._put("befores", [requests, _differences(numbers)])
        last: dict[int, list[int]] = {}
        places: dict[int, int] = {}
        stretches = []
        for asked, born in found.stretches:
            if id(asked) not in places:
                shape = self._put("shapes", [_differences(asked.births), _written(asked)])
                own_sizes = list(map(local, asked.sizes))
                places[id(asked)] = self._put("stretches", [shape, own_sizes])
            place = places[id(asked)]
            earlier = last.get(place, [0] * len(born))
            stretches.append([place, *(a - b for a, b in zip(born, earlier, strict=True))])
            last[place] = born
        return self._put("ways", [list(own), before, stretches, found.once_more])


def _written(asked: Asked) -> list[int]:
    """0 for the next request of the stretch; else where the storage is from, from 1 on, and how far
    its number is from the last one of there."""
    written, taken, last = list[int](), 0, dict[int, int]()
    for home, number in asked.events:
        if home == OWN:
            assert number == taken
            taken += 1
            written.append(0)
        else:
            written += [home - GIVEN_BACK + (home == GIVEN_BACK), number - last.get(home, 0)]
            last[home] = number
    return written


def _differences(numbers: Sequence[int]) -> list[int]:
    return [b - a for a, b in zip((0, *numbers), numbers, strict=False)]
