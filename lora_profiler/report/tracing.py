"""Tracing while it goes, on stderr: what is traced and about how long it takes, then a line every
quarter of a minute."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lora_profiler._common.messages import WARNING, message_text
from lora_profiler._common.printable import printable
from lora_profiler.traced.watch import watching
from lora_profiler.units import about_text, clock_text

if TYPE_CHECKING:
    from lora_profiler.traced.effort import Effort
    from lora_profiler.workload import Workload

THREAD = "lora-profiler tracing"
SECONDS_BETWEEN = 15.0
LONG_SECONDS = 60.0
"""A wait for which another way to an answer is named."""
AT_ONCE = "--engine analytic answers at once, with a lower bound where rules do not know the model"


@contextmanager
def shown(at_once: str | None = AT_ONCE) -> Iterator[None]:
    """Tells of the traces made inside. `at_once` says what is quicker, None where nothing is."""
    lines = _Lines(at_once)
    try:
        with watching(lines):
            yield
    finally:
        lines.ended()


class _Lines:
    def __init__(self, at_once: str | None) -> None:
        self._total, self._number, self._at_once = 1, 0, at_once
        self._over = threading.Event()

    def announced(self, count: int) -> None:
        self._total, self._number = count, 0

    def warned(self, text: str) -> None:
        print(message_text(WARNING, text), file=sys.stderr, flush=True)

    def noted(self, text: str) -> None:
        self._say(text)

    def began(self, workload: "Workload", effort: "Effort", *, kept: bool) -> None:
        from lora_profiler.traced.effort import LIBRARIES_SECONDS

        self._number += 1
        which = f"[{self._number}/{self._total}] " if kept and self._total > 1 else ""
        what = f"{which}tracing {_words(workload, kept)}"
        libraries = 0.0 if "torch" in sys.modules else LIBRARIES_SECONDS
        later = "; kept for later" if kept else ""
        self._say(f"{what}: {self._expected(libraries, effort)}{later}")
        self._over = threading.Event()
        told = (what, effort, self._over)
        threading.Thread(target=self._beat, args=told, name=THREAD, daemon=True).start()

    def ended(self) -> None:
        self._over.set()

    def _beat(self, what: str, effort: "Effort", over: threading.Event) -> None:
        began = time.monotonic()
        while not over.wait(SECONDS_BETWEEN):
            so_far = clock_text(time.monotonic() - began)
            self._say(f"{what}: {so_far} so far, {self._expected(0.0, effort)} more")

    def _expected(self, before: float, effort: "Effort") -> str:
        """How long it takes yet, and once, where that is long, what is quicker; of several profiles
        also all of them."""
        own = before + effort.seconds_left()
        rest = own * max(self._total - self._number, 0)
        words = about_text(own)
        if rest and own + rest > LONG_SECONDS:
            words += f", {about_text(own + rest)} for all"
        if self._at_once and own + rest > LONG_SECONDS:
            words += f" ({self._at_once})"
            self._at_once = None
        return words

    def _say(self, line: str) -> None:
        print(printable(line), file=sys.stderr, flush=True)


def _words(workload: "Workload", kept: bool) -> str:
    setup = workload.setup
    size = "one sample" if setup.batch_size == 1 else "several samples"
    if not kept:
        size = f"exactly {setup.batch_size} x {setup.seq_len:,} tokens"
    return f"{workload.model.id}, {setup.method}, {size}"
