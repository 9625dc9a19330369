"""`-o FILE`: the whole file or none, whatever becomes of the disk, and nobody's file replaced
without --force."""

import json
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest

from commands import Done, in_this_process
from lora_profiler.errors import UsageError
from lora_profiler.measuring.harness import make_case
from lora_profiler.measuring.harness.capabilities import Abilities
from lora_profiler.measuring.records.locks import write_durably, write_for_user
from lora_profiler.measuring.records.serialize import record_dict
from lora_profiler.runs.cluster import slurm
from lora_profiler.runs.cluster.ray import Needs
from records import WORKLOAD, make_record


@contextmanager
def little_room() -> Iterator[None]:
    """No file may grow beyond 200 bytes, as on a disk that gets full while it is written; bytecode
    that is cut short would be read by every later process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with patch.object(sys, "dont_write_bytecode", True):
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


VERBS = {
    "predict as JSON": ["gpt2", "--offline", "--format", "json"],
    "predict as CSV": ["gpt2", "--offline", "--format", "csv"],
    "predict as text": ["gpt2", "--offline"],
    "predict as Markdown": ["gpt2", "--offline", "--format", "md"],
    "models": ["models", "--format", "json"],
    "gpus": ["gpus"],
    "doctor": ["doctor", "--format", "json"],
    "plan": ["plan", "gpt2", "--cluster", "2xt4", "--offline", "--format", "json"],
    "compare": ["compare", "RECORDS", "--format", "json"],
    "report": ["report", "RECORDS"],
}


def lora_profile(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A process of its own, for what becomes of its standard output."""
    return subprocess.run(
        [sys.executable, "-m", "lora_profiler", *arguments], capture_output=True, text=True
    )


def done_here(*arguments: str) -> Done:
    return in_this_process(*arguments, environment=dict(os.environ))


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("records") / "records.jsonl"
    path.write_text(json.dumps(record_dict(make_record())) + "\n")
    return path


@pytest.mark.parametrize("verb", VERBS)
def test_a_disk_that_gets_full_leaves_no_file(
    verb: str, records: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if verb == "doctor":
        monkeypatch.setattr(
            "lora_profiler.measuring.harness.doctor.abilities", lambda *_: Abilities()
        )
    path = tmp_path / "answer"
    arguments = [str(records) if word == "RECORDS" else word for word in VERBS[verb]] + [
        "-o",
        str(path),
    ]
    with little_room():
        done = done_here(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert f"error: {path} cannot be written: File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert done_here(*arguments).exit_code == 0
    assert path.stat().st_size > 200
    whole = path.read_text()
    with little_room():
        assert done_here(*arguments, "--force").exit_code == 2
    assert path.read_text() == whole
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link_and_a_mode_stays(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    assert done_here("models", "-o", str(link)).exit_code == 0
    assert link.is_symlink() and target.read_text()
    target.write_text("old")
    target.chmod(0o640)
    assert done_here("models", "-o", str(link)).exit_code == 2
    assert target.read_text() == "old"
    assert done_here("models", "-o", str(link), "--force").exit_code == 0
    assert link.is_symlink() and target.read_text() != "old"
    assert stat.S_IMODE(target.stat().st_mode) == 0o640


def test_a_new_file_has_the_mode_that_any_has(tmp_path: Path) -> None:
    (tmp_path / "any").touch()
    write_for_user(tmp_path / "new", "text", replace=False)
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_a_file_that_came_meanwhile_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bench looks for the file before it trains for hours."""
    (tmp_path / "mine").write_text("mine")
    with pytest.raises(FileExistsError):
        write_for_user(tmp_path / "mine", "text", replace=False)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"mine": "mine"}
    monkeypatch.setattr("lora_profiler.cli.click_support.check_new_file", lambda path, force: None)
    done = done_here("models", "-o", str(tmp_path / "mine"))
    assert done.exit_code == 2 and "has come while this command ran" in done.stderr
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_file_system_without_links_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*paths: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    write_for_user(tmp_path / "new", "text", replace=False)
    with pytest.raises(FileExistsError):
        write_for_user(tmp_path / "new", "other", replace=False)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"new": "text"}


def test_a_device_and_a_pipe_are_written_to(tmp_path: Path) -> None:
    assert lora_profile("models", "-o", "/dev/null", "--force").returncode == 0
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    done = lora_profile("models", "-o", "/dev/stdout", "--force")
    assert done.returncode == 0 and "gpt2" in done.stdout
    assert (
        "cannot be written: No space left on device"
        in lora_profile("models", "-o", "/dev/full", "--force").stderr
    )


def test_a_result_that_did_not_fit_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        write_durably(tmp_path / "result.json", "{}")
    assert list(tmp_path.iterdir()) == []


def test_a_job_for_slurm_is_whole_or_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def emit(count: int, *, force: bool) -> None:
        cases = [make_case(WORKLOAD, repeat=repeat) for repeat in range(count)]
        asked = [Needs(cpus=1, gpus=0, memory_bytes=0)] * count
        slurm.emit(cases, asked, tmp_path / "job", suite="tiny", timeout_seconds=60.0, force=force)

    def full(path: Path, *arguments: object) -> int:
        if path.name == "2.json":
            raise OSError(28, "No space left on device")
        return real(path, *arguments)

    real = Path.write_text
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(UsageError, match="No space left"):
        emit(2, force=False)
    assert list(tmp_path.iterdir()) == []
    emit(1, force=False)
    before = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match="No space left"):
        emit(2, force=True)
    assert {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()} == before
    monkeypatch.undo()
    emit(3, force=True)
    told = sorted(path.name for path in (tmp_path / "job" / "cases").iterdir())
    assert told == ["1.json", "2.json", "3.json"]
    assert list(tmp_path.iterdir()) == [tmp_path / "job"]
