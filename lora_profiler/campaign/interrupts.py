"""Ctrl-C during a run: once to end it, and what comes after cannot spoil the winding up."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from lora_profiler.harness import Case, MeasurementInterrupted
from lora_profiler.record import Record


@dataclass(slots=True)
class Interrupt:
    """`asked` once Ctrl-C was pressed."""

    asked: bool = False


@contextmanager
def one_interrupt() -> Iterator[Interrupt]:
    """Inside, the first Ctrl-C raises KeyboardInterrupt as ever; further ones are passed over, while children are ended and
    records stored, which takes seconds. Where Ctrl-C is ignored already, as in the background of a shell, it stays so.
    """
    interrupt = Interrupt()
    before = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: FrameType | None) -> None:
        if not interrupt.asked:
            interrupt.asked = True
            raise KeyboardInterrupt

    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handle)
    try:
        yield interrupt
    finally:
        signal.signal(signal.SIGINT, before)


def last_when_asked(measure: Callable[..., Record], interrupt: Interrupt) -> Callable[..., Record]:
    """`measure`, but what it returns after Ctrl-C is the last: a child may end well in that moment. Its record is kept then, and
    nothing is started after it."""

    def measured(case: Case, **options: object) -> Record:
        record = measure(case, **options)
        if interrupt.asked:
            raise MeasurementInterrupted(record)
        return record

    return measured
