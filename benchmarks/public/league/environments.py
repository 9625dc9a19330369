"""An environment of its own for each estimator, and its answers."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.public.league.questions import Question
from benchmarks.public.league.rivals import Rival

WORK = Path(__file__).parent / ".work"


class InstallError(Exception):
    """The message is pip's last line."""


def python_of(rival: Rival, work: Path) -> Path:
    """Of its environment, which is made where there is none, or one of other pins."""
    home = work / rival.distribution
    python, mark = home / "bin" / "python", home / "pins.json"
    wanted = json.dumps([rival.requirement, *rival.pins, *(["--no-deps"] * rival.is_bare)])
    if mark.is_file() and mark.read_text("utf-8") == wanted:
        return python
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
    if rival.is_bare:
        _pip(python, rival.pins)
        _pip(python, ["--no-deps", rival.requirement])
    else:
        _pip(python, [rival.requirement, *rival.pins])
    mark.write_text(wanted, "utf-8")
    return python


def _pip(python: Path, requirements: Sequence[str]) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", *requirements]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise InstallError(done.stderr.strip().splitlines()[-1])


def installed(python: Path) -> list[str]:
    """Every distribution in the environment, with its version."""
    command = [str(python), "-m", "pip", "list", "--format=freeze"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.split()


def answers(rival: Rival, python: Path, asked: Sequence[Question]) -> list[dict[str, Any]]:
    """An answer for each question: {"bytes": ...} or {"refused": reason}."""
    done = subprocess.run(
        [str(python), str(rival.script)],
        input=json.dumps([question.asked() for question in asked]),
        capture_output=True,
        text=True,
        env={"HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin", "HOME": str(python.parents[1])},
    )
    if done.returncode:
        raise RuntimeError(f"{rival.name}: {done.stderr.strip().splitlines()[-1]}")
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found
