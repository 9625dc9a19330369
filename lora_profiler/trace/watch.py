"""Who waits for a trace is told of it: what is traced, before torch is loaded for it, how long that
will take, and what went wrong."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from lora_profiler.question.workload import Workload
    from lora_profiler.trace.effort import EndedTrace, Size, TracingEffort


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
    from lora_profiler.trace.effort import TracingEffort

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
