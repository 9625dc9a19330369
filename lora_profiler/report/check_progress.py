"""How far `verify` and `calibrate` are, on stderr: bars on a terminal, elsewhere a line when
something begins, ends, or takes long, for another program a line of JSON whenever there is
something new."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from lora_profiler.report.claims.claim import Checked, Claim, Tell
from lora_profiler.report.labels import CLAIM_VERDICT_LABELS
from lora_profiler.units import clock_text


class Lines:
    """Plain lines, for a pipe or a log."""

    between = 20.0
    """Seconds between two that tell how far a piece of work is."""

    def __init__(self, count: int) -> None:
        self._count, self._begun, self._said = count, 0, time.monotonic()

    def prepare(self) -> Tell:
        return self._tell(lambda *doing: self._doing("preparing", *doing))

    def begin(self, claim: Claim) -> Tell:
        self._begun += 1
        self._say(f"[{self._begun}/{self._count}] {claim.id}. {claim.title}")
        return self._tell(lambda *doing: self._doing(f"    {claim.title}", *doing))

    def end(self, checked: Checked) -> None:
        verdict = CLAIM_VERDICT_LABELS[checked.evidence.verdict]
        self._say(f"    {verdict}, took {clock_text(checked.seconds)}")

    def _doing(self, what: str, doing: str, done: int, total: int) -> None:
        self._say(f"{what}: {doing} ({done} of {total})")

    def _tell(self, say: Tell) -> Tell:
        def tell(doing: str, done: int, total: int) -> None:
            if time.monotonic() - self._said >= self.between:
                say(doing, done, total)

        return tell

    def _say(self, text: str) -> None:
        self._said = time.monotonic()
        print(text, file=sys.stderr, flush=True)


class JsonLines(Lines):
    """An object a line, for other programs: {"claim": its number or 0 for the preparation, "title",
    "doing", "done", "total", "verdict": null until it has one}.
    """

    between = 0.25

    def prepare(self) -> Tell:
        self._said = 0.0
        return self._tell(partial(self._object, 0, "Getting the model"))

    def begin(self, claim: Claim) -> Tell:
        self._object(claim.id, claim.title)
        return self._tell(partial(self._object, claim.id, claim.title))

    def end(self, checked: Checked) -> None:
        claim = checked.claim
        self._object(claim.id, claim.title, verdict=checked.evidence.verdict)

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
        self._say(json.dumps(told | {"verdict": verdict}, allow_nan=False))


class Bars:
    """Bars of rich."""

    def __init__(self, progress: Any) -> None:
        self._progress = progress
        self._task: Any = None

    def prepare(self) -> Tell:
        return self._tell(self._progress.add_task("Getting the model", total=None, doing=""))

    def begin(self, claim: Claim) -> Tell:
        self._task = self._progress.add_task(f"{claim.id}. {claim.title}", total=None, doing="")
        return self._tell(self._task)

    def end(self, checked: Checked) -> None:
        self._progress.update(
            self._task, total=1, completed=1, doing=CLAIM_VERDICT_LABELS[checked.evidence.verdict]
        )

    def _tell(self, task: Any) -> Tell:
        return lambda doing, done, total: self._progress.update(
            task, completed=done, total=total, doing=doing
        )


@contextmanager
def shown_checks(count: int, *, as_json: bool = False) -> Iterator[Lines | Bars]:
    """Shows on stderr how far the checks of `count` claims are; `as_json` for other programs."""
    if as_json:
        yield JsonLines(count)
        return
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield Lines(count)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True, highlight=False, emoji=False)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TimeElapsedColumn(),
        TextColumn("{task.fields[doing]}", style="dim", markup=False),
    )
    with Progress(*columns, console=console, redirect_stdout=False) as progress:
        yield Bars(progress)


@contextmanager
def shown() -> Iterator[Callable[[str, int, int], None]]:
    """What is yielded is told what begins, how many pieces of work are done, and of how many."""
    if not sys.stderr.isatty():
        say = partial(print, file=sys.stderr, flush=True)
        yield lambda what, done, total: say(f"[{done}/{total}] {what}")
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f}"),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=1)
        yield lambda what, done, total: bar.update(
            task, description=what, completed=done, total=total
        )
