"""The peak of a way to train, with batch, length, rank and card left open, for the page without a
server: polynomials whose coefficients are affine in a few numbers that follow from these sizes, as
how many tokens a chunk of a trainer's loss has."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from itertools import cycle, product
from math import lcm, prod
from typing import Any, NamedTuple

from lora_profiler._common.polynomial import Polynomial, undominated
from lora_profiler.features.losses._torchtune import CHUNKS
from lora_profiler.features.losses.unsloth import cut_of
from lora_profiler.memory.analytic import moments, plan
from lora_profiler.memory.analytic.families import family_of
from lora_profiler.memory.analytic.losses import chunk_regime
from lora_profiler.memory.compiled.regime import pads_masks
from lora_profiler.planning.engine import (
    as_known,
    engine_for_all,
    peak_polynomials,
    predict_checked,
)
from lora_profiler.planning.fit import largest
from lora_profiler.planning.reserve import held_bytes
from lora_profiler.question.adapters import adapters
from lora_profiler.question.kernel_set import of_set
from lora_profiler.question.optimizer import package_optimizer
from lora_profiler.question.support.losses import chunk_rows, head_of, loss_regime
from lora_profiler.question.support.offloading import is_offloaded
from lora_profiler.question.support.optimizers import counts_in_steps
from lora_profiler.question.support.sdpa import MASK_ALIGNMENT
from lora_profiler.question.workload import DTYPE_BYTES, Workload
from space.tapes import Matrix, matrix

ENGINE = "auto"
"""A profile where there is one, as the command asks."""
SEVERAL = (2, 3, 4, 5, 6, 7, 9, 16, 61, 250, 1000, 4096)
"""Batches of several samples at which polynomials are compared: of every remainder of eight, into
which torchtune parts tokens."""
RANK = 16
"""The usual one, of which alone some laws are."""
OTHER_RANKS = (1, 2, 100)
ALL_RANKS = (*OTHER_RANKS, RANK)
PARTS_OF_A_SPAN = 16
STEPS = (0, 1, 2, 3, 8, 15, 24, 31, 56, 120, 250, 510, 1000, 2100, 8000)
"""Lengths at which they are, in alignments above the first."""
SEVERAL_PARTS = 3
"""From so many parts on of a loss its rules are the same."""
MOST_TOKENS = 2**20
OFFLOADED = 2 * (SEVERAL_PARTS + 1)
"""Added to the kind."""


NOT_HERE = "this page cannot answer this; ask the command."


class NotOnPageError(Exception):
    """A way whose peak is not known as a whole, or not of the form that the page evaluates."""

    def __init__(self) -> None:
        super().__init__(NOT_HERE)


class Sized(NamedTuple):
    """What a way's polynomials depend on at some sizes, beside `Law.lasting`. `kind`: what flips a
    rule; `numbers`: what their coefficients are affine in."""

    kind: int
    numbers: tuple[int, ...]


class Sizes(NamedTuple):
    """`small`: whether the GPU has little memory, as Unsloth's loss has it."""

    batch: int
    length: int
    rank: int
    small: bool


def resized(
    way: Workload, batch: int | None = None, length: int | None = None, rank: int | None = None
) -> Workload:
    """At other sizes; None for its own."""
    setup = way.setup
    lora = setup.lora and replace(setup.lora, r=rank or setup.lora.r)
    sizes = {"batch_size": batch or setup.batch_size, "seq_len": length or setup.seq_len}
    return replace(way, setup=replace(setup, **sizes, lora=lora))


class Law:
    """How `Sized` follows from the sizes of `way`; `written` as the page reads it."""

    def __init__(self, way: Workload) -> None:
        self._way = way = as_known(way, ENGINE)
        setup = way.setup
        self.loss = "plain" if chunk_regime(way) is None else setup.loss
        self.counts_states = setup.lora is not None and counts_in_steps(setup)
        self._positions = of_set(setup.kernels, "positions")
        self.keeps_positions = self._positions is not None
        self.is_open = self.loss != "plain" or self.counts_states or self.keeps_positions

    @property
    def written(self) -> list[Any]:
        """As the page reads it: [loss, whether inputs of checkpoints may be offloaded, optimizer of
        adapters where its states are counted, bytes of each position, whether layers are compiled,
        whether the head is frozen]; `of_model` has the rest."""
        setup = self._way.setup
        return [
            self.loss,
            int(setup.offload_checkpoints),
            setup.optimizer if self.counts_states else "",
            self._of_position,
            int(setup.compiles_layers),
            int(setup.lora is not None),
        ]

    def at(self, sizes: Sizes) -> Sized:
        kind, numbers = self._of_loss(sizes)
        tokens = sizes.batch * sizes.length
        if self._offloaded_from is not None and tokens >= self._offloaded_from:
            kind += OFFLOADED
        return Sized(kind, numbers)

    def lasting(self, sizes: Sizes) -> int:
        """Bytes that every moment has: states of adapters, and tables of positions."""
        size = self.states(sizes.rank) if self.counts_states else 0
        if self.keeps_positions:
            size += self._of_position * self._positions(self.way_at(sizes))
        return size

    @cached_property
    def _of_position(self) -> int:
        if not self.keeps_positions:
            return 0
        family, setup = family_of(self._way.model), self._way.setup
        assert family is not None
        width = sum(size for _, size in family.rotary_sets(self._way.model.config))
        return 2 * width * DTYPE_BYTES[setup.dtype]

    def _of_loss(self, sizes: Sizes) -> Sized:
        if self.loss == "plain":
            return Sized(0, ())
        head, batch, length = head_of(self._way.model), sizes.batch, sizes.length
        assert head is not None and head.in_features and head.out_features
        if self.loss == "fused":
            rows = chunk_rows(batch * length, head.out_features, head.in_features)
            return Sized(0, (rows,))
        regime = int(loss_regime(self._on[sizes.small], head, batch, length))
        match self.loss:
            case "trl":
                return Sized(regime % 3, ())
            case "torchtune" if regime < 0:
                whole, rest = divmod(-regime - 1, CHUNKS)
                return Sized(rest, (whole,))
            case "torchtune":
                rest = regime % CHUNKS
                return Sized(0, tuple(int(rest == n) for n in range(1, CHUNKS)))
            case "litgpt":
                parts, is_empty = divmod(regime, 2) if regime > 0 else (-regime, 0)
                return Sized(2 * min(parts - is_empty, SEVERAL_PARTS) + is_empty, (parts,))
        assert self.loss == "unsloth", self.loss
        cut = cut_of(regime)
        kind, done = 2 * min(cut.parts, SEVERAL_PARTS) + cut.tiled, (cut.parts - 1) * cut.rows
        return Sized(kind, (cut.rows, done) if done else (0, 0))

    @cached_property
    def turns(self) -> list[int]:
        """Tokens of a micro-batch near which the kind may change but seldom elsewhere."""
        if self.loss not in ("trl", "unsloth") and self._offloaded_from is None:
            return []
        head = head_of(self._way.model)
        assert head is not None and head.in_features and head.out_features
        rows = [2**power for power in range(7, 14)]
        buffers = [2 * each * head.out_features // head.in_features for each in rows]
        largest_buffer = 2**29 // head.out_features
        offloaded = [] if self._offloaded_from is None else [self._offloaded_from]
        return [*rows, *buffers, largest_buffer, 2 * largest_buffer, *offloaded]

    @cached_property
    def _on(self) -> tuple[Workload, Workload]:
        """On a GPU of much memory and of little."""
        platform = self._way.platform
        much, little = (replace(platform, has_small_memory=small) for small in (False, True))
        return replace(self._way, platform=much), replace(self._way, platform=little)

    @cached_property
    def _offloaded_from(self) -> int | None:
        """Tokens from which on inputs of checkpoints are moved."""
        if not is_offloaded(self.way_at(Sizes(1, MOST_TOKENS, 1, False))):
            return None
        return (
            largest(
                lambda tokens: not is_offloaded(self.way_at(Sizes(1, tokens, 1, False))),
                limit=MOST_TOKENS,
            )
            + 1
        )

    def way_at(self, sizes: Sizes) -> Workload:
        return resized(self._on[sizes.small], sizes.batch, sizes.length, sizes.rank)

    def states(self, rank: int) -> int:
        """Bytes of the optimizer's states of adapters."""
        made = package_optimizer(self._way.setup.optimizer)
        assert made is not None
        total, books = 0, 0
        for width, count in self.widths.items():
            numel = width * rank
            if made.quantises(numel):
                total += count * made.states * (numel + 4 * -(-numel // made.block))
                books = made.states * made.code_book_bytes
            elif not made.pages(numel, "cuda"):
                total += count * made.states * 4 * numel
        return total + books

    @cached_property
    def widths(self) -> Mapping[int, int]:
        """How many matrices of adapters have so many numbers a rank."""
        assert self._way.setup.lora is not None
        found = adapters(self._way.model, self._way.setup.lora)
        return Counter(prod(shape) for one in found for shape in (one.a_shape(1), one.b_shape(1)))


def of_model(way: Workload) -> dict[str, Any]:
    """What all laws of a model read; `way` has adapters."""
    config, head = way.model.config, head_of(way.model)
    return {
        "vocab": head.out_features if head else 0,
        "width": head.in_features if head else 0,
        "hidden": config.get("hidden_size") or config.get("n_embd") or 0,
        "positions": config.get("max_position_embeddings") or 0,
        "adapters": sorted(Law(way).widths.items()),
    }


class Tables:
    """Those of several ways to train, which share what is equal."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self.document: list[Matrix] = []

    def places(self, way: Workload, start: int, end: int | None, ranks: Sequence[int]) -> list[int]:
        """[kind, the place of its table, ...] from the batch of `way` and length `start` on, up to
        length `end`, at any rank such as `ranks`. Raises NotOnPageError."""
        law, places = Law(way), list[int]()
        for kind, polynomials in sorted(_by_kind(way, law, start, end, ranks).items()):
            table = matrix(polynomials)
            place = self._known.setdefault(str(table), len(self._known))
            if place == len(self.document):
                self.document.append(table)
            places += [kind, place]
        return places


def held(way: Workload, ranks: Sequence[int]) -> list[int]:
    """[bytes, bytes a rank] that live through every step, without the states that `Law` counts.
    Raises NotOnPageError."""
    law, found = Law(way), []
    for rank in ranks[:3] if way.setup.lora else ranks[:1]:
        prediction = predict_checked(resized(way, rank=rank), ENGINE)
        if not prediction.is_whole:
            raise NotOnPageError
        states = law.states(rank) if law.counts_states else 0
        found.append(held_bytes(prediction) - states)
    if len(found) == 1:
        return [found[0], 0]
    each = (found[1] - found[0]) // (ranks[1] - ranks[0])
    if found[2] != found[0] + each * (ranks[2] - ranks[0]):
        raise NotOnPageError
    return [found[0] - each * ranks[0], each]


@contextmanager
def _all_candidates() -> Iterator[None]:
    """Moments keep those that others dominate, which differ from size to size: so that each place
    of a plan has the same one at all."""
    kept = moments.undominated
    plan._PLANS.clear()
    moments.undominated = tuple  # type: ignore[assignment]
    try:
        yield
    finally:
        moments.undominated = kept
        plan._PLANS.clear()


def _by_kind(
    way: Workload, law: Law, start: int, end: int | None, ranks: Sequence[int]
) -> dict[int, list[Polynomial]]:
    corner = way.setup.batch_size, start, 1
    if not law.is_open:
        return {0: _front([p.terms for p in peak_polynomials(way, ENGINE)], corner)}
    samples: dict[int, dict[tuple[int, ...], Sizes]] = defaultdict(dict)
    for sizes in _sizes(way, law, start, end, ranks):
        kind, numbers = law.at(sizes)
        samples[kind].setdefault(numbers, sizes)
    used = [sizes for of_kind in samples.values() for sizes in of_kind.values()]
    answerers = {engine_for_all(law.way_at(sizes), ENGINE) for sizes in used}
    if len(answerers) > 1:
        raise NotOnPageError
    if answerers == {"compiled"}:
        fitted = {k: _fitted(law, of_kind, _of_profile) for k, of_kind in samples.items()}
    else:
        with _all_candidates():
            fitted = {k: _fitted(law, of_kind, _of_rules) for k, of_kind in samples.items()}
    return {kind: _front(terms, corner) for kind, terms in fitted.items()}


def _of_profile(way: Workload) -> Sequence[Polynomial]:
    return peak_polynomials(way, ENGINE)


def _of_rules(way: Workload) -> Sequence[Polynomial]:
    return plan.plan_for(way).totals.polynomials


def _sizes(
    way: Workload, law: Law, start: int, end: int | None, ranks: Sequence[int]
) -> Iterator[Sizes]:
    """From length `start` to `end` some of each kind; where masks are padded, of lengths that are
    multiples of the alignment as that of `way` is, or of the others."""
    is_aligned, is_open = way.setup.seq_len % MASK_ALIGNMENT == 0, not pads_masks(way)
    least = start // MASK_ALIGNMENT * MASK_ALIGNMENT
    rank = cycle(ranks if law.counts_states else ranks[:1])
    for batch in (1,) if way.setup.batch_size == 1 else SEVERAL:
        near = {-(-tokens // batch) for tokens in law.turns}
        beside = (-1, 0, 1, 2) if is_open else range(-MASK_ALIGNMENT, MASK_ALIGNMENT)
        lengths = {length + n for length in near for n in beside}
        apart = ((end or least) - least) // MASK_ALIGNMENT  # a span that ends has some throughout
        own = (*STEPS, *(apart * n // PARTS_OF_A_SPAN for n in range(PARTS_OF_A_SPAN)), apart - 1)
        steps = product(own, range(MASK_ALIGNMENT))
        lengths |= {least + step * MASK_ALIGNMENT + offset for step, offset in steps}
        for length in sorted(lengths):
            is_alike = is_open or (length % MASK_ALIGNMENT == 0) == is_aligned
            if start <= length < (end or MOST_TOKENS) and is_alike:
                for small in (False, True) if law.loss == "unsloth" else (False,):
                    yield Sizes(batch, length, next(rank), small)


TotalsOf = Callable[[Workload], Sequence[Polynomial]]
Terms = Mapping[tuple[int, ...], int]
"""Coefficients by exponents, as of a Polynomial; with one number more, which of `Sized.numbers` it
is to be multiplied with: 0 for none."""


def _fitted(law: Law, samples: Mapping[tuple[int, ...], Sizes], totals_of: TotalsOf) -> list[Terms]:
    """The polynomials of one kind without `Law.lasting`, whose coefficients at all `samples` are
    those of `Terms`. Raises NotOnPageError where they are of no such form."""
    basis = _independent(list(samples))
    denominator = lcm(*(part.denominator for _, function in basis for part in function))
    functions = [[int(part * denominator) for part in function] for _, function in basis]
    known = [_coefficients(law, samples[numbers], totals_of) for numbers, _ in basis]
    if len({len(one) for one in known}) > 1:
        raise NotOnPageError
    fitted = []
    for place in range(len(known[0])):
        terms = {}
        for exponents in {e for one in known for e in one[place]}:
            values = [one[place].get(exponents, 0) for one in known]
            if len(set(values)) == 1:
                terms[*exponents, 0] = values[0]
                continue
            for n in range(len(functions[0])):
                value = sum(f[n] * v for f, v in zip(functions, values, strict=True))
                if value % denominator:
                    raise NotOnPageError
                if value:
                    terms[*exponents, n] = value // denominator
        fitted.append(terms)
    last = list(samples.items())[-1]
    is_checked = last[0] not in dict(basis)
    if is_checked and [_with(t, last[0]) for t in fitted] != _coefficients(law, last[1], totals_of):
        raise NotOnPageError
    return fitted


def _coefficients(law: Law, sizes: Sizes, totals_of: TotalsOf) -> list[dict[tuple[int, ...], int]]:
    lasting = law.lasting(sizes)
    return [(p - lasting).nonzero() for p in totals_of(law.way_at(sizes))]


def _with(terms: Terms, numbers: tuple[int, ...]) -> dict[tuple[int, ...], int]:
    """At these numbers."""
    values: dict[tuple[int, ...], int] = defaultdict(int)
    for (*exponents, n), coefficient in terms.items():
        values[tuple(exponents)] += coefficient * (numbers[n - 1] if n else 1)
    return {e: c for e, c in values.items() if c}


def _independent(
    samples: Sequence[tuple[int, ...]],
) -> list[tuple[tuple[int, ...], list[Fraction]]]:
    """As many of `samples` as no affine function of others gives, each with the affine function, of
    one and the numbers, that is one there and zero at the others."""
    chosen: list[tuple[int, ...]] = []
    rows: list[list[Fraction]] = []  # echelon form
    pivots: list[int] = []
    for numbers in samples:
        row = [Fraction(n) for n in (1, *numbers)]
        for pivot, other in zip(pivots, rows, strict=True):
            row = [a - row[pivot] * b for a, b in zip(row, other, strict=True)]
        found = next((n for n, value in enumerate(row) if value), None)
        if found is not None:
            chosen.append(numbers)
            rows.append([value / row[found] for value in row])
            pivots.append(found)
        if len(chosen) == len(row):
            break
    columns = sorted(pivots)
    inverse = _inverse([[Fraction((1, *numbers)[n]) for n in columns] for numbers in chosen])
    functions = []
    for place in range(len(chosen)):
        function = [Fraction(0)] * (len(samples[0]) + 1)
        for n, column in enumerate(columns):
            function[column] = inverse[n][place]
        functions.append(function)
    return list(zip(chosen, functions, strict=True))


def _inverse(square: list[list[Fraction]]) -> list[list[Fraction]]:
    size = len(square)
    rows = [[*row, *(Fraction(n == m) for m in range(size))] for n, row in enumerate(square)]
    for n in range(size):
        pivot = next(m for m in range(n, size) if rows[m][n])
        rows[n], rows[pivot] = rows[pivot], rows[n]
        rows[n] = [value / rows[n][n] for value in rows[n]]
        for m in range(size):
            if m != n:
                rows[m] = [a - rows[m][n] * b for a, b in zip(rows[m], rows[n], strict=True)]
    return [row[size:] for row in rows]


def _front(polynomials: Sequence[Terms], corner: tuple[int, int, int]) -> list[Polynomial]:
    """Those that can be the largest from the sizes of `corner` on, whatever the numbers: these are
    never negative."""
    shifted: dict[Polynomial, Polynomial] = {}
    for terms in polynomials:
        moved: dict[tuple[int, ...], int] = {}
        for n in {e[6] if len(e) > 6 else 0 for e in terms}:
            part = {e[:6]: c for e, c in terms.items() if (e[6] if len(e) > 6 else 0) == n}
            moved |= {(*e, n): c for e, c in Polynomial(part).shifted(*corner).terms.items()}
        shifted[Polynomial(moved)] = Polynomial(dict(terms))
    return [shifted[one] for one in undominated(shifted)]
