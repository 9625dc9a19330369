"""How a bench ends that is ended from outside: what stays of it in the store, among the processes
and in the temp folder."""

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import families
from lora_profiler.measuring.harness import MeasurementInterrupted
from lora_profiler.measuring.harness.case import make_case
from lora_profiler.measuring.records.locks import WorkingFolder
from lora_profiler.measuring.records.record import Failure
from lora_profiler.measuring.records.store import Store
from lora_profiler.runs.campaign.interrupts import Interrupt, last_when_interrupted
from records import WORKLOAD, make_record
from waiting import alive, wait_until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")

GIVES_UP_AFTER = 60.0

CHILD = """
import fcntl, json, os, struct, sys, termios, time
from dataclasses import asdict
from pathlib import Path
from lora_profiler.measuring.harness.process import die_with_parent
from records import make_record

die_with_parent()
print(json.dumps({"environment": asdict(make_record().environment)}), flush=True)
for _ in "ab":  # whoever has read the second one has dealt with the first
    print(json.dumps({"phase": "backward", "step": 2, "done": None}), flush=True)
    while struct.unpack("i", fcntl.ioctl(1, termios.FIONREAD, bytes(4)))[0]:
        time.sleep(0.01)
Path(os.environ["CHILD_PID"]).write_text(str(os.getpid()))
time.sleep(600)
"""

BENCH = """
import os, signal, sys
from functools import partial
from lora_profiler.runs.campaign import session
from lora_profiler.cli.main import main
from lora_profiler.measuring.harness import measure_case

signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever started the tests may ignore it
signal.signal(signal.SIGTERM, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_IGN if "NOHUP" in os.environ else signal.SIG_DFL)
session.measure_case = partial(measure_case, child=(sys.executable, sys.argv[1]))
main(sys.argv[2:])
"""


class Running:
    """A bench in its own process, whose measured process has begun and sleeps."""

    def __init__(self, place: Path, name: str, *, nohup: bool = False, **options: Any) -> None:
        self.temp, self.records = place / "temp", place / f"{name}.jsonl"
        self.pid_file = place / f"{name}.pid"
        self.temp.mkdir(exist_ok=True)
        (place / "tiny").mkdir(exist_ok=True)
        (place / "tiny" / "config.json").write_text(json.dumps(families.TINY["llama"]))
        (place / "child.py").write_text(CHILD)
        paths = os.pathsep.join(map(str, (Path(__file__).parents[2], Path(__file__).parents[1])))
        env = {"TMPDIR": str(self.temp), "CHILD_PID": str(self.pid_file), "PYTHONPATH": paths} | (
            {"NOHUP": "1"} if nohup else {}
        )
        asked = ("--method", "full", "-s", "16", "--device", "cpu", "--records", str(self.records))
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                BENCH,
                str(place / "child.py"),
                "bench",
                str(place / "tiny"),
                *asked,
            ],
            env=os.environ | env,
            **({"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True} | options),
        )
        wait_until(lambda: self.pid_file.exists() and self.pid_file.read_text() != "")
        self.child = int(self.pid_file.read_text())

    def ended(self) -> int:
        return self.process.wait(timeout=GIVES_UP_AFTER)

    def folders(self) -> set[str]:
        return {path.name for path in self.temp.iterdir()}


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    begun: list[Running] = []

    def begin(name: str = "a", **options: Any) -> Running:
        begun.append(Running(tmp_path, name, **options))
        return begun[-1]

    yield begin
    for each in begun:
        each.process.kill()
        each.process.wait()
        if each.process.stderr is not None:
            each.process.stderr.close()


def check_interrupted(bench: Running) -> None:
    (record,) = Store(bench.records).records()
    assert record.measurement.status == "interrupted"
    assert record.measurement.failure is not None and record.measurement.failure.phase == "backward"
    wait_until(lambda: not alive(bench.child))
    assert bench.folders() == set()
    assert not list(bench.records.parent.glob("*.pending/*.json*"))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_a_bench_with_a_record_and_nothing_left(
    running: Callable[..., Running], number: int, code: int
) -> None:
    bench = running()
    assert bench.folders() != set()
    bench.process.send_signal(number)
    assert bench.ended() == code
    assert bench.process.stderr is not None and "Traceback" not in bench.process.stderr.read()
    check_interrupted(bench)


def test_a_closed_terminal_ends_a_bench_alike(running: Callable[..., Running]) -> None:
    ours, theirs = pty.openpty()
    os.set_blocking(ours, False)
    bench = running(stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    os.close(ours)
    # as the system does where the terminal is the one that controls
    bench.process.send_signal(signal.SIGHUP)
    assert bench.ended() == 129
    check_interrupted(bench)


def test_under_nohup_a_closed_terminal_ends_nothing(running: Callable[..., Running]) -> None:
    bench = running(nohup=True)
    bench.process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert bench.process.poll() is None
    bench.process.send_signal(signal.SIGTERM)
    assert bench.ended() == 143
    check_interrupted(bench)


def test_what_a_killed_bench_left_is_cleared_by_the_next_and_what_a_living_one_uses_is_not(
    running: Callable[..., Running],
) -> None:
    killed, living = running("killed"), running("living")
    of_killed, of_living = sorted(
        killed.folders(), key=lambda name: Path(killed.temp, name).stat().st_ctime_ns
    )
    killed.process.kill()
    killed.process.wait()
    wait_until(lambda: not alive(killed.child))
    assert killed.folders() == {of_killed, of_living}
    nobodys = killed.temp / "lora-profiler-without-a-lock"
    nobodys.mkdir()
    third = running("third")
    assert of_killed not in third.folders() and {of_living, nobodys.name} < third.folders()
    for bench in (third, living):
        bench.process.terminate()
        assert bench.ended() == 143
    assert living.folders() == {nobodys.name}


def test_a_link_in_the_temp_folder_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    for name in ("temp", "elsewhere", "temp/lora-profiler-left"):
        (tmp_path / name).mkdir()
    for name in ("elsewhere/in_use", "elsewhere/kept", "temp/lora-profiler-left/in_use"):
        (tmp_path / name).touch()
    (tmp_path / "temp" / "lora-profiler-link").symlink_to(tmp_path / "elsewhere")
    with WorkingFolder() as folder:
        assert {path.name for path in (tmp_path / "temp").iterdir()} == {
            "lora-profiler-link",
            Path(folder).name,
        }
    assert (tmp_path / "elsewhere" / "kept").exists()


def test_a_child_that_a_scheduler_ended_as_well_did_not_crash() -> None:
    failure = Failure(
        reason="the measured process was ended by signal 15",
        phase="forward",
        exit_code=-15,
        log="...",
    )
    crashed = make_record(status="crash", failure=failure)
    case = make_case(WORKLOAD)
    with pytest.raises(MeasurementInterrupted) as stop:
        last_when_interrupted(
            lambda case: crashed, Interrupt(requested=True, number=signal.SIGTERM)
        )(case)
    assert stop.value.record.measurement.status == "interrupted"
    with pytest.raises(MeasurementInterrupted) as stop:
        last_when_interrupted(
            lambda case: crashed, Interrupt(requested=True, number=signal.SIGINT)
        )(case)
    assert stop.value.record is crashed
