"""One run of `lora-profile` at a time, in a process of its own: started, followed line by line,
cancelled, and read at its end; and on a page how far it is.

What it loads, torch above all, is never in the dashboard's process.
"""

import atexit
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import streamlit as st

from lora_profiler._common.messages import ERROR, messages_in
from lora_profiler.dashboard import widgets
from lora_profiler.errors import LoraProfilerError
from lora_profiler.measuring.harness.process import end_group, python_path
from lora_profiler.report.blocks import Block
from lora_profiler.units import clock_text

WIND_UP_SECONDS = 25.0
"""What the process has after Ctrl-C to end its children and to store what is done; then it is
ended, and then killed."""
TERMINATE_SECONDS = 5.0
_KEPT_LINES = 200
_COMMAND = (sys.executable, "-m", "lora_profiler")

Kind = Literal["measuring", "checking"]
State = TypeVar("State")
Reader = Callable[[Mapping[str, Any], Mapping[int, State]], tuple[int, State]]
"""A line and what earlier ones told of each part -> a part's number and what is known of it now."""


class AlreadyRunningError(LoraProfilerError):
    """Two runs at once would spoil each other."""

    exit_code = 4


@dataclass(slots=True, kw_only=True)
class Followed(Generic[State]):
    """A started run. `states` has what `read` makes of the lines of JSON on stderr for each of its
    parts, by number; `stderr_lines` are the others.

    `exit_code` is None while it runs; afterwards `document` holds the JSON that it printed, None
    where it printed none.
    """

    command: str
    began: float
    process: "subprocess.Popen[str]"
    read: "Reader[State]"
    folder: "tempfile.TemporaryDirectory[str] | None" = None
    states: dict[int, State] = field(default_factory=dict)
    stderr_lines: list[str] = field(default_factory=list)
    exit_code: int | None = None
    ended: float | None = None
    cancelled: bool = False
    document: dict[str, Any] | None = None

    @property
    def runs(self) -> bool:
        return self.exit_code is None

    @property
    def seconds(self) -> float:
        return (self.ended or time.monotonic()) - self.began

    def refusal(self) -> str | None:
        """Why there is no result, in its own words; None with one, or after a cancel."""
        if self.runs or self.document is not None or self.cancelled:
            return None
        errors = list(messages_in(ERROR, self.stderr_lines))
        last_lines = "\n".join(self.stderr_lines[-8:])
        return errors[-1] if errors else last_lines or f"It ended with {self.exit_code}."

    def cancel(self) -> None:
        """Ends it as Ctrl-C would, later without asking. Returns at once."""
        if self.runs and not self.cancelled:
            self.cancelled = True
            threading.Thread(target=self._end, daemon=True).start()

    def _end(self) -> None:
        first, then = (signal.SIGINT, WIND_UP_SECONDS), (signal.SIGTERM, TERMINATE_SECONDS)
        end_group(self.process, first, then)

    # --- listening --------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Follows stderr to its end, then takes the document. Runs in a thread of its own."""
        assert self.process.stdout is not None and self.process.stderr is not None
        printed: list[str] = []
        reader = threading.Thread(
            target=lambda out: printed.append(out.read()), args=(self.process.stdout,), daemon=True
        )
        reader.start()
        with self.process.stdout, self.process.stderr:
            for line in self.process.stderr:
                self._handle_line(line.rstrip("\n"))
            code = self.process.wait()
            reader.join()
        with contextlib.suppress(ValueError):
            self.document = json.loads("".join(printed))
        if self.folder is not None:
            self.folder.cleanup()
        self.ended = time.monotonic()
        self.exit_code = code

    def _handle_line(self, line: str) -> None:
        if line.startswith("{"):
            with contextlib.suppress(ValueError, TypeError):
                number, state = self.read(json.loads(line), self.states)
                self.states[number] = state
                return
        if line.strip():
            self.stderr_lines.append(line)
            del self.stderr_lines[:-_KEPT_LINES]


# --- the one that runs ----------------------------------------------------------------------------

_lock = threading.Lock()
_started: "dict[Kind, Followed[Any]]" = {}


def present(kind: Kind) -> "Followed[Any] | None":
    """The run of this kind that goes on, or the last one that did; None where there was none."""
    return _started.get(kind)


def is_busy() -> bool:
    return any(followed.runs for followed in _started.values())


def start(
    kind: Kind,
    read: "Reader[State]",
    arguments: Sequence[str],
    shown: Sequence[str] | None = None,
    folder: "tempfile.TemporaryDirectory[str] | None" = None,
) -> Followed[State]:
    """Starts `lora-profile` with these arguments; `shown` are those that a reader could give where
    they are others.

    `folder` is gone when the process has ended, or none was started. Raises AlreadyRunningError.
    """
    with _lock:
        if is_busy():
            if folder is not None:
                folder.cleanup()
            raise AlreadyRunningError(
                "A measurement or a check runs already, and two at once would spoil each other;"
                " wait, or cancel it."
            )
        own = {"PYTHONPATH": python_path(), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
        process: subprocess.Popen[str] = subprocess.Popen(
            [*_COMMAND, *arguments, "--progress", "json", "--format", "json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            env={**os.environ, **own},
        )
        followed = Followed(
            command=shlex.join(["lora-profile", *(shown or arguments)]),
            began=time.monotonic(),
            process=process,
            read=read,
            folder=folder,
        )
        threading.Thread(target=followed._listen, daemon=True).start()
        if not _started:
            atexit.register(end_all)
        _started[kind] = followed
        return followed


def end_all() -> None:
    """For the end of the server: what still runs is ended as by a cancel, and waited for."""
    for followed in _started.values():
        if followed.runs:
            followed.cancelled = True
            followed._end()


_EVERY_SECONDS = 0.5
Draw = Callable[[Followed[Any]], None]


def start_button(label: str, key: str, start: Callable[[], object], *, disabled: bool) -> None:
    is_off = disabled or is_busy()
    if st.button(label, type="primary", key=key, disabled=is_off):
        try:
            start()
        except (LoraProfilerError, OSError) as e:
            widgets.problem(str(e), heading="Nothing was started")
        else:
            st.rerun()


def show(kind: Kind, going: Draw, ended: Draw) -> None:
    """`going` draws the run of this kind that goes on, else `ended` the last, if any."""
    running = present(kind)
    if running is None:
        return
    if running.runs:
        _live(kind, going)
    else:
        ended(running)


@st.fragment(run_every=_EVERY_SECONDS)
def _live(kind: Kind, going: Draw) -> None:
    running = present(kind)
    if running is None or not running.runs:
        st.rerun()
    going(running)


def under_way(
    running: Followed[Any],
    title: str,
    progress: Block,
    *,
    bar: tuple[float, str] | None = None,
    key: str,
    ending: str,
    tip: str,
) -> None:
    widgets.section(title)
    if bar is not None:
        st.progress(*bar)
    widgets.blocks([progress])
    widgets.small(f"{clock_text(running.seconds)} gone; {running.command}")
    if running.cancelled:
        widgets.note(ending)
    else:
        st.button("Cancel", key=key, on_click=running.cancel, help=tip)
