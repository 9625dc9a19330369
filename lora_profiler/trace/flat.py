"""Traces in the form of tapes: flat events with their labels, aligned over several points of one
workload."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from lora_profiler._common.polynomial import Polynomial
from lora_profiler.memory.compiled.tape import Birth, FlatEvent, Mark
from lora_profiler.question.workload import Workload
from lora_profiler.trace.fit import TracedSizes
from lora_profiler.trace.fold import MARK
from lora_profiler.trace.run import Traced
from lora_profiler.trace.tracer import Trace

FLOP_PHASES = ("forward", "backward", "recompute")
PACKAGES = ("lora-profiler", "torch", "transformers", "peft", "bitsandbytes")
"""Whose versions a profile names."""
CHANGES = "the tape changes with batch, sequence or rank"


class TapeError(Exception):
    """Two traces that should tell the same events do not."""


class ChangingTapeError(TapeError):
    """The order of events itself changes with the size, so that no tape tells it at any depth."""


@dataclass(frozen=True, slots=True)
class Flat:
    """A trace as flat events; the size of a birth is in bytes. `where` names the module that each
    event belongs to."""

    events: list[FlatEvent]
    where: list[str]
    flops: dict[tuple[str, str], int]
    kernels: tuple[str, ...]
    trainable: dict[str, int]
    fallbacks: tuple[str, ...]

    def flops_of(self, phase: str) -> dict[str, int]:
        """By module."""
        return {module: count for (when, module), count in self.flops.items() if when == phase}


def flat(traced: Traced) -> Flat:
    trace = traced.trace
    events: list[FlatEvent] = []
    where: list[str] = []
    marks = iter([*trace.marks, None])
    mark = next(marks)
    for position, event in enumerate([*trace.events, None]):
        while mark is not None and (event is None or mark.position <= position):
            events.append(FlatEvent(None, -1, Mark(mark.step, mark.micro, mark.phase, mark.note)))
            where.append(MARK)
            mark = next(marks)
        if event is None:
            break
        if event >= 0:
            b = trace.births[event]
            assert b.category is not None
            events.append(
                FlatEvent(Birth(b.size_bytes, b.category, b.module, b.op, b.saved), -1, None)
            )
        else:
            events.append(FlatEvent(None, ~event, None))
        where.append(_place(trace, position, event))
    return Flat(events, where, trace.flops, traced.kernels, traced.trainable, traced.fallbacks)


def _place(trace: Trace, position: int, event: int) -> str:
    """The module that an event belongs to: of an optimizer's state its owner's, not that of the
    parameter before, which may be of another layer."""
    if event >= 0 and trace.births[event].category == "optimizer_states":
        return trace.births[event].module
    return trace.where[position]


def at_point(workload: Workload, point: TracedSizes) -> Workload:
    setup = workload.setup
    lora = replace(setup.lora, r=point.rank, lora_alpha=None) if setup.lora else None
    return replace(
        workload, setup=replace(setup, batch_size=point.batch, seq_len=point.seq, lora=lora)
    )


def aligned(
    flats: Sequence[Flat], fit: Callable[[tuple[int, ...]], Polynomial]
) -> tuple[list[FlatEvent], list[Polynomial]]:
    """One tape for all traces: the size of a birth is the number of its polynomial.

    Raises ChangingTapeError where the traces differ in more than sizes, NoPolynomialError where
    sizes follow no polynomial.
    """
    first = flats[0]
    settled = _settled(first.events)
    for other in flats[1:]:
        if len(other.events) != len(settled):
            raise ChangingTapeError(f"{CHANGES}: {len(settled)} events, and {len(other.events)}")
        for i, (a, b) in enumerate(zip(settled, _settled(other.events), strict=True)):
            if _unlike(a, b):
                raise ChangingTapeError(f"{CHANGES}: event {i} is {a}, and {b}")
    numbers: dict[Polynomial, int] = {}
    events = []
    for together in zip(*(f.events for f in flats), strict=True):
        event = together[0]
        if event.birth is not None:
            polynomial = fit(tuple(e.birth.size for e in together if e.birth is not None))
            event = event._replace(
                birth=event.birth._replace(size=numbers.setdefault(polynomial, len(numbers)))
            )
        events.append(event)
    return events, list(numbers)


def _settled(events: Sequence[FlatEvent]) -> list[FlatEvent]:
    """Events with neighbouring deaths by age: what dies in one go dies in the order in which Python
    clears a dict or a frame, which now and then is another one, and no memory is taken in
    between."""
    settled: list[FlatEvent] = []
    dying: list[FlatEvent] = []
    for event in events:
        if event.birth is None and event.mark is None:
            dying.append(event)
        else:
            settled += sorted(dying, key=lambda death: death.dies)
            dying.clear()
            settled.append(event)
    return settled + sorted(dying, key=lambda death: death.dies)


def _unlike(a: FlatEvent, b: FlatEvent) -> bool:
    if a.birth is None or b.birth is None:
        return a != b
    return a.birth[1:] != b.birth[1:]


def difference(events: Sequence[FlatEvent], values: Sequence[int], fresh: Flat) -> str | None:
    """What a tape whose sizes are `values` says otherwise than a fresh trace; None where they are
    equal, event by event.

    The order among deaths that no other event parts does not count.
    """
    if len(events) != len(fresh.events):
        return f"{len(events)} events instead of {len(fresh.events)}"
    for i, (mine, real) in enumerate(zip(_settled(events), _settled(fresh.events), strict=True)):
        if mine.birth is not None:
            mine = mine._replace(birth=mine.birth._replace(size=values[mine.birth.size]))
        if mine != real:
            return f"event {i}: {mine} instead of {real}"
    return None
