"""The tape of a loop that holds the model's output, made of the tape of one that drops it.

Both ask for the same storages in the same order. What differs is when a few are given back: the
logits, the model's loss, and what its graph holds to the end (the leaf that checkpointing makes,
and its gradient). In the loop that drops them the logits go as forward returns and the rest with
the loss; in the other all go as the next forward pass returns.
"""

from collections import defaultdict
from collections.abc import Mapping
from itertools import takewhile, zip_longest
from typing import NamedTuple

from lora_profiler.memory.attribution import LOGITS
from lora_profiler.memory.compiled.tape import (
    LEAST_UNITS,
    Birth,
    BlockRun,
    Death,
    Event,
    Mark,
    Place,
    Tape,
)

_SCALED_BY = frozenset({"div", "mul", "tanh"})
"""What makes the logits of an output out of the head's: a scale, or a soft cap."""

_OF_GRAPH = frozenset({"activations", "temporaries"})
"""Categories of a leaf and its gradient, which is temporary where the loss goes within backward."""


def held_tape(tape: Tape) -> Tape | None:
    """`tape` with the output held. None where it does not show what an output is made of: a model
    without logits, or one whose loss keeps storages of layers to the end."""
    return _Holding(tape).tape


class _Pass(NamedTuple):
    """Numbers of events: where the head has made logits, and where backward begins."""

    logits: int
    backward: int


class _Holding:
    """`tape` is the result. Events have the numbers that they have at `LEAST_UNITS` units, where
    each block of a stack stands for one unit."""

    def __init__(self, tape: Tape) -> None:
        self._places: list[Place] = []
        self._events: list[Event] = []
        for place, event in tape.places(LEAST_UNITS):
            self._places.append(place)
            self._events.append(event)
        self._directions = [run.direction for run in tape.runs]
        homes: dict[Place, int] = {}
        counts: dict[tuple[int, int], int] = defaultdict(int)
        for number, ((run, unit, _), event) in enumerate(tape.places(LEAST_UNITS)):
            if isinstance(event, Birth):
                homes[run, unit, counts[run, unit]] = number
                counts[run, unit] += 1
        self._ordinals = {number: ordinal for (_, _, ordinal), number in homes.items()}
        self._born = {
            number: homes[self._home(number, event, counts)]
            for number, event in enumerate(self._events)
            if isinstance(event, Death)
        }
        self._died = {birth: death for death, birth in self._born.items()}
        marks = [event for event in self._events if isinstance(event, Mark)]
        self._accumulates = any(mark.micro for mark in marks)
        self.tape = self._rewritten(tape)

    def _home(self, number: int, death: Death, counts: Mapping[tuple[int, int], int]) -> Place:
        run, unit, _ = self._places[number]
        units = {"here": unit, "first": 0, "last": LEAST_UNITS - 1, "single": 0}
        sign = -1 if death.anchor == "last" else 1
        home = run - death.back, units[death.anchor] + sign * death.unit
        return *home, death.ordinal % counts[home]

    def _rewritten(self, tape: Tape) -> Tape | None:
        passes = self._passes()
        dropped: set[int] = set()
        given_back: dict[int, list[int]] = {}  # births, by the event before which they go
        for each, following in zip_longest(passes, passes[1:]):
            held = self._held(each)
            if held is None or not all(self._is_movable(birth) for birth in held):
                return None
            dropped |= {self._died[birth] for birth in held}
            if following is not None:
                given_back[self._end(following)] = held
        if not passes or any(self._direction(end) for end in given_back):
            return None
        blocks: dict[tuple[int, int], list[Event]] = defaultdict(list)
        for number, ((run, unit, _), event) in enumerate(
            zip(self._places, self._events, strict=True)
        ):
            for birth in given_back.get(number, ()):
                back = run - self._places[birth][0]
                blocks[run, unit].append(Death(back, "single", 0, self._ordinals[birth]))
            if number not in dropped:
                blocks[run, unit].append(event)
        runs = (
            BlockRun(
                run.direction, tuple(tuple(blocks[n, unit]) for unit in range(len(run.blocks)))
            )
            for n, run in enumerate(tape.runs)
        )
        return Tape(tuple(runs), tape.layout)

    def _direction(self, number: int) -> int:
        return self._directions[self._places[number][0]]

    def _is_movable(self, birth: int) -> bool:
        """Whether it is made outside the stack, and given back there or in a block that stands for
        one unit at every depth."""
        death = self._died[birth]
        stands_for_one = self._places[death][1] in (0, LEAST_UNITS - 1)
        return not self._direction(birth) and (not self._direction(death) or stands_for_one)

    def _passes(self) -> list[_Pass]:
        found, logits = [], None
        for number, event in enumerate(self._events):
            if isinstance(event, Mark) and event.note == LOGITS:
                logits = number
            elif isinstance(event, Mark) and (event.phase, event.note) == ("backward", ""):
                if logits is not None:
                    found.append(_Pass(logits, number))
                logits = None
        return found

    def _held(self, each: _Pass) -> list[int] | None:
        """The births that the output of one pass holds."""
        births = [n for n in range(each.logits, each.backward) if self._is_birth(n)]
        logits = next(n for n in range(each.logits, -1, -1) if self._is_birth(n))
        made = self._birth(logits)
        for scaled in takewhile(lambda n: self._birth(n).op in _SCALED_BY, births):
            logits = scaled if self._birth(scaled).size == made.size else logits
        if not births or not each.logits < self._died.get(logits, -1) < each.backward:
            return None
        if self._accumulates:  # the loss that is divided goes with its graph
            divided = births[-1]
            losses = [n for n in births if divided < self._died.get(n, -1) < each.backward]
        else:
            losses = [n for n in births if self._outlives_backward(n, each)]
            divided = losses[0] if losses else -1
        if len(losses) != 1 or divided not in self._died:
            return None
        return [losses[0], *self._leaves(self._died[divided], self._birth(divided).size), logits]

    def _is_birth(self, number: int) -> bool:
        return isinstance(self._events[number], Birth)

    def _birth(self, number: int) -> Birth:
        birth = self._events[number]
        assert isinstance(birth, Birth)
        return birth

    def _outlives_backward(self, birth: int, each: _Pass) -> bool:
        return any(
            isinstance(event, Mark) and event.phase == "optimizer"
            for event in self._events[each.backward : self._died.get(birth, 0)]
        )

    def _leaves(self, death: int, scalar: int) -> list[int]:
        """What goes with a loss and is none, nor a sum of losses, of size number `scalar`."""
        first = last = death
        while first - 1 in self._born:
            first -= 1
        while last + 1 in self._born:
            last += 1
        births = [self._born[n] for n in range(first, last + 1)]
        return [
            n
            for n in births
            if self._birth(n).category in _OF_GRAPH and self._birth(n).size != scalar
        ]

    def _end(self, each: _Pass) -> int:
        """The event before which the last output goes: as forward returns, and before the loss is
        divided."""
        if not self._accumulates:
            return each.backward
        return next(n for n in range(each.backward, each.logits, -1) if self._is_birth(n))
