"""Who waits sees that something happens: on a terminal a live line on stderr with the time left,
elsewhere an event now and then; what the command prints has nothing of it."""

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pytest

from commands import OFFLINE, Run
from lora_profiler.measuring.harness import doctor
from lora_profiler.measuring.harness.capabilities import Abilities
from lora_profiler.report import progress
from lora_profiler.report.progress import Work, seconds_left, shown_work

LONG_PLAN = ("plan", "meta-llama/Llama-3.3-70B-Instruct", "--gpus", "8xh100", "--tokens", "10M")


@contextmanager
def started(words: Sequence[str]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A process whose stderr is a terminal, and the end to read it from; stdout is a pipe."""
    here, there = pty.openpty()
    command = [sys.executable, "-m", "lora_profiler", *words]
    env: Mapping[str, str] = {**OFFLINE, "TERM": "xterm-256color", "COLUMNS": "80"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=there, env=env)
    os.close(there)
    try:
        yield process, here
    finally:
        process.kill()
        process.communicate()
        os.close(here)


def read_until(fd: int, *words: bytes) -> bytes:
    seen = b""
    while not all(word in seen for word in words):
        seen += os.read(fd, 4096)
    return seen


def test_a_search_says_on_stderr_how_far_it_is_and_how_long_it_takes_yet() -> None:
    with started(LONG_PLAN) as (_, terminal):
        read_until(terminal, b"Searching")
        read_until(terminal, b"layouts", b" left")


@pytest.mark.parametrize("words", [("doctor",), ("verify", "small", "--quick", "--claims", "3")])
def test_something_is_seen_before_torch_is_loaded(words: Sequence[str]) -> None:
    pytest.importorskip("torch")
    with started(words) as (process, terminal):
        began = read_until(terminal, b"Looking" if words[0] == "doctor" else b"Getting the model")
        assert began and process.poll() is None


def test_doctor_prints_each_section_as_it_is_known(
    run: Run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before: list[str] = []

    def asked(environ: object) -> Abilities:
        before.append(capfd.readouterr().out)
        return Abilities(problem="asked in a test")

    monkeypatch.setattr(doctor, "abilities", asked)
    rest = run("doctor").stdout
    (first,) = before
    assert first.startswith("✓ Predictions, ") and "\npython\n  version " in first
    assert "\npackages\n" in first
    assert "\ndevices\n" in first and "measuring" not in first
    assert rest.startswith("\nmeasuring\n") and "\nhub\n" in rest
    starts = {line.index(line.split()[-1]) for line in first.splitlines() if " torch " in line}
    assert starts <= {19}


def test_nothing_of_it_is_left_in_a_pipe(run: Run) -> None:
    done = run("plan", "gpt2", "--gpus", "t4", "--tokens", "1M", "--ranks", "8")
    assert done.stderr == "" and "layouts" not in done.stdout


def test_a_log_gets_an_event_when_it_takes_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with shown_work("Searching", "layouts") as tell:
        for second in range(25):
            now[0] = float(second)
            tell("", 40 * second, 1200)
    out, err = capsys.readouterr()
    assert out == "" and [json.loads(line) for line in err.splitlines()] == [
        {"phase": "Searching layouts", "done": 400, "of": 1200, "left_s": 20},
        {"phase": "Searching layouts", "done": 800, "of": 1200, "left_s": 10},
    ]


def test_the_time_left_is_that_of_the_parts_before() -> None:
    assert seconds_left(0, 10, 5.0) is seconds_left(10, 10, 5.0) is None
    assert seconds_left(1, 4, 20.0) == 60.0
    assert Work(phase="", doing="rank 8", done=3, of=10).text == "rank 8 (3 of 10)"
    assert Work(phase="Searching", unit="layouts", done=3, of=1000).text == "3 of 1,000 layouts"


def test_a_live_line_shows_the_time_left_and_is_gone_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import io

    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    monkeypatch.setattr(progress, "terminal", lambda: console)
    with shown_work("Searching", "layouts") as tell:
        tell("", 1, 3)
        time.sleep(0.3)  # of which two more parts are twice as much
        tell("", 2, 3)
        deadline = time.monotonic() + 20
        while "left" not in out.getvalue() and time.monotonic() < deadline:
            time.sleep(0.05)
    shown: Any = out.getvalue()
    assert "2 of 3 layouts" in shown and "some seconds left" in shown
    assert shown.endswith("\x1b[2K") or "\x1b[1A" in shown.rpartition("layouts")[2]
