"""`lora-profile calibrate`: what it prints, keeps and refuses, with a calibration made by hand
instead of two minutes of work."""

import json
from pathlib import Path
from typing import Any

import pytest
import test_calibration

import records
from commands import Run
from lora_profiler.measuring.harness import MeasurementError
from lora_profiler.measuring.harness import capabilities as device_choice
from lora_profiler.report import progress
from lora_profiler.steptime.calibration import calibrate as calibrating
from lora_profiler.steptime.calibration.calibrate import Calibration, FittedStep, Progress
from lora_profiler.steptime.fit import local_constants


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_PROFILER_CACHE", str(tmp_path / "cache"))


def made_by_hand(flags: tuple[Any, ...] = ()) -> Calibration:
    record = records.make_record(flags=flags)
    failed = records.make_record(records.LORA_WORKLOAD, status="oom", step_seconds=None)
    step = FittedStep(workload=record.workload, record=record, error=-0.0125)
    return Calibration(
        local=test_calibration.LOCAL, micro=test_calibration.MICRO, steps=(step,), failed=(failed,)
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The devices that were calibrated."""
    devices: list[str] = []

    def calibrate(device: str, progress: Progress) -> Calibration:
        devices.append(device)
        progress("probing bandwidth", 0, 9)
        return made_by_hand()

    monkeypatch.setattr(calibrating, "calibrate", calibrate)
    return devices


def test_a_table_of_what_was_measured_and_where_it_is_kept(
    run: Run, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN", 0.0)
    done = run("calibrate", "--device", "cpu")
    assert done.exit_code == 0, done.stderr
    assert asked == ["cpu"]
    assert '"phase": "Calibrating", "done": 0, "of": 9' in done.stderr
    assert '"doing": "probing bandwidth"' in done.stderr
    for text in (
        "A processor, 2 threads, torch 2.13.0",
        "20.0 GB/s",
        "100.00 GFLOP/s",
        "8.0 GB/s",
        "-1.25 %",
        "100.00 ms",
    ):
        assert text in done.stdout
    assert "eta 0.900, beta 0.600" in done.stdout and "8.00 %" in done.stdout
    assert str(tmp_path / "cache" / "calibration" / "my_card.json") in done.stdout
    assert "did not run through: tiny-gpt2 (lora): oom" in done.stdout
    assert local_constants("my_card") == test_calibration.LOCAL


def test_json_holds_the_file_and_what_was_measured(run: Run, asked: list[str]) -> None:
    done = run("calibrate", "--device", "cpu", "--format", "json")
    document = json.loads(done.stdout)
    assert document["schema_version"] == "1.0"
    assert document["calibration"] == json.loads(Path(document["path"]).read_text())
    assert document["measured"]["products"] == {"float32": 100e9, "bfloat16": 5e9}
    (step,) = document["steps"]
    told = (step["model"], step["method"], step["seconds"], step["error_model_left_out"])
    assert told == ("tiny-gpt2", "full", 0.1, -0.0125)
    assert len(document["failed"]) == 1


def test_without_device_it_is_what_is_there(
    run: Run, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_choice, "present_device", lambda: "cpu")
    assert run("calibrate").exit_code == 0
    monkeypatch.setattr(device_choice, "present_device", lambda: "mps")
    done = run("calibrate")
    assert done.exit_code == 2 and "Take --device cpu" in done.stderr
    assert asked == ["cpu"]


def test_what_cannot_be_measured_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(device: str, progress: Progress) -> Calibration:
        raise MeasurementError("the probes on cpu ended with code 1: no memory")

    monkeypatch.setattr(calibrating, "calibrate", fails)
    done = run("calibrate", "--device", "cpu")
    assert (done.exit_code, done.stdout) == (4, "") and "no memory" in done.stderr
    done = run("calibrate", "--device", "tpu")
    assert done.exit_code == 2


def test_a_busy_machine_and_a_place_that_takes_nothing_are_warned_of(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        calibrating, "calibrate", lambda device, progress: made_by_hand(flags=("busy_machine",))
    )
    (tmp_path / "cache").write_text("a file where the folder should be")
    done = run("calibrate", "--device", "cpu")
    assert done.exit_code == 0
    assert (
        "Calibrate again when the machine is idle" in done.stderr
        and "LORA_PROFILER_CACHE" in done.stderr
    )
    assert "Not kept." in done.stdout


def test_a_file_that_is_there_is_not_written_over(
    run: Run, asked: list[str], tmp_path: Path
) -> None:
    there = tmp_path / "there.json"
    there.write_text("mine")
    done = run("calibrate", "--device", "cpu", "-o", str(there))
    assert done.exit_code == 2 and asked == [] and there.read_text() == "mine"
