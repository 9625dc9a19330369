"""The command line as tests run it: in this process, or by itself on a terminal."""

import os
import pty
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple


class Done(NamedTuple):
    """What a command ended with, and what it wrote."""

    exit_code: int
    stdout: str
    stderr: str


Run = Callable[..., Done]
"""The fixture `run`: called with the arguments of `lora-profile`."""


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
