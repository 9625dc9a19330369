"""A hub that drips, sends without end, is silent or redirects in circles: given up in time, in
words, with exit code 3."""

import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import pytest

from commands import Done, refused
from golden_files import Golden

LIMITS = (
    "from lora_profiler.facts.catalog import hub, lookup; hub.TIMEOUT_SECONDS, hub.WHOLE_SECONDS = {},"
    " {}\n"
)
SLOW = ("drips", "drips-headers", "silent")
"""Whose time runs out: a second for a read and two for the whole, so that a test takes seconds. The
others have time enough."""


class Hub(http.server.BaseHTTPRequestHandler):
    """Misbehaves as the name of the repository says."""

    sent: ClassVar[dict[str, int]] = {}

    def do_GET(self) -> None:
        name = self.path.split("/")[2]
        with suppress(BrokenPipeError, ConnectionResetError):
            getattr(self, name.replace("-", "_"))(name)

    def _body(self, name: str, chunk: bytes, pause: float, announced: int | None = None) -> None:
        self.send_response(200)
        if announced is not None:
            self.send_header("Content-Length", str(announced))
        self.end_headers()
        while self.sent.setdefault(name, 0) < 400_000_000:
            self.wfile.write(chunk)
            self.sent[name] += len(chunk)
            time.sleep(pause)

    def drips(self, name: str) -> None:
        self._body(name, b" ", 0.3)

    def drips_headers(self, name: str) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        for _ in range(200):
            self.wfile.write(b"x")
            time.sleep(0.3)

    def endless(self, name: str) -> None:
        self._body(name, b" " * 65536, 0)

    def announced(self, name: str) -> None:
        self._body(name, b" " * 65536, 0, announced=100_000_000)

    def endless_error(self, name: str) -> None:
        self.send_response(503)
        self.end_headers()
        while self.sent.setdefault(name, 0) < 400_000_000:
            self.wfile.write(b" " * 65536)
            self.sent[name] += 65536

    def silent(self, name: str) -> None:
        time.sleep(30)

    def circles(self, name: str) -> None:
        self.send_response(302)
        self.send_header("Location", self.path)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    server.block_on_close = False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def ask(name: str, endpoint: str, home: Path) -> Done:
    """`lora-profile org/NAME` in a process of its own."""
    limits = LIMITS.format(*((1.0, 2.0) if name in SLOW else (30.0, 40.0)))
    code = (
        f"{limits}from lora_profiler.cli.main import main; main(['org/{name}', '--format', 'json'])"
    )
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    clean |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=clean, timeout=100
    )
    return Done(done.returncode, done.stdout, done.stderr)


def test_a_hub_that_misbehaves_is_given_up_in_words(
    hub: str, golden_file: Golden, tmp_path: Path
) -> None:
    golden_file.compare_answers(
        "refusals-hub-limits", lambda name: refused(ask(name, hub, tmp_path)).replace(hub, "HUB")
    )


def test_what_is_too_large_is_not_read_whole(hub: str, tmp_path: Path) -> None:
    Hub.sent.clear()
    for name in ("endless", "announced", "endless-error"):
        assert ask(name, hub, tmp_path).exit_code == 3
    assert Hub.sent["endless"] < 40_000_000  # 16 MB, and what lay in the buffers of both ends
    assert Hub.sent["announced"] < 20_000_000
    assert Hub.sent["endless-error"] < 20_000_000
