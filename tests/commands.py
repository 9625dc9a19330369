"""The command line as tests run it: in this process, or by itself on a terminal."""

import io
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest.mock import patch

from lora_profiler.memory.compiled import library

if TYPE_CHECKING:
    from lora_profiler.measuring.records.record import Record

THE_BUNDLE = library.BUNDLED
"""The package's profiles, which `conftest` hides from tests."""


ROOT = Path(__file__).resolve().parents[1]
OFFLINE = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("HF_", "COLUMNS", "NO_COLOR"))
} | {"HF_HUB_OFFLINE": "1"}
"""Variables of a user without a network."""


class Done(NamedTuple):
    """What a command ended with, and what it wrote."""

    exit_code: int
    stdout: str
    stderr: str


def refused(done: Done) -> str:
    """'[2] error: rank is 0 ...': the exit code and the message of a command that did nothing."""
    assert done.exit_code and not done.stdout and "Traceback" not in done.stderr, done
    return f"[{done.exit_code}] {done.stderr[done.stderr.index('error: ') :].strip()}"


Run = Callable[..., Done]
"""The fixture `run`: called with the arguments of `lora-profile`."""


def in_this_process(
    *arguments: str, environment: Mapping[str, str], together: bool = False
) -> Done:
    """What a process with just this `environment`, and without a terminal, would write and end
    with; `together`: stderr into stdout, as by `2>&1`."""
    from huggingface_hub import constants

    from lora_profiler.cli.main import main

    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with (
        patch.dict(os.environ, environment, clear=True),
        patch.object(library, "BUNDLED", THE_BUNDLE),
        patch.object(constants, "HF_HUB_OFFLINE", environment.get("HF_HUB_OFFLINE") == "1"),
        redirect_stdout(out),
        redirect_stderr(out if together else err),
    ):
        try:
            main(arguments)
        except SystemExit as ended:
            code = ended.code
    texts = (stream.buffer.getvalue().decode() for stream in (out, err))  # type: ignore[attr-defined]
    return Done(code or 0, *texts)  # type: ignore[arg-type]


class OnRecords:
    """A command in this process, called with its arguments, over files of records in `folder`."""

    def __init__(self, run: Run, folder: Path, command: str) -> None:
        self.folder = folder
        self._run, self._command = run, command

    def file(self, name: str, made: "Sequence[Record]", more: str = "") -> str:
        from records import jsonl

        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(jsonl(made) + more)
        return str(path)

    def __call__(self, *arguments: str) -> Done:
        done = self._run(self._command, *arguments)
        assert "Traceback" not in done.stderr
        return done


def lora_profile(*arguments: str) -> Done:
    return in_this_process(*arguments, environment=OFFLINE)


def in_python(code: str, *arguments: str, **options: Any) -> str:
    """What `code` prints in a process of its own, which must end well; `options` are those of
    `subprocess.run`."""
    command = [sys.executable, "-c", code, *arguments]
    told = {"cwd": ROOT, "capture_output": True, "text": True, "check": False} | options
    done = subprocess.run(command, **told)
    assert done.returncode == 0, done.stderr
    return str(done.stdout)


def on_a_terminal(
    command: Sequence[str],
    *,
    columns: int,
    environment: Mapping[str, str] = os.environ,
    **more: str,
) -> str:
    """What `command` writes to a terminal of so many columns; it must end with 0."""
    main_end, other = pty.openpty()
    env = {**environment, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "40", **more}
    process = subprocess.Popen(command, stdin=other, stdout=other, stderr=other, env=env)
    os.close(other)
    out = b""
    while True:
        try:
            chunk = os.read(main_end, 65536)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not chunk:
            break
        out += chunk
    assert process.wait() == 0, out.decode()
    os.close(main_end)
    return out.decode()
