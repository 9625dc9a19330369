"""One measurement at a time, in a process of its own: started, followed line by line, cancelled, and read when it has ended.

The process is `lora-profile bench`; what it measures it stores itself, so that nothing is lost with this one.
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
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lora_profiler.dashboard.markup import plain_name
from lora_profiler.dashboard.question import Question, setup_arguments
from lora_profiler.errors import LoraProfilerError
from lora_profiler.model_spec import ModelSpec
from lora_profiler.planning.setups import SetupOptions
from lora_profiler.record import Record
from lora_profiler.record_lines import parsed_record
from lora_profiler.workload import Device

WIND_UP_SECONDS = 25.0
"""What the process has after Ctrl-C to end its child and to store what is done; then it is ended, and then killed."""
TERMINATE_SECONDS = 5.0
_KEPT_LINES = 200
_COMMAND = (sys.executable, "-m", "lora_profiler")


class AlreadyMeasuringError(LoraProfilerError):
    """Two measurements at once would spoil each other."""

    exit_code = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What `bench` is told beside the question; None leaves its default."""

    device: Device | None = None
    steps: int | None = None
    timing_seconds: float | None = None
    no_timing: bool = False
    budget: str | None = None
    repeats: int = 1
    timeout_seconds: float = 1800.0


def bench_arguments(model: str, question: Question, conditions: Conditions) -> list[str]:
    """What to give `lora-profile`; `model` is an id or a config.json's path. The device of a prediction is not taken over."""
    arguments = setup_arguments(replace(question, options=replace(question.options, device=SetupOptions().device)))
    named = {
        "--device": conditions.device,
        "--steps": conditions.steps,
        "--timing-seconds": conditions.timing_seconds,
        "--budget": conditions.budget,
        "--repeats": conditions.repeats if conditions.repeats > 1 else None,
        "--timeout": conditions.timeout_seconds if conditions.timeout_seconds != Conditions().timeout_seconds else None,
    }
    for name, value in named.items():
        if value is not None:
            arguments += [name, f"{value:g}" if isinstance(value, float) else str(value)]
    if conditions.no_timing:
        arguments.append("--no-timing")
    return ["bench", *arguments, "--", model] if model.startswith("-") else ["bench", model, *arguments]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseState:
    """Where one case stands, as `bench --progress json` tells it."""

    case: int
    of: int | None
    model: str
    method: str
    state: str
    phase: str | None
    step: int | None
    done: int | None
    status: str | None
    record_id: str | None


@dataclass(slots=True, kw_only=True)
class Measuring:
    """A started measurement. `cases` is what is known of each so far, by number; `said` what else stood on stderr.

    `exit_code` is None while it runs; afterwards `document` holds the JSON that it printed, None where it printed none.
    """

    command: str
    began: float
    process: "subprocess.Popen[str]"
    folder: "tempfile.TemporaryDirectory[str] | None"
    cases: dict[int, CaseState] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
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

    def records(self) -> list[Record]:
        """What it measured, once it has ended."""
        return [parsed_record(each) for each in (self.document or {}).get("records", ())]

    def refusal(self) -> str | None:
        """Why nothing was measured, in its own words; None where something was, or it was cancelled."""
        if self.runs or self.document is not None or self.cancelled:
            return None
        errors = [line for line in self.said if line.startswith("Error: ")]
        return errors[-1].removeprefix("Error: ") if errors else "\n".join(self.said[-8:]) or f"It ended with {self.exit_code}."

    def cancel(self) -> None:
        """Ends it as Ctrl-C would, and where that takes too long without asking. Returns at once."""
        if self.runs and not self.cancelled:
            self.cancelled = True
            threading.Thread(target=self._end, daemon=True).start()

    def _end(self) -> None:
        for what, seconds in ((signal.SIGINT, WIND_UP_SECONDS), (signal.SIGTERM, TERMINATE_SECONDS)):
            _signal_group(self.process, what)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)
                return
        _signal_group(self.process, getattr(signal, "SIGKILL", signal.SIGTERM))

    # --- listening ---------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Follows stderr to its end, then takes the document. Runs in a thread of its own."""
        assert self.process.stdout is not None and self.process.stderr is not None
        printed: list[str] = []
        reader = threading.Thread(target=lambda out: printed.append(out.read()), args=(self.process.stdout,), daemon=True)
        reader.start()
        with self.process.stdout, self.process.stderr:
            for line in self.process.stderr:
                self._hear(line.rstrip("\n"))
            code = self.process.wait()
            reader.join()
        with contextlib.suppress(ValueError):
            self.document = json.loads("".join(printed))
        if self.folder is not None:
            self.folder.cleanup()
        self.ended = time.monotonic()
        self.exit_code = code

    def _hear(self, line: str) -> None:
        if line.startswith("{"):
            with contextlib.suppress(ValueError, TypeError):
                told = CaseState(**json.loads(line))
                self.cases[told.case] = told
                return
        if line.strip():
            self.said.append(line)
            del self.said[:-_KEPT_LINES]


def _signal_group(process: "subprocess.Popen[str]", what: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError, ValueError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, what)
        elif process.poll() is None:
            process.send_signal(signal.CTRL_BREAK_EVENT if what == signal.SIGINT else what)  # type: ignore[attr-defined]


# --- the one that runs ----------------------------------------------------------------------------------------------------

_lock = threading.Lock()
_started_so_far: list[Measuring] = []


def present() -> Measuring | None:
    """The measurement that runs, or the last one that ran; None where there was none."""
    return _started_so_far[-1] if _started_so_far else None


def start(model: ModelSpec, question: Question, conditions: Conditions, *, uploaded: bool) -> Measuring:
    """Starts `lora-profile bench` on the question. Raises AlreadyMeasuringError.

    An uploaded config.json is written to a folder of this user's alone, which is gone when the process has ended.
    """
    with _lock:
        before = present()
        if before is not None and before.runs:
            raise AlreadyMeasuringError("A measurement runs already, and two at once would spoil each other; wait, or cancel it.")
        folder = tempfile.TemporaryDirectory(prefix="lora-profiler-") if uploaded else None
        name = question.model if folder is None else _written(model, folder.name)
        arguments = bench_arguments(name, question, conditions)
        shown = bench_arguments(f"{plain_name(model.id)}.json", question, conditions) if uploaded else arguments
        found = _started([*arguments, "--progress", "json", "--format", "json"], shown, folder)
        if not _started_so_far:
            atexit.register(end_all)
        _started_so_far[:] = [found]
        return found


def _written(model: ModelSpec, folder: str) -> str:
    path = Path(folder) / f"{plain_name(model.id)}.json"
    path.write_text(json.dumps(dict(model.published)), "utf-8")
    return str(path)


def _started(arguments: Sequence[str], shown: Sequence[str], folder: "tempfile.TemporaryDirectory[str] | None") -> Measuring:
    root = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    process: subprocess.Popen[str] = subprocess.Popen(
        [*_COMMAND, *arguments],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8", errors="replace",
        start_new_session=True, env={**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"},
    )  # fmt: skip
    found = Measuring(command=shlex.join(["lora-profile", *shown]), began=time.monotonic(), process=process, folder=folder)
    threading.Thread(target=found._listen, daemon=True).start()
    return found


def end_all() -> None:
    """For the end of the server: what still runs is ended as by a cancel, and waited for."""
    found = present()
    if found is not None and found.runs:
        found.cancelled = True
        found._end()
