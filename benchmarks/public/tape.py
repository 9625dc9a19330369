"""The whole step of a stack as births and deaths at full depth, and what a card's counters say of
it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from lora_profiler.memory.compiled.allocator import replay
from lora_profiler.memory.compiled.tape import LEAST_UNITS, Birth, FlatEvent
from lora_profiler.memory.prediction import Category
from lora_profiler.question.workload import Workload
from lora_profiler.trace.flat import TapeError, difference, flat
from lora_profiler.trace.fold import fold, labels_of
from lora_profiler.trace.run import trace
from lora_profiler.trace.toys import at_depth, layout_of

Build = Callable[[Workload], nn.Module]
Context = Callable[[], AbstractContextManager[Any]]
WORKSPACE = 8_519_680
"""cuBLAS' workspace on A100 and H100 in bytes (torch `CUDABlas.cpp`: 4096 KiB x 2 + 16 KiB x 8),
one for the thread of the forward pass and one for autograd's."""
WORKSPACES = 2
PERSISTENT: tuple[Category, ...] = (
    "parameters",
    "adapters",
    "buffers",
    "quantization_state",
    "optimizer_states",
)


@dataclass(frozen=True, slots=True)
class Tape:
    """Two optimizer steps at full depth."""

    events: tuple[FlatEvent, ...]

    def sizes(self) -> list[int]:
        return [WORKSPACE] * WORKSPACES + [e.birth.size for e in self.events if e.birth is not None]

    def lives(self, first_step: bool) -> list[int]:
        """As `allocator.replay` takes them; the workspaces come first and stay."""
        found, born = list(range(WORKSPACES)), WORKSPACES
        for event in self.events:
            if first_step and event.mark is not None and event.mark.step == 2:
                break
            if event.birth is not None:
                found.append(born)
                born += 1
            elif event.mark is None:
                found.append(~(event.dies + WORKSPACES))
        return found

    def peak(self, first_step: bool = False) -> tuple[int, int]:
        """Allocated and reserved bytes, workspaces included; of both steps, or of the first, before
        Adam has states."""
        found = replay(self.sizes(), self.lives(first_step))
        return found.allocated_bytes, found.reserved_bytes

    def at_end(self) -> int:
        """Bytes of what lives after the last step, workspaces included."""
        last = [live for _, _, live in self.instants()][-1]
        return sum(last.values()) + WORKSPACES * WORKSPACE

    def after_update(self) -> int:
        """Bytes of what lives when the update is over and the gradients are still there."""
        total = 0
        for phase, _, live in self.instants():
            if phase == "zero":
                break
            total = sum(live.values())
        return total + WORKSPACES * WORKSPACE

    def instants(self) -> Iterator[tuple[str, str, dict[str, int]]]:
        """Phase of the second step ("" before it), module of the event, and live bytes by category
        (one dict, changed in place) after each event."""
        births: list[Birth] = []
        live: dict[str, int] = {}
        phase = ""
        for event in self.events:
            if event.mark is not None:
                if not event.mark.note:
                    phase = event.mark.phase if event.mark.step == 2 else ""
                continue
            birth = event.birth or births[event.dies]
            if event.birth is not None:
                births.append(birth)
            live[birth.category] = live.get(birth.category, 0) + (
                birth.size if event.birth else -birth.size
            )
            yield phase, birth.module, live


def tape_of(workload: Workload, build: Build, contexts: tuple[Context, ...] = ()) -> Tape:
    """Traced at four units of layers at the very sizes asked, proven by a trace of five, and folded
    out to the model's depth.

    Where a step does not fold, as under an autocast that keeps copies of all layers' weights until
    its end, the model is traced whole. Raises what building and tracing raise.
    """
    layout = layout_of(workload.model)
    units = None if layout is None else layout.units_of(workload.model.num_layers)
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context())
        if layout is not None and units is not None:
            few, more = (
                flat(trace(_at(workload, layout.layers(u)), build))
                for u in (LEAST_UNITS, LEAST_UNITS + 1)
            )
            events, sizes = _numbered(few.events)
            try:
                folded = fold(events, labels_of(few.where, layout, LEAST_UNITS), layout)
                proof = folded.expand(LEAST_UNITS + 1)
                if difference(proof, sizes, more) is None:
                    return Tape(tuple(_sized(event, sizes) for event in folded.expand(units)))
            except (TapeError, LookupError):
                pass
        return Tape(tuple(flat(trace(workload, build)).events))


def _at(workload: Workload, layers: int) -> Workload:
    return replace(workload, model=at_depth(workload.model, layers))


def _numbered(events: Sequence[FlatEvent]) -> tuple[list[FlatEvent], list[int]]:
    """`events` with numbers of sizes in place of sizes, and the sizes."""
    numbers: dict[int, int] = {}
    found = [
        (
            e
            if e.birth is None
            else e._replace(
                birth=e.birth._replace(size=numbers.setdefault(e.birth.size, len(numbers)))
            )
        )
        for e in events
    ]
    return found, list(numbers)


def _sized(event: FlatEvent, sizes: Sequence[int]) -> FlatEvent:
    return (
        event
        if event.birth is None
        else event._replace(birth=event.birth._replace(size=sizes[event.birth.size]))
    )
