"""How far long work is, on stderr, and how long it takes yet: one stream of events, {"phase",
"done", "of", "left_s"}. rich draws them on a terminal; without one each is a line of JSON, now and
then."""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lora_profiler._common.messages import printable
from lora_profiler.units import about_text, count_text

if TYPE_CHECKING:
    from lora_profiler.question.workload import Workload
    from lora_profiler.report.claims.claim import Checked, Claim
    from lora_profiler.trace.watch import TracingEffort

Tell = Callable[[str, int, int], None]
"""What is being done, how many parts are done, and of how many."""
SECONDS_BETWEEN = 10.0
"""Of silence before an event is written where there is no terminal."""
THREAD = "lora-profiler progress"
LONG_SECONDS = 60.0
"""A wait for which another way to an answer is named."""
AT_ONCE = "--engine analytic answers at once, with a lower bound for an unknown model type"


def seconds_left(done: int, total: int, seconds: float) -> float | None:
    """Of work of which `done` of `total` parts took `seconds`; None before the first is done.

    Examples:
        >>> seconds_left(1, 3, 20.0)
        40.0
    """
    return seconds * (total - done) / done if 0 < done < total else None


@dataclass(slots=True)
class Work:
    """One piece of work, as far as it is. `left_seconds` where it is known by other means than the
    parts that are done; `more` goes into its events."""

    phase: str
    unit: str = ""
    doing: str = ""
    done: int = 0
    of: int | None = None
    left_seconds: float | None = None
    more: dict[str, Any] = field(default_factory=dict)
    began: float = 0.0

    def __post_init__(self) -> None:
        self.began = self.began or time.monotonic()

    @property
    def left(self) -> float | None:
        if self.left_seconds is not None or self.of is None:
            return self.left_seconds
        return seconds_left(self.done, self.of, time.monotonic() - self.began)

    @property
    def text(self) -> str:
        """'rank 8 (20 of 61)', '412 of 1,900 layouts'."""
        if self.of is None:
            return self.doing
        count = f"{count_text(self.done)} of {count_text(self.of)}"
        return f"{self.doing} ({count})" if self.doing else f"{count} {self.unit}".rstrip()

    def event(self, **more: Any) -> dict[str, Any]:
        left = self.left
        event = {
            "phase": f"{self.phase} {self.unit}".rstrip(),
            "done": self.done,
            "of": self.of,
            "left_s": None if left is None else round(left),
        }
        return event | ({"doing": self.doing} if self.doing else {}) | self.more | more


class Events:
    """Lines of JSON, `seconds` between one and the next of a piece of work; None: the usual."""

    def __init__(self, seconds: float | None = None) -> None:
        self._between = SECONDS_BETWEEN if seconds is None else seconds
        self._written = time.monotonic()

    def begin(self, piece: Work) -> None:
        self._written = time.monotonic()

    def update(self, piece: Work) -> None:
        if time.monotonic() - self._written >= self._between:
            self.write(piece.event())

    def end(self, piece: Work, outcome: str) -> None:
        """What came of it is said by who began it."""

    def write(self, event: dict[str, Any]) -> None:
        self._written = time.monotonic()
        print(json.dumps(event, allow_nan=False), file=sys.stderr, flush=True)


class LiveBars:
    """A bar of rich for each piece."""

    def __init__(self, progress: Any) -> None:
        self._progress, self._tasks = progress, dict[int, Any]()

    def begin(self, piece: Work) -> None:
        self._tasks[id(piece)] = self._progress.add_task(
            printable(piece.phase), total=None, doing="", piece=piece
        )

    def update(self, piece: Work) -> None:
        task = self._tasks[id(piece)]
        doing = printable(piece.text)
        self._progress.update(task, completed=piece.done, total=piece.of, doing=doing)

    def end(self, piece: Work, outcome: str) -> None:
        task = self._tasks.pop(id(piece))
        self._progress.update(task, total=1, completed=1, doing=outcome, piece=None)


@contextmanager
def _shown(
    *, transient: bool, events: Events | None = None, seconds: float | None = None
) -> Iterator["Events | LiveBars"]:
    """Bars on a terminal, or `events`, `seconds` apart."""
    console = terminal() if events is None else None
    if console is None:
        yield events or Events(seconds)
        return
    with _live(console, transient=transient) as progress:
        yield LiveBars(progress)


@contextmanager
def shown_work(phase: str, unit: str = "", seconds: float | None = None) -> Iterator[Tell]:
    """Shows one piece of work, and nothing is left of it on a terminal; `unit` are its parts,
    `seconds` what lies between two events."""
    with _shown(transient=True, seconds=seconds) as shown:
        yield _teller(shown, Work(phase=phase, unit=unit))


def _teller(shown: Events | LiveBars, piece: Work) -> Tell:
    shown.begin(piece)

    def tell(doing: str, done: int, total: int) -> None:
        piece.doing, piece.done, piece.of = doing, done, total
        shown.update(piece)

    return tell


# --- the claims of `verify` -----------------------------------------------------------------------


class Checks:
    """What is shown of the checks of some claims (`report.claims.claim.Watch`). Events have the
    number of the claim too, 0 before the first, and its verdict, null until it has one."""

    def __init__(self, shown: Events | LiveBars, count: int) -> None:
        self._shown, self._count, self._begun = shown, count, 0
        self._piece = Work(phase="Getting the model", more={"claim": 0, "verdict": None})

    def prepare(self) -> Tell:
        return _teller(self._shown, self._piece)

    def begin(self, claim: "Claim") -> Tell:
        self._begun += 1
        number = f"[{self._begun}/{self._count}] {claim.id}. " * isinstance(self._shown, LiveBars)
        more = {"claim": claim.id, "verdict": None}
        self._piece = Work(phase=f"{number}{claim.title}", more=more)
        if isinstance(self._shown, Events):
            self._shown.write(self._piece.event())
        return _teller(self._shown, self._piece)

    def end(self, checked: "Checked") -> None:
        from lora_profiler.report.labels import CLAIM_VERDICT_LABELS

        verdict = checked.evidence.verdict
        self._shown.end(self._piece, CLAIM_VERDICT_LABELS[verdict])
        if isinstance(self._shown, Events):
            self._shown.write(self._piece.event(verdict=verdict))


@contextmanager
def shown_checks(count: int, *, as_json: bool = False) -> Iterator[Checks]:
    """Shows how far the checks of `count` claims are; `as_json` for other programs, four times a
    second."""
    with _shown(transient=False, events=Events(0.25) if as_json else None) as shown:
        yield Checks(shown, count)


# --- traces ---------------------------------------------------------------------------------------


@contextmanager
def shown_traces(at_once: str | None = AT_ONCE) -> Iterator[None]:
    """Shows the traces made inside. `at_once` says what is quicker, None where nothing is."""
    from lora_profiler.trace.watch import watching

    traces = _Traces(at_once)
    try:
        with watching(traces):
            yield
    finally:
        traces.ended()


class _Traces:
    def __init__(self, at_once: str | None) -> None:
        self._total, self._number, self._at_once = 1, 0, at_once
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def announced(self, count: int) -> None:
        self._total, self._number = count, 0

    def warned(self, text: str) -> None:
        self.noted(f"warning: {text}")

    def noted(self, text: str) -> None:
        print(printable(text), file=sys.stderr, flush=True)

    def began(self, workload: "Workload", effort: "TracingEffort", *, kept: bool) -> None:
        from lora_profiler.trace.watch import LIBRARIES_SECONDS

        self.ended()
        before = 0.0 if "torch" in sys.modules else LIBRARIES_SECONDS
        own = before + effort.seconds_left()
        whole = own * max(self._total - self._number, 1)
        if self._at_once and whole > LONG_SECONDS:
            self.noted(f"Tracing takes {about_text(whole)} ({self._at_once}).")
            self._at_once = None
        piece = Work(
            phase=f"tracing {_trace_words(workload, kept)}",
            done=self._number,
            of=max(self._total, self._number + 1),
            left_seconds=own,
        )
        self._number += 1
        self._over = threading.Event()
        arguments = (piece, effort, self._over)
        self._thread = threading.Thread(target=_beat, args=arguments, name=THREAD, daemon=True)
        self._thread.start()

    def ended(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()


def _beat(piece: Work, effort: "TracingEffort", over: threading.Event) -> None:
    with _shown(transient=True) as shown:
        shown.begin(piece)
        if isinstance(shown, Events):
            shown.write(piece.event())
        while not over.wait(0.5 if isinstance(shown, LiveBars) else SECONDS_BETWEEN):
            piece.left_seconds = effort.seconds_left()
            shown.update(piece)


def _trace_words(workload: "Workload", kept: bool) -> str:
    setup = workload.setup
    size = "one sample" if setup.batch_size == 1 else "several samples"
    if not kept:
        size = f"exactly {setup.batch_size} × {setup.seq_len:,} tokens"
    return f"{workload.model.id}, {setup.method}, {size}"


# --- on a terminal --------------------------------------------------------------------------------


def _live(console: Any, *, transient: bool) -> Any:
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    class Left(ProgressColumn):
        max_refresh = 1.0

        def render(self, task: Any) -> Text:
            piece = task.fields["piece"]
            left = None if piece is None else piece.left
            return Text("" if left is None else f"{about_text(left)} left", style="dim")

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=16),
        TimeElapsedColumn(),
        TextColumn("{task.fields[doing]}", style="dim", markup=False),
        Left(),
    )
    return Progress(*columns, console=console, transient=transient, redirect_stdout=False)


def terminal() -> Any:
    """rich's console on stderr, None without a terminal that can be drawn on."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        return None
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False)
