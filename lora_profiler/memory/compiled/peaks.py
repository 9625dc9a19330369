"""Where a tape can peak: its instants found by walking it, those left out that can never be the
largest of their moment, and the rest written as a profile has them, for any depth."""

import re
from bisect import bisect_left
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from math import inf
from typing import NamedTuple

from lora_profiler._common.polynomial import ZERO, Exponents, Polynomial, front_of
from lora_profiler.memory.attribution import LOGITS_GRADIENT
from lora_profiler.memory.compiled.profile import Instant, Kind
from lora_profiler.memory.compiled.tape import (
    LEAST_UNITS,
    Affine,
    Birth,
    Death,
    Mark,
    Place,
    Tape,
    resolved,
)
from lora_profiler.memory.prediction import Category, MomentName

Key = tuple[int, str, int, int]
"""(run, the end of the stack that a unit is counted from, units from there, number within the
block)."""
Vector = tuple[int, ...]
Line = dict[Kind, tuple[int, int]]
"""Of each kind of storage how many there are at no unit, and how many more with each unit."""
Weight = Sequence[tuple[int, int]]
"""What a storage adds to a vector: places and amounts."""
DEPTHS = (6, 7, 8)
"""Two depths give each instant's line over depth, the third proves it. In six units every one is
within three of an end."""
_LAYER = re.compile(r"\.(\d+)(?:\.|$)")
_IN_LAYER = re.compile(r"\.(\d+|\{~?\d+\})(?:\.|$)")


class DepthError(Exception):
    """What is live does not grow by the same with every unit."""


class TapePeaks(NamedTuple):
    """What a profile has of its tape: the `instants`, the `kinds` that they count, and what lives
    between two steps, with all gradients (`persistent`)."""

    instants: tuple[Instant, ...]
    kinds: tuple[Kind, ...]
    persistent: Mapping[Category, Affine]


def peaks_of(tape: Tape, sizes: Sequence[Polynomial]) -> TapePeaks:
    """Folded tapes answer for any depth, others for their own. The tape is one that `check_depths`
    finds nothing in."""
    weights, width = _columns(sizes)
    depths = DEPTHS[:2] if tape.layout else (0,)
    walks = [_Walk(tape, depth, weights, width) for depth in depths]
    seen = walks[0].seen
    firsts: dict[tuple[int, MomentName], Key] = {}
    for key, instant in seen.items():
        firsts.setdefault((instant.step, instant.moment), key)
    setup, step = firsts[2, "setup"], firsts[2, "optimizer_step"]
    kept = _kept(walks)
    lines = _lines([walk.counts({*kept, setup, step}) for walk in walks])
    numbers: dict[Kind, int] = {}
    instants = []
    before: Line = {}
    for key in (key for key in seen if key in kept):
        live = lines[key]
        changes = []
        for kind in dict.fromkeys((*before, *live)):
            (b0, s0), (b1, s1) = before.get(kind, (0, 0)), live.get(kind, (0, 0))
            if (b0, s0) != (b1, s1):
                changes.append((numbers.setdefault(kind, len(numbers)), b1 - b0, s1 - s0))
        instants.append(Instant(seen[key].step, seen[key].moment, tuple(changes)))
        before = live
    gradients = _bytes(lines[step], sizes).get("gradients", Affine.constant(ZERO))
    return TapePeaks(
        instants=tuple(instants),
        kinds=tuple(numbers),
        persistent={**_bytes(lines[setup], sizes), "gradients": gradients},
    )


def _kept(walks: "Sequence[_Walk]") -> set[Key]:
    """The instants that can be the largest of their step and moment, at any depth."""
    moments: dict[tuple[int, MomentName], dict[Vector, Key]] = {}
    for key, seen in walks[0].seen.items():
        vector = seen.live if len(walks) == 1 else _from_least(seen.live, walks[1].seen[key].live)
        moments.setdefault((seen.step, seen.moment), {}).setdefault(vector, key)
    return {vectors[one] for vectors in moments.values() for one in front_of(vectors)}


def _lines(ends: Sequence[Mapping[Key, Mapping[Kind, int]]]) -> dict[Key, Line]:
    """Of counts at the first two of `DEPTHS`, or at the one depth that there is."""
    lines: dict[Key, Line] = {}
    for key, low in ends[0].items():
        high = ends[-1][key]
        slopes = {kind: high.get(kind, 0) - low.get(kind, 0) for kind in {**low, **high}}
        lines[key] = {kind: (low.get(kind, 0) - DEPTHS[0] * s, s) for kind, s in slopes.items()}
    return lines


def _bytes(live: Line, sizes: Sequence[Polynomial]) -> dict[Category, Affine]:
    found: dict[Category, Affine] = {}
    for (category, size), (base, slope) in live.items():
        bytes_, more = found.get(category, Affine(ZERO, ZERO))
        found[category] = Affine(bytes_ + sizes[size] * base, more + sizes[size] * slope)
    return {
        category: Affine(*(Polynomial(one.nonzero()) for one in line))
        for category, line in found.items()
    }


def check_depths(tape: Tape, num_sizes: int) -> None:
    """Raises DepthError where at an instant of a folded tape the storages of a size do not lie on a
    line over depth."""
    one_each = [((size, 1),) for size in range(num_sizes)]
    here, next_, third = (_Walk(tape, depth, one_each, num_sizes).seen for depth in DEPTHS)
    beyond = DEPTHS[2] - DEPTHS[0]
    for key, seen in here.items():
        if key not in next_ or key not in third:
            raise DepthError(f"there is no instant at {key} at every depth")
        ends = zip(seen.live, next_[key].live, third[key].live, strict=True)
        if any(a + (b - a) * beyond != c for a, b, c in ends):
            raise DepthError(f"storages at {key} are no line over depth")


def _columns(sizes: Sequence[Polynomial]) -> tuple[list[Weight], int]:
    """Sizes as vectors with a column for each monomial, and how many columns there are. A larger
    coefficient is never less: no symbol is below zero."""
    places: dict[Exponents, int] = {}
    weights: list[Weight] = [
        tuple((places.setdefault(e, len(places)), c) for e, c in size.nonzero().items())
        for size in sizes
    ]
    return weights, len(places)


def _from_least(here: Vector, next_: Vector) -> Vector:
    """What is live at the fewest units, and behind it what each further unit adds."""
    more = [b - a for a, b in zip(here, next_, strict=True)]
    fewer = DEPTHS[0] - LEAST_UNITS
    return (*(a - fewer * b for a, b in zip(here, more, strict=True)), *more)


# --- walking --------------------------------------------------------------------------------------


class _Seen(NamedTuple):
    """An instant of a walk: the sum of the weights of all that is live, and the number of events
    until then."""

    step: int
    moment: MomentName
    live: Vector
    time: int


class _Walk:
    """A tape at one depth. `seen`: each birth that something else than a birth follows, and the
    starts of a step and of its optimizer; of units those within three of an end of the stack.
    `weights` are by size."""

    def __init__(self, tape: Tape, depth: int, weights: Sequence[Weight], width: int) -> None:
        self.seen: dict[Key, _Seen] = {}
        self._born: list[tuple[Birth, int]] = []
        self._dies: dict[int, int] = {}
        layers = _Layers(tape, depth)
        state = _State(layers.count)
        live = [0] * width
        births: dict[tuple[int, int], range] = {}
        counts: dict[int, int] = {}
        last: Place | None = None  # of the birth before
        time = 0

        def passed(place: Place, moment: MomentName | None) -> None:
            key = _key(tape, place, depth)
            if key and moment:
                self.seen[key] = _Seen(state.step, moment, tuple(live), time)

        born = self._born
        for q, unit, block in tape.blocks(depth):
            if id(block) not in counts:
                counts[id(block)] = sum(type(event) is Birth for event in block)
            births[q, unit] = range(len(born), len(born) + counts[id(block)])
            for i, event in enumerate(block):
                if type(event) is Birth:
                    time += 1
                    born.append((event, time))
                    for column, amount in weights[event.size]:
                        live[column] += amount
                    if layers.has(event.module):
                        state.layer = layers.number(event.module, unit)
                    state.birth = event
                    last = q, unit, i
                    continue
                if last is not None:
                    passed(last, state.moment)
                    last = None
                time += 1
                if type(event) is Death:
                    number = births[q - event.back, resolved(event, unit, depth)][event.ordinal]
                    self._dies[number] = time
                    for column, amount in weights[born[number][0].size]:
                        live[column] -= amount
                elif type(event) is Mark:
                    passed((q, unit, i), state.marked(event))
        if last is not None:
            passed(last, state.moment)

    def counts(self, keys: Collection[Key]) -> dict[Key, dict[Kind, int]]:
        """How many storages are live at each of the instants, by category and size."""
        times = sorted({self.seen[key].time for key in keys})
        more: list[dict[Kind, int]] = [{} for _ in range(len(times) + 1)]
        for number, (birth, start) in enumerate(self._born):
            first = bisect_left(times, start)
            end = bisect_left(times, self._dies.get(number, inf))
            if first < end:
                kind = birth.category, birth.size
                more[first][kind] = more[first].get(kind, 0) + 1
                more[end][kind] = more[end].get(kind, 0) - 1
        at: dict[int, dict[Kind, int]] = {}
        live: dict[Kind, int] = {}
        for time, changes in zip(times, more, strict=False):  # the last ones are of no instant
            live = {kind: live.get(kind, 0) + changes.get(kind, 0) for kind in {**live, **changes}}
            at[time] = live
        return {key: at[self.seen[key].time] for key in keys}


def _key(tape: Tape, place: Place, depth: int) -> Key | None:
    """None of a unit that is not within three of an end. Those lie on a line of the others."""
    run, unit, i = place
    if not tape.runs[run].direction:
        return run, "", unit, i
    if unit < 3:
        return run, "start", unit, i
    return (run, "end", depth - 1 - unit, i) if depth - 1 - unit < 3 else None


class _Layers:
    """The numbers of the layers of a tape at a depth, by templates of modules. `count`: one more
    than the largest."""

    def __init__(self, tape: Tape, depth: int) -> None:
        self._layout, self._depth = tape.layout, depth
        self.has = cache(lambda template: bool(_IN_LAYER.search(template)))
        self.number = cache(self._number)
        names: dict[int, set[str]] = {}
        numbers = [-1]
        for _, unit, block in tape.blocks(depth):
            if id(block) not in names:
                names[id(block)] = {event.module for event in block if type(event) is Birth}
            numbers += [self.number(name, unit) for name in names[id(block)] if self.has(name)]
        self.count = 1 + max(numbers)

    def _number(self, template: str, unit: int) -> int:
        name = self._layout.name(template, unit, self._depth) if self._layout else template
        match = _LAYER.search(name)
        assert match is not None
        return int(match[1])


class _State:
    """Where a walk stands in the step: in which `layer` (-1: in none), behind which `birth`."""

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self.step = 0
        self._phase = "before"
        self._reached: set[str] = set()
        self.layer = -1
        self.birth: Birth | None = None

    def marked(self, mark: Mark) -> MomentName | None:
        """What starts here, if it is a step or its optimizer."""
        if mark.note:
            self._reached.add(mark.note)
            return None
        self.step, self._phase = mark.step, mark.phase
        if mark.phase in ("setup", "backward"):
            self._reached, self.layer = set(), -1
        if mark.phase == "optimizer":
            return "optimizer_step"
        return "setup" if mark.phase == "setup" and mark.micro == 0 else None

    @property
    def moment(self) -> MomentName | None:
        match self._phase:
            case "forward" | "loss":
                in_loss = self.birth and self.birth.category == "logits_and_loss"
                return "end_of_forward" if in_loss else "last_layer_forward"
            case "optimizer":
                return "optimizer_step"
            case "evaluation":
                return "evaluation"
            case "backward":
                return self._of_backward
        return None

    @property
    def _of_backward(self) -> MomentName:
        if LOGITS_GRADIENT not in self._reached:
            return "loss_backward"
        is_last = self.layer < 0 or 2 * self.layer >= self._layers
        return "last_layer_backward" if is_last else "first_layer_backward"
