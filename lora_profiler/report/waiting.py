"""How far long work is, on stderr: on a terminal a live line for each piece of it, with a bar, the
time so far and the time left; elsewhere a line when a piece takes long; for another program an
object a line."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from lora_profiler.units import about_text, clock_text, count_text

if TYPE_CHECKING:
    from lora_profiler.report.claims.claim import Checked, Claim

Tell = Callable[[str, int, int], None]
"""What is being done, how many parts are done, and of how many."""


class Shown(Protocol):
    """Pieces of work, one after the other."""

    def begin(self, what: str) -> Tell: ...

    def end(self, outcome: str, seconds: float) -> None: ...


def left_text(done: int, total: int, seconds: float) -> str:
    """The time left of work of which `done` of `total` parts took `seconds`; "" before the first
    is done.

    Examples:
        >>> left_text(1, 3, 20.0)
        'about 40 s left'
    """
    return f"{about_text(seconds * (total - done) / done)} left" if 0 < done < total else ""


def part_text(doing: str, done: int, total: int, unit: str) -> str:
    """'rank 8 (20 of 61)', or without words '412 of 1,900 layouts'."""
    count = f"{count_text(done)} of {count_text(total)}"
    return f"{doing} ({count})" if doing else f"{count} {unit}".rstrip()


@contextmanager
def shown_work(what: str, unit: str = "") -> Iterator[Tell]:
    """Shows one piece of work, and nothing is left of it on a terminal; `unit` are its parts."""
    with _shown(unit, transient=True) as pieces:
        yield pieces.begin(what)


@contextmanager
def _shown(unit: str = "", *, transient: bool = False) -> Iterator[Shown]:
    console = terminal()
    if console is None:
        yield Lines(unit)
        return
    with _live(console, transient=transient) as progress:
        yield Bars(progress, unit)


# --- the claims of `verify` -----------------------------------------------------------------------


class Checks:
    """What is shown of the checks of some claims (`report.claims.claim.Watch`)."""

    def __init__(self, shown: Shown, count: int) -> None:
        self._shown, self._count, self._begun = shown, count, 0

    def prepare(self) -> Tell:
        return self._shown.begin("Getting the model")

    def begin(self, claim: "Claim") -> Tell:
        self._begun += 1
        title = f"[{self._begun}/{self._count}] {claim.id}. {claim.title}"
        if isinstance(self._shown, Lines):
            self._shown.say(title)
            title = claim.title
        return self._shown.begin(title)

    def end(self, checked: "Checked") -> None:
        from lora_profiler.report.labels import CLAIM_VERDICT_LABELS

        self._shown.end(CLAIM_VERDICT_LABELS[checked.evidence.verdict], checked.seconds)


class JsonLines:
    """An object a line: {"claim": its number or 0 for the preparation, "title", "doing", "done",
    "total", "verdict": null until it has one}."""

    between = 0.25

    def __init__(self) -> None:
        self._said = time.monotonic()

    def prepare(self) -> Tell:
        self._said = 0.0
        return partial(self._now_and_then, 0, "Getting the model")

    def begin(self, claim: "Claim") -> Tell:
        self._object(claim.id, claim.title)
        return partial(self._now_and_then, claim.id, claim.title)

    def end(self, checked: "Checked") -> None:
        claim = checked.claim
        self._object(claim.id, claim.title, verdict=checked.evidence.verdict)

    def _now_and_then(self, claim: int, title: str, doing: str, done: int, total: int) -> None:
        if time.monotonic() - self._said >= self.between:
            self._object(claim, title, doing, done, total)

    def _object(
        self,
        claim: int,
        title: str,
        doing: str = "",
        done: int = 0,
        total: int | None = None,
        verdict: str | None = None,
    ) -> None:
        told = {"claim": claim, "title": title, "doing": doing, "done": done, "total": total}
        self._said = time.monotonic()
        print(json.dumps(told | {"verdict": verdict}, allow_nan=False), file=sys.stderr, flush=True)


@contextmanager
def shown_checks(count: int, *, as_json: bool = False) -> Iterator[Checks | JsonLines]:
    """Shows how far the checks of `count` claims are; `as_json` for other programs."""
    if as_json:
        yield JsonLines()
        return
    with _shown() as pieces:
        yield Checks(pieces, count)


# --- without a terminal, and on one ---------------------------------------------------------------


class Lines:
    """Plain lines, for a pipe or a log."""

    between = 10.0
    """Seconds of silence before a line tells how far a piece of work is."""

    def __init__(self, unit: str = "") -> None:
        self._unit, self._said = unit, time.monotonic()

    def begin(self, what: str) -> Tell:
        began = self._said = time.monotonic()

        def tell(doing: str, done: int, total: int) -> None:
            now = time.monotonic()
            if now - self._said >= self.between:
                left = left_text(done, total, now - began)
                parts = part_text(doing, done, total, self._unit)
                self.say(f"    {what}: {', '.join(filter(None, (parts, left)))}")

        return tell

    def end(self, outcome: str, seconds: float) -> None:
        self.say(f"    {outcome}, took {clock_text(seconds)}")

    def say(self, text: str) -> None:
        self._said = time.monotonic()
        print(text, file=sys.stderr, flush=True)


class Bars:
    """Bars of rich."""

    def __init__(self, progress: Any, unit: str = "") -> None:
        self._progress, self._unit = progress, unit

    def begin(self, what: str) -> Tell:
        task = self._task = self._progress.add_task(what, total=None, doing="")

        def tell(doing: str, done: int, total: int) -> None:
            parts = part_text(doing, done, total, self._unit)
            self._progress.update(task, completed=done, total=total, doing=parts)

        return tell

    def end(self, outcome: str, seconds: float) -> None:
        self._progress.update(self._task, total=1, completed=1, doing=outcome)


def _live(console: Any, *, transient: bool) -> Any:
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn
    from rich.text import Text

    class Left(ProgressColumn):
        max_refresh = 1.0

        def render(self, task: Any) -> Text:
            if task.total is None or task.elapsed is None:
                return Text("")
            return Text(left_text(task.completed, task.total, task.elapsed), style="dim")

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
