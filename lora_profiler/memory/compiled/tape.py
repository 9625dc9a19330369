"""The tape of a training step: births and deaths of storages in order, folded so that it serves any
number of layers.

A flat tape lists every event. A folded one keeps the units of a stack of layers (a unit is one
layer, or one period of unlike ones) as blocks: first, second, last but one, last. The blocks
between are copies, whose references point as far to the side as their own do. `expand` makes the
flat tape of any depth again; the compiler proves it equal to fresh traces of other depths."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from lora_profiler._common.polynomial import Exponents, Polynomial
from lora_profiler.memory.prediction import Category

# --- tapes ----------------------------------------------------------------------------------------

LEAST_UNITS = 4
"""Units that a folded tape was made of, and the fewest that it can be expanded to."""

Anchor = Literal["here", "first", "last", "single"]
"""How a reference counts units: from the unit it stands in, from the first one, back from the last
one, or not at all."""


class Birth(NamedTuple):
    """One storage: which size, of which module, made by which operator, and whether autograd keeps
    it at the end of forward."""

    size: int
    category: Category
    module: str
    op: str
    saved: bool


class Mark(NamedTuple):
    """From here on `phase` of `step` runs, micro-batch `micro`. With `note`, an instant within the
    phase that was running."""

    step: int
    micro: int
    phase: str
    note: str


class Death(NamedTuple):
    """The storage born as number `ordinal` of a block `back` runs before this one, counted from the
    end of that block where it is negative; see `Anchor` for `unit`.

    Runs are counted back, so that the second step is written as the first one is.
    """

    back: int
    anchor: Anchor
    unit: int
    ordinal: int


Event = Birth | Death | Mark


class FlatEvent(NamedTuple):
    """An event of a flat tape: the birth, or the number of the birth that dies, or a mark."""

    birth: Birth | None
    dies: int
    mark: Mark | None


Place = tuple[int, int, int]


class BlockRun(NamedTuple):
    """Consecutive blocks of events. `direction` 0: one block outside the stack; 1 or -1: its units,
    forth or back."""

    direction: int
    blocks: tuple[tuple[Event, ...], ...]

    def block_of(self, unit: int, units: int) -> int:
        """Which block stands for `unit` of `units`; the copied one is the later of the two inner
        ones in the order of time."""
        if unit < 2 and (self.direction > 0 or unit == 0):
            return unit
        if unit >= units - 2 and (self.direction < 0 or unit == units - 1):
            return LEAST_UNITS - (units - unit)
        return 2 if self.direction > 0 else 1

    def units(self, units: int) -> Iterator[int]:
        return iter(range(units) if self.direction > 0 else range(units - 1, -1, -1))


class Layout(NamedTuple):
    """How units lie in a stack of layers: `prefix` layers before them, `period` layers a unit,
    `tail` layers behind. An encoder and a decoder of one depth are two stacks that lie alike."""

    stacks: tuple[str, ...]
    prefix: int
    period: int
    tail: int

    def place(self, module: str) -> tuple[str, int, str] | None:
        """What stands before a layer's number in a module's name, the number, and what stands
        behind it; None outside the stacks."""
        for stack in self.stacks:
            if module.startswith(head := f"{stack}."):
                number = module[len(head) :].partition(".")[0]
                return head, int(number), module[len(head) + len(number) :]
        return None

    def layers(self, units: int) -> int:
        return self.prefix + units * self.period + self.tail

    def units_of(self, layers: int) -> int | None:
        """None for a number of layers that is no whole number of units."""
        whole, rest = divmod(layers - self.prefix - self.tail, self.period)
        return whole if not rest and whole >= LEAST_UNITS else None

    def first_like(self, module: str) -> str:
        """The module before the units, or of the first one, that `module` repeats."""
        place = self.place(module)
        if place is None:
            return module
        head, index, rest = place
        if index >= self.prefix:
            index = self.prefix + (index - self.prefix) % self.period
        return f"{head}{index}{rest}"

    def name(self, template: str, unit: int, units: int) -> str:
        """A module's name: `template` has "{k}" for the layer k places behind the unit's first,
        "{~k}" for the k-th last."""
        head, brace, rest = template.partition("{")
        if not brace:
            return template
        number, _, tail = rest.partition("}")
        if number.startswith("~"):
            return f"{head}{self.layers(units) - int(number[1:])}{tail}"
        return f"{head}{self.prefix + unit * self.period + int(number)}{tail}"


class Stretch(NamedTuple):
    """Consecutive events within a block of a run, as written for every depth, at one place of a
    tape. `births` tells the numbers of the births of each block, by run and unit."""

    run: int
    unit: int
    events: Sequence[Event]
    births: Mapping[tuple[int, int], range]

    def born_in(self, death: Death, units: int) -> int:
        """The number from which the ordinal of `death` counts: of the first birth in the block
        whose storage dies here, or of the one behind its last."""
        births = self.births[self.run - death.back, resolved(death, self.unit, units)]
        return births.start if death.ordinal >= 0 else births.stop


class Tape(NamedTuple):
    """A folded tape; without a layout it has one run, and serves the depth that it was traced
    at."""

    runs: tuple[BlockRun, ...]
    layout: Layout | None

    def blocks(self, units: int) -> Iterator[tuple[int, int, tuple[Event, ...]]]:
        """(run, unit, block as it is written for every depth) at a depth of `units`, in order."""
        for q, run in enumerate(self.runs):
            for unit in run.units(units) if run.direction else (0,):
                yield q, unit, run.blocks[run.block_of(unit, units) if run.direction else 0]

    def stretches(self, units: int, begins: Callable[[Event], bool]) -> Iterator[Stretch]:
        """The blocks, in order, each cut before every event with which something `begins`; equal
        ones share one object as their events."""
        births: dict[tuple[int, int], range] = {}
        known: dict[int, tuple[int, list[tuple[Event, ...]]]] = {}
        end = 0
        for q, unit, block in self.blocks(units):
            if id(block) not in known:
                cuts = [i for i, event in enumerate(block) if i and begins(event)]
                known[id(block)] = (
                    sum(isinstance(event, Birth) for event in block),
                    [block[a:b] for a, b in pairwise((0, *cuts, len(block)))],
                )
            count, parts = known[id(block)]
            start, end = end, end + count
            births[q, unit] = range(start, end)
            for part in parts:
                yield Stretch(q, unit, part, births)

    def expand(self, units: int) -> list[FlatEvent]:
        """Every event at a depth of `units`. Raises LookupError where a storage dies that is not
        born."""
        births: dict[tuple[int, int], range] = {}
        expanded: list[FlatEvent] = []
        end = 0
        for q, unit, block in self.blocks(units):
            start, end = end, end + sum(isinstance(event, Birth) for event in block)
            births[q, unit] = range(start, end)
            names: dict[str, str] = {}
            for event in block:
                if isinstance(event, Birth):
                    size, category, template, op, saved = event
                    if self.layout and template not in names:
                        names[template] = self.layout.name(template, unit, units)
                    name = names.get(template, template)
                    expanded.append(FlatEvent(Birth(size, category, name, op, saved), -1, None))
                elif isinstance(event, Death):
                    born = births[q - event.back, resolved(event, unit, units)]
                    expanded.append(FlatEvent(None, born[event.ordinal], None))
                else:
                    expanded.append(FlatEvent(None, -1, event))
        return expanded

    def places(self, units: int) -> Iterator[tuple[Place, Event]]:
        """Beside each event of `expand`: (run, unit, number within its block), and the event as it
        is written for every depth."""
        for q, unit, block in self.blocks(units):
            for i, event in enumerate(block):
                yield (q, unit, i), event


def resolved(death: Death, unit: int, units: int) -> int:
    """The unit that a death means which stands in `unit` of `units`."""
    if death.anchor == "here":
        return unit + death.unit
    if death.anchor == "last":
        return units - 1 - death.unit
    return death.unit


# --- as JSON --------------------------------------------------------------------------------------


def tape_json(tape: Tape) -> dict[str, Any]:
    known: dict[Event, int] = {}
    for run in tape.runs:
        for block in run.blocks:
            for event in block:
                known.setdefault(event, len(known))
    kinds = {Birth: "b", Death: "d", Mark: "m"}
    return {
        "events": [[kinds[type(event)], *event] for event in known],
        "runs": [
            [run.direction, [[known[event] for event in block] for block in run.blocks]]
            for run in tape.runs
        ],
    }


def tape_from_json(data: Mapping[str, Any], layout: Layout | None) -> Tape:
    kinds: dict[str, type[Birth] | type[Death] | type[Mark]] = {"b": Birth, "d": Death, "m": Mark}
    events: list[Event] = [kinds[kind](*fields) for kind, *fields in data["events"]]
    runs = (
        BlockRun(direction, tuple(tuple(events[i] for i in block) for block in blocks))
        for direction, blocks in data["runs"]
    )
    return Tape(tuple(runs), layout)


# --- polynomials that are affine in the depth -----------------------------------------------------

# Polynomials in batch, sequence and rank whose coefficients grow linearly with the number of units
# of a stack; and a number for every module of a folded model: one entry for all units, whose first
# and last may differ.


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
