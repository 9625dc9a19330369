"""The instants of a tape at which a moment of the step can peak: live bytes of each, by category,
at any depth."""

import re
from collections.abc import Callable, Iterator, Sequence

from lora_profiler._common.polynomial import Polynomial
from lora_profiler.memory.attribution import LOGITS_GRADIENT
from lora_profiler.memory.compiled.affine import Affine
from lora_profiler.memory.compiled.profile import Instant
from lora_profiler.memory.compiled.tape import Birth, FlatEvent, Place, Tape
from lora_profiler.memory.prediction import Category, MomentName

Live = dict[Category, Polynomial]
Seen = tuple[int, MomentName, str, Live]
"""(step, moment, module, live bytes)."""
Key = tuple[int, str, int, int]
"""(run, the end of the stack that a unit is counted from, units from there, number within the
block)."""

_LAYER = re.compile(r"\.(\d+)(?:\.|$)")
DEPTHS = (6, 7, 8)
"""Two depths give each instant's line over depth, the third proves it. In six units every one is
within three of an end."""


def undominated(
    candidates: Sequence[Instant], shift: Callable[[Polynomial], Polynomial], least_units: int
) -> list[Instant]:
    """The instants that can be the largest of their step and moment, in the symbols that `shift`
    counts from the smallest sizes up; of equals the first."""
    fronts: dict[tuple[int, str], list[tuple[Polynomial, Polynomial, Instant]]] = {}
    for instant in candidates:
        here, more = (instant.total(units) for units in (least_units, least_units + 1))
        base, growth = shift(here), shift(more - here)
        front = fronts.setdefault((instant.step, instant.moment), [])
        if any(b.dominates(base) and g.dominates(growth) for b, g, _ in front):
            continue
        front[:] = [
            (b, g, i) for b, g, i in front if not (base.dominates(b) and growth.dominates(g))
        ]
        front.append((base, growth, instant))
    return [instant for front in fronts.values() for _, _, instant in front]


def shifted(batch: int, seq: int) -> Callable[[Polynomial], Polynomial]:
    """Sizes counted from the given ones up, and the rank from 1."""
    return lambda polynomial: polynomial.shifted(batch, seq, 1)


class DepthError(Exception):
    """Live bytes do not grow by the same with every unit."""


def instants(tape: Tape, sizes: Sequence[Polynomial], units: int | None) -> list[Instant]:
    """Every local maximum of a tape. Folded tapes answer for any depth, others for their own
    (`units` None).

    Raises DepthError.
    """
    if units is None:
        return [
            Instant(step, moment, module, 0, {c: Affine.constant(p) for c, p in live.items()})
            for _, (step, moment, module, live) in _walk(tape, sizes, 0)
        ]
    at = [dict(_anchored(tape, sizes, depth)) for depth in DEPTHS]
    found = []
    for key, (step, moment, module, here) in at[0].items():
        next_, third = at[1][key][3], at[2][key][3]
        lines = {
            c: Affine.through(DEPTHS[0], here.get(c, _ZERO), next_.get(c, _ZERO))
            for c in {*here, *next_}
        }
        if any(line.at(DEPTHS[2]) != third.get(c, _ZERO) for c, line in lines.items()) or not {
            *third
        } <= {*lines}:
            raise DepthError(f"bytes at {key} are no line over depth")
        _, end, k, _ = key
        found.append(Instant(step, moment, module, -1 - k if end == "end" else k, lines))
    return found


_ZERO = Polynomial({})


def persistent(peaks: Sequence[Instant]) -> dict[Category, Affine]:
    """What lives between two steps, and the gradients when the optimizer begins, none where it
    steps in backward."""
    setup = next(i for i in peaks if i.step == 2 and i.moment == "setup")
    step = next(i for i in peaks if i.step == 2 and i.moment == "optimizer_step")
    return {**setup.live, "gradients": step.live.get("gradients", Affine.constant(_ZERO))}


def _anchored(tape: Tape, sizes: Sequence[Polynomial], depth: int) -> Iterator[tuple[Key, Seen]]:
    """The instants whose unit is within three of an end of the stack, by that end. Those between
    lie on a line of these."""
    for (run, unit, i), moment in _walk(tape, sizes, depth):
        anchor, k = ("start", unit) if unit < 3 else ("end", depth - 1 - unit)
        if k < 3:
            yield (run, anchor if tape.runs[run].direction else "", k, i), moment


def _walk(tape: Tape, sizes: Sequence[Polynomial], depth: int) -> Iterator[tuple[Place, Seen]]:
    """Each birth that something else than a birth follows, and the starts of a step and of its
    optimizer."""
    events = tape.expand(depth)
    layers = 1 + max((_layer(e.birth.module) for e in events if e.birth is not None), default=0)
    live: Live = {}
    births: list[tuple[int, Category]] = []
    state = _State(layers)
    following = (*(event.birth for event in events[1:]), None)
    for event, after, (place, written) in zip(events, following, tape.places(depth), strict=True):
        if event.birth is not None:
            category = event.birth.category
            births.append((event.birth.size, category))
            live[category] = live.get(category, _ZERO) + sizes[event.birth.size]
            state.born(event.birth)
            if after is None and (moment := state.moment):
                assert isinstance(written, Birth)
                yield place, (state.step, moment, written.module, dict(live))
        elif event.mark is not None:
            state.marked(event)
            if event.mark.phase == "setup" and event.mark.micro == 0:
                yield place, (state.step, "setup", "", dict(live))
            elif event.mark.phase == "optimizer":
                yield place, (state.step, "optimizer_step", "", dict(live))
        else:
            size, category = births[event.dies]
            live[category] = live[category] - sizes[size]


class _State:
    """Where a walk stands in the step."""

    def __init__(self, layers: int) -> None:
        self._layers = layers
        self.step = 0
        self._phase = "before"
        self._reached: set[str] = set()
        self._layer = -1
        self._in_loss = False

    def marked(self, event: FlatEvent) -> None:
        mark = event.mark
        assert mark is not None
        if mark.note:
            self._reached.add(mark.note)
            return
        self.step, self._phase = mark.step, mark.phase
        if mark.phase in ("setup", "backward"):
            self._reached, self._layer = set(), -1

    def born(self, birth: Birth) -> None:
        layer = _layer(birth.module)
        if layer >= 0:
            self._layer = layer
        self._in_loss = birth.category == "logits_and_loss"

    @property
    def moment(self) -> MomentName | None:
        if self._phase in ("forward", "loss"):
            return "end_of_forward" if self._in_loss else "last_layer_forward"
        if self._phase == "optimizer":
            return "optimizer_step"
        if self._phase == "evaluation":
            return "evaluation"
        if self._phase != "backward":
            return None
        if LOGITS_GRADIENT not in self._reached:
            return "loss_backward"
        return (
            "last_layer_backward"
            if self._layer < 0 or 2 * self._layer >= self._layers
            else "first_layer_backward"
        )


def _layer(module: str) -> int:
    match = _LAYER.search(module)
    return int(match[1]) if match else -1
