"""The C compiler that builds the stub libraries: $CC, gcc, clang, cc, or Zig's from PyPI."""

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec

from lora_profiler.errors import RehearsalError

_NAMES = ("gcc", "clang", "cc")


@dataclass(frozen=True, slots=True)
class Compiler:
    """`version`: the first line that it says of itself."""

    command: tuple[str, ...]
    version: str


def find_compiler() -> Compiler:
    """Raises RehearsalError where there is none."""
    for command in _candidates():
        try:
            done = subprocess.run(
                [*command, "--version"], check=False, capture_output=True, text=True, timeout=60
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            return Compiler(command, done.stdout.partition("\n")[0].strip())
    raise RehearsalError(
        "A rehearsal builds small C libraries once, and there is no C compiler here: install "
        "gcc or clang, or\n"
        "  pip install 'lora-profiler[rehearse]'    (ziglang, a C compiler from PyPI)"
    )


def _candidates() -> list[tuple[str, ...]]:
    given = shlex.split(os.environ.get("CC", ""))
    commands = [tuple(given)] if given else []
    commands += [(path,) for name in _NAMES if (path := shutil.which(name))]
    if find_spec("ziglang") is not None:
        commands.append((sys.executable, "-m", "ziglang", "cc"))
    return commands
