"""The dashboard as a process of its own."""

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Served(NamedTuple):
    process: "subprocess.Popen[str]"
    port: int
    address: str
    """As printed, with the token."""


@contextlib.contextmanager
def served(tmp_path: Path, *command: str, **environment: str) -> Iterator[Served]:
    """A running dashboard, as `lora-profile app` starts it or `command` does; it is ended
    afterwards."""
    port = free_port()
    own = {"XDG_DATA_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    start = command or (sys.executable, "-m", "lora_profiler", "app", "--no-browser", "--port")
    process = subprocess.Popen(
        [*start, str(port)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **own, **environment},
        cwd=tmp_path,
    )
    try:
        assert process.stderr is not None
        said = process.stderr.readline()
        assert said.startswith("Dashboard on "), said + process.stderr.read()
        deadline = time.monotonic() + 60
        while not healthy(port):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield Served(process, port, said.split()[2])
    finally:
        process.kill()
        process.communicate()


def healthy(port: int, host: str = "127.0.0.1") -> bool:
    try:
        with urllib.request.urlopen(f"http://{host}:{port}/_stcore/health", timeout=2) as answer:
            return bool(answer.read() == b"ok")
    except OSError:
        return False
