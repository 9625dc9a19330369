"""Ctrl-C, SIGTERM or a closed terminal during a run: once to end it, and what comes after cannot
spoil the winding up."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import FrameType

from lora_profiler.measuring.harness import Case, MeasurementInterrupted
from lora_profiler.measuring.records.record import Record

ENDING = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""What ends a run: Ctrl-C, a scheduler whose time is up, and a terminal that was closed."""


@dataclass(slots=True)
class Interrupt:
    """`requested` once a signal has come, which is `number`."""

    requested: bool = False
    number: int = signal.SIGINT

    @property
    def exit_code(self) -> int:
        """As shells have it of a command that a signal ended."""
        return 128 + self.number


@contextmanager
def one_interrupt() -> Iterator[Interrupt]:
    """Inside, the first of the signals raises KeyboardInterrupt, as Ctrl-C ever does; further ones
    are passed over, while children are ended and records stored, which takes seconds. What is
    ignored already, as in the background of a shell or under nohup, stays so.
    """
    interrupt = Interrupt()
    terminals = [stream for stream in (1, 2) if os.isatty(stream)]

    def handle(number: int, frame: FrameType | None) -> None:
        if not interrupt.requested:
            interrupt.requested, interrupt.number = True, number
            if number == getattr(signal, "SIGHUP", None):
                _write_no_more(terminals)
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in ENDING}
    heard = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in heard:
        signal.signal(number, handle)
    try:
        yield interrupt
    finally:
        for number in heard:
            signal.signal(number, before[number])


def _write_no_more(streams: list[int]) -> None:
    """The terminal is gone: what is still said would fail, and end the winding up."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream)
    os.close(nowhere)


def last_when_interrupted(
    measure: Callable[..., Record], interrupt: Interrupt
) -> Callable[..., Record]:
    """`measure`, but what it returns after a signal is the last: a child may end well in that
    moment. Its record is kept then, and nothing is started after it."""

    def measured(case: Case, **options: object) -> Record:
        record = measure(case, **options)
        if interrupt.requested:
            raise MeasurementInterrupted(_ended_alike(record, interrupt.number))
        return record

    return measured


def _ended_alike(record: Record, number: int) -> Record:
    """A scheduler sends its signal to every process of a job: a child that died of it did not
    crash."""
    measurement = record.measurement
    if (
        measurement.status != "crash"
        or measurement.failure is None
        or measurement.failure.exit_code != -number
    ):
        return record
    failure = replace(measurement.failure, reason="interrupted from outside", log=None)
    return replace(record, measurement=replace(measurement, status="interrupted", failure=failure))
