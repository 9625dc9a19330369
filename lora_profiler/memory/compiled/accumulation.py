"""The tape of a step of several micro-batches, made of the tape of a step of one.

A second micro-batch asks for the same storages in the same order as a step that follows another.
Three things differ. Its gradients are added to those that are there, and are gone before anything
else is asked for. What the loss holds to the end of a step goes with the first micro-batch. And
there are a few scalars, as the loss is divided and summed up.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import dropwhile, pairwise
from typing import NamedTuple

from lora_profiler.memory.compiled.peaks import peaks_of
from lora_profiler.memory.compiled.profile import Profile
from lora_profiler.memory.compiled.tape import (
    LEAST_UNITS,
    Anchor,
    Birth,
    BlockRun,
    Death,
    Event,
    Mark,
    Tape,
)
from lora_profiler.memory.prediction import Category

_OF_TABLE = "embedding_dense_backward"

Key = tuple[int, int]
"""Of a part of the result: (0, number of the piece) of the first micro-batch and of what is about
none, (step, number of the piece in the second step) of the second micro-batch."""


class _Gone(NamedTuple):
    """The death of a storage of piece `key`. `ordinal` counts the births of its block from the
    first one, in the stack also from the last one; a scalar that a step of one micro-batch has not
    goes by its name."""

    key: Key
    anchor: Anchor
    unit: int
    ordinal: int | str


class _Added(NamedTuple):
    """The birth of a scalar."""

    name: str
    category: Category


Entry = Birth | Mark | _Gone | _Added


class _Piece(NamedTuple):
    """A run, or of one outside the stack what lies between two starts of a step or of its
    optimizer."""

    direction: int
    blocks: Sequence[Sequence[Entry]]


def accumulated(profile: Profile) -> Profile | None:
    """The profile of several micro-batches a step, made of `profile`, which is of one. None where
    the two steps of its tape are not alike."""
    pieces = list(_cut(profile.tape))
    steps = [_step(pieces, number) for number in (1, 2)]
    first, second = ([_shape(pieces[n]) for n in step] for step in steps)
    seed = _seed(pieces[n] for n in steps[1])
    if first != second or seed is None:
        return None
    made = _Accumulating(
        pieces,
        steps,
        holds_loss=bool(profile.setup.get("hold_outputs")),
        is_open=bool(profile.in_turn),
    ).pieces()
    tape = Tape(tuple(_written(made, seed.size)), profile.layout)
    return replace(
        profile,
        regime=profile.regime._replace(accumulates=True),
        tape_source=tape,
        **peaks_of(tape, profile.sizes)._asdict(),
    )


def _cut(tape: Tape) -> Iterator[_Piece]:
    homes: dict[tuple[int, int], tuple[int, int]] = {}  # of births outside the stack
    births: dict[int, int] = {}
    first: dict[int, int] = {}
    parts: list[tuple[int, Sequence[Sequence[Event]]]] = []
    for number, run in enumerate(tape.runs):
        first[number] = len(parts)
        if run.direction:
            parts.append((number, run.blocks))
            continue
        (block,) = run.blocks
        births[number] = 0
        cuts = [i for i, event in enumerate(block) if i and _begins(event)]
        for start, end in pairwise((0, *cuts, len(block))):
            count = sum(isinstance(event, Birth) for event in block[start:end])
            homes |= {(number, births[number] + i): (len(parts), i) for i in range(count)}
            births[number] += count
            parts.append((number, (block[start:end],)))

    def entry(event: Event, number: int) -> Entry:
        if not isinstance(event, Death):
            return event
        home = number - event.back
        if tape.runs[home].direction:
            return _Gone((0, first[home]), *event[1:])
        piece, ordinal = homes[home, event.ordinal % births[home]]
        return _Gone((0, piece), "single", 0, ordinal)

    for number, blocks in parts:
        entries = [[entry(event, number) for event in block] for block in blocks]
        yield _Piece(tape.runs[number].direction, entries)


def _begins(event: Event) -> bool:
    return isinstance(event, Mark) and not event.note and event.phase in ("setup", "optimizer")


def _step(pieces: Sequence[_Piece], step: int) -> range:
    """The pieces from the start of a step to that of its optimizer."""
    found: dict[str, int] = {}
    for number, piece in enumerate(pieces):
        mark = next(iter(piece.blocks[0]), None)
        if isinstance(mark, Mark) and mark.step == step:
            found.setdefault(mark.phase, number)
    return range(found.get("setup", 0), found.get("optimizer", 0))


def _shape(piece: _Piece) -> tuple[int, list[list[int]]]:
    """What must be the same of both steps: the direction, and the sizes of all births."""
    births = [[each.size for each in block if isinstance(each, Birth)] for block in piece.blocks]
    return piece.direction, births


def _seed(pieces: Iterable[_Piece]) -> Birth | None:
    """The gradient of the loss with which backward begins: a scalar like it."""
    for piece in pieces:
        entries = dropwhile(lambda entry: not _is_backward(entry), piece.blocks[0])
        for entry in entries:
            if isinstance(entry, Birth):
                return entry
    return None


class _Accumulating:
    """`steps` are the pieces of both steps, without their optimizers'. `holds_loss`: the loop holds
    the model's loss beside the divided one. `is_open`: numbers of bytes stand for the loss, the
    largest of which are there when the gradient of what was divided is gone."""

    def __init__(
        self, pieces: Sequence[_Piece], steps: Sequence[range], *, holds_loss: bool, is_open: bool
    ) -> None:
        self._pieces, self._steps = pieces, steps
        self._holds_loss, self._is_open = holds_loss, is_open
        self._tied = dict(self._gradients_of_tables())

    def pieces(self) -> dict[Key, _Piece]:
        """All parts of the result, in order."""
        made: dict[Key, _Piece] = {}
        number = 0
        for step, pieces in enumerate(self._steps, 1):
            made |= {(0, n): self._once(n) for n in range(number, pieces.stop)}
            left = [gone for gone in self._released(pieces) if self._category(gone) != "inputs"]
            left += self._loss(0, pieces)
            made[step, -1] = _Piece(0, [[_Added("sum", "activations"), *left]])
            made |= {(step, n): self._again(step, n) for n in self._steps[1]}
            number = self._steps[1].start if step == 1 else len(self._pieces)
            made |= {(0, n): self._once(n) for n in range(pieces.stop, number)}
            sums = _Gone((step, -1), "single", 0, "sum")
            made[step, -2] = _Piece(0, [[sums, *self._loss(step, self._steps[1])]])
        return made

    def _loss(self, step: int, pieces: range) -> list[_Gone]:
        """The end of what is held of a loss; `step` is 0 for the first micro-batch."""
        if not self._holds_loss:
            return []
        (number,) = (n for n in pieces if any(map(_is_backward, self._pieces[n].blocks[0])))
        return [_Gone((step, number), "single", 0, "loss")]

    def _once(self, number: int) -> _Piece:
        """A piece as it is but for scalars, and but that of another step's the second micro-batch's
        storages go."""
        own = next((step for step in self._steps if number in step), range(0))

        def gone(entry: Entry, unit: int) -> Entry:
            if (
                not isinstance(entry, _Gone)
                or entry.key[1] in own
                or self._category(entry, unit) == "gradients"
            ):
                return entry
            return entry._replace(key=self._of_second(entry.key))

        direction, blocks = self._pieces[number]
        entries = [[gone(entry, unit) for entry in block] for unit, block in enumerate(blocks)]
        return _Piece(direction, [self._with_scalars(block, (0, number)) for block in entries])

    def _of_second(self, key: Key) -> Key:
        """The piece of the second micro-batch in place of that of the first one."""
        for step, pieces in enumerate(self._steps, 1):
            if key[1] in pieces:
                return step, self._steps[1][pieces.index(key[1])]
        return key

    def _again(self, step: int, number: int) -> _Piece:
        """The piece of a step's second micro-batch that is as `number` of the second step. What
        that one gives back of the first step, this one gives back of the first micro-batch."""
        first, second = self._steps
        here = self._steps[step - 1]

        def copied(entry: Entry) -> Iterator[Entry]:
            if isinstance(entry, Mark):
                yield entry._replace(step=step, micro=1)
            elif not isinstance(entry, _Gone):
                yield entry
            elif entry.key[1] in second:
                yield entry._replace(key=(step, entry.key[1]))
            elif entry.key[1] in first:
                yield entry._replace(key=(0, here[first.index(entry.key[1])]))

        def before(entry: Entry) -> list[_Gone]:
            """The first micro-batch's inputs, which go once the second one's are there."""
            if not isinstance(entry, Mark) or (entry.phase, entry.note) != ("forward", ""):
                return []
            return [gone for gone in self._released(here) if self._category(gone) == "inputs"]

        direction, blocks = self._pieces[number]
        made = []
        for block in blocks:
            entries = [e for entry in block for e in (*before(entry), *copied(entry))]
            added = self._added_up(entries, direction, step, number)
            made.append(self._with_scalars(added, (step, number)))
        return _Piece(direction, made)

    def _added_up(
        self, entries: Sequence[Entry], direction: int, step: int, number: int
    ) -> list[Entry]:
        """With gradients gone once their operator has made all that it makes; of a tied weight once
        that of its other end is there."""
        made: list[Entry] = []
        due: list[_Gone] = []
        last: Birth | None = None
        ordinal = 0
        for entry in entries:
            is_more = (
                isinstance(entry, Birth)
                and last is not None
                and (entry.op, entry.module) == (last.op, last.module)
            )
            if isinstance(entry, Birth | Mark) and not is_more:
                made += due
                due = []
            if isinstance(entry, Birth):
                key = (step, number)
                if entry.category == "gradients":
                    if (number, ordinal) not in self._tied.values():
                        due.append(_Gone(key, "here" if direction else "single", 0, ordinal))
                    made.append(entry._replace(category="temporaries"))
                else:
                    made.append(entry)
                if not direction and (number, ordinal) in self._tied:
                    piece, tied = self._tied[number, ordinal]
                    due.append(_Gone((step, piece), "single", 0, tied))
                last, ordinal = entry, ordinal + 1
                continue
            last = None
            made.append(entry)
        return [*made, *due]

    def _gradients_of_tables(self) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        """Births of gradients of tied embeddings, each with that of the head before it, which waits
        for it: (piece, ordinal)."""
        waiting: dict[int, tuple[int, int]] = {}
        for number in self._steps[1]:
            direction, blocks = self._pieces[number]
            if direction:
                continue
            births = [entry for entry in blocks[0] if isinstance(entry, Birth)]
            for ordinal, birth in enumerate(births):
                if birth.category == "gradients":
                    waiting[birth.size] = number, ordinal
                elif birth.op == _OF_TABLE and birth.size in waiting:
                    yield (number, ordinal), waiting[birth.size]

    def _released(self, pieces: range) -> list[_Gone]:
        """What the first micro-batch leaves behind and no other one gives back: it goes with the
        loss."""
        first = self._steps[0]
        steps = {*self._steps[0], *self._steps[1]}
        found = [
            entry
            for number, piece in enumerate(self._pieces)
            if number not in steps
            for unit, block in enumerate(piece.blocks)
            for entry in block
            if isinstance(entry, _Gone)
            and entry.key[1] in first
            and self._category(entry, unit) != "gradients"
        ]
        return [e._replace(key=(0, pieces[first.index(e.key[1])])) for e in found]

    def _with_scalars(self, entries: Sequence[Entry], key: Key) -> list[Entry]:
        """The loss divided by the number of micro-batches, and the gradient of it, which the kernel
        after it reads."""
        made: list[Entry] = []
        births = -1  # since backward began
        for entry in entries:
            if _is_backward(entry):
                births = -1 if self._is_open else 0
                made.append(_Added("loss", "logits_and_loss"))
                made += [] if self._holds_loss else [_Gone(key, "single", 0, "loss")]
            made.append(entry)
            if births >= 0 and isinstance(entry, Birth):
                births += 1
                if births == 1:
                    made.append(_Added("gradient", "logits_and_loss"))
                if births == 2:
                    made.append(_Gone(key, "single", 0, "gradient"))
                    births = -1
        return [*made, *([_Gone(key, "single", 0, "gradient")] if births == 1 else [])]

    def _category(self, entry: _Gone, unit: int = 0) -> Category:
        """Of what goes; `unit` is the one of `LEAST_UNITS` whose block has `entry`. The blocks of
        the first and the last layers may have other births than those between."""
        direction, blocks = self._pieces[entry.key[1]]
        units = {"here": unit + entry.unit, "first": entry.unit, "single": 0}
        at = units.get(entry.anchor, LEAST_UNITS - 1 - entry.unit)
        births = [each for each in blocks[at if direction else 0] if isinstance(each, Birth)]
        assert isinstance(entry.ordinal, int)
        return births[entry.ordinal].category


def _is_backward(entry: Entry) -> bool:
    return isinstance(entry, Mark) and (entry.phase, entry.note) == ("backward", "")


def _written(pieces: Mapping[Key, _Piece], scalar: int) -> Iterator[BlockRun]:
    numbers = {key: number for number, key in enumerate(pieces)}
    ordinals: dict[Key, dict[int | str, int]] = {}
    for key, (direction, blocks) in pieces.items():
        if not direction:
            births = [each for each in blocks[0] if isinstance(each, Birth | _Added)]
            own = iter(range(len(births)))
            names = [each.name if isinstance(each, _Added) else next(own) for each in births]
            ordinals[key] = {name: ordinal for ordinal, name in enumerate(names)}

    def event(entry: Entry, number: int) -> Event:
        if isinstance(entry, _Added):
            return Birth(scalar, entry.category, "", "div", saved=False)
        if not isinstance(entry, _Gone):
            return entry
        home = ordinals.get(entry.key)
        ordinal = entry.ordinal if home is None else home[entry.ordinal]
        assert isinstance(ordinal, int)
        return Death(number - numbers[entry.key], entry.anchor, entry.unit, ordinal)

    for key, (direction, blocks) in pieces.items():
        events = (tuple(event(entry, numbers[key]) for entry in block) for block in blocks)
        yield BlockRun(direction, tuple(events))
