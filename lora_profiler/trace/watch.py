"""Who waits for a trace is told of it: what is traced, before torch is loaded for it, how long that
will take, and what went wrong."""

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from lora_profiler.question.workload import Workload


# --- watching a trace -----------------------------------------------------------------------------


class TraceWatch(Protocol):
    """What is told."""

    def announced(self, count: int) -> None:
        """So many profiles are to be made, one after the other."""

    def began(self, workload: "Workload", effort: "TracingEffort", *, kept: bool) -> None:
        """Traces begin, of a profile that is kept or for this answer alone. `effort` can be asked
        at any time, by any thread."""

    def ended(self) -> None:
        """They are over, whatever came of them."""

    def warned(self, text: str) -> None:
        """Something could not be traced."""

    def noted(self, text: str) -> None:
        """What is done about it."""


_WATCH: ContextVar[TraceWatch | None] = ContextVar("watch", default=None)
_EFFORT: "ContextVar[TracingEffort | None]" = ContextVar("effort", default=None)
_ENDED: "dict[tuple[str, str], list[EndedTrace]]" = {}
"""Traces of this process, by the model's fingerprint and the method."""


@contextmanager
def watching(watch: TraceWatch) -> Iterator[None]:
    """Inside, `watch` is told of every trace of this thread."""
    token = _WATCH.set(watch)
    try:
        yield
    finally:
        _WATCH.reset(token)


def announce(count: int) -> None:
    """`count` profiles are to be made in this thread."""
    if watch := _WATCH.get():
        watch.announced(count)


def warn(text: str) -> None:
    """To whoever watches, else a warning as Python gives them."""
    if watch := _WATCH.get():
        watch.warned(text)
    else:
        warnings.warn(text, stacklevel=2)


def note(text: str) -> None:
    if watch := _WATCH.get():
        watch.noted(text)


@contextmanager
def watched(workload: "Workload", sizes: "Sequence[Size]", *, kept: bool) -> Iterator[None]:
    """Inside, traces for `workload` are made, of `sizes` as far as is known yet."""
    watch, setup = _WATCH.get(), workload.setup
    if watch is None or _EFFORT.get() is not None:
        yield
        return

    ended = _ENDED.setdefault((workload.model.fingerprint, setup.method), [])
    effort = TracingEffort(ended, sizes, adapted=setup.lora is not None)
    token = _EFFORT.set(effort)
    watch.began(workload, effort, kept=kept)
    try:
        yield
    finally:
        _EFFORT.reset(token)
        watch.ended()


def effort() -> "TracingEffort | None":
    """That of the traces being made, None where nobody watches."""
    return _EFFORT.get()


# --- how long traces take -------------------------------------------------------------------------

# How long traces take: a guess before the first one, and then by what those that ended took, since
# a trace's time goes with the number of its operators. Those grow with the layers, and with the
# tokens where the model's code goes over them in a loop.

LIBRARIES_SECONDS = 5.0
LAYER_SECONDS, ADAPTED_LAYER_SECONDS = 0.1, 0.2
"""Of importing torch, transformers and PEFT, and of one layer in one trace; of families looked at,
within a factor of three."""


class Size(NamedTuple):
    """What a trace's time depends on. Of a profile tokens do not count: a step that goes over them
    in a loop has none."""

    layers: int
    tokens: int = 0


class EndedTrace(NamedTuple):
    """A trace that is over."""

    size: Size
    events: int
    seconds: float


class TracingEffort:
    """The traces that a question needs. `ended` are those of the same model and method so far, also
    for earlier questions."""

    def __init__(self, ended: list[EndedTrace], sizes: Sequence[Size], *, adapted: bool) -> None:
        self._ended, self._to_come = ended, list(sizes)
        self._layer_seconds = ADAPTED_LAYER_SECONDS if adapted else LAYER_SECONDS
        self._began: float | None = None

    def plan(self, sizes: Sequence[Size]) -> None:
        """The traces that are to come are these, and no others."""
        self._to_come = list(sizes)

    def begin(self) -> None:
        self._began = time.monotonic()

    def end(self, size: Size, events: int) -> None:
        if self._began is not None:
            self._ended.append(EndedTrace(size, events, time.monotonic() - self._began))
        self._began = None
        for one in self._to_come:
            if one.layers == size.layers:
                self._to_come.remove(one)
                break

    def seconds_left(self) -> float:
        """Of the traces to come, the running one included."""
        running = 0.0 if self._began is None else time.monotonic() - self._began
        return max(sum(map(self._seconds, list(self._to_come))) - running, 0.0)

    def _seconds(self, size: Size) -> float:
        ended = list(self._ended)
        if len(ended) < 2:
            return self._layer_seconds * size.layers
        from statistics import median  # slow to import, and most answers trace nothing

        rate = median(
            one.seconds / max(one.events, 1) for one in ended[1:]
        )  # the first loads what the libraries left for later
        return rate * _events(ended, size)


def _events(ended: Sequence[EndedTrace], size: Size) -> float:
    """By the traces of one depth, the one with the most: layer by layer, on the line through what
    they have at their lengths."""
    depths = [one.size.layers for one in ended]
    layers = max(set(depths), key=lambda depth: (depths.count(depth), depth))
    rates = [(one.size.tokens, one.events / layers) for one in ended if one.size.layers == layers]
    mean_tokens, mean_events = (
        sum(t for t, _ in rates) / len(rates),
        sum(e for _, e in rates) / len(rates),
    )
    spread = sum((tokens - mean_tokens) ** 2 for tokens, _ in rates)
    slope = (
        sum((tokens - mean_tokens) * (events - mean_events) for tokens, events in rates) / spread
        if spread
        else 0.0
    )
    return size.layers * (mean_events + max(slope, 0.0) * max(size.tokens - mean_tokens, 0.0))
