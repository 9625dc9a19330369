"""`lora-profile app`: serves the dashboard on this machine and opens it in the browser."""

import os
import socket
import sys
from contextlib import suppress
from pathlib import Path

import click

from lora_profiler._common.packages import missing
from lora_profiler.cli.click_support import WholeRange, command
from lora_profiler.cli.option_groups import option
from lora_profiler.errors import UsageError

NEEDED = ("streamlit", "pandas", "jinja2")
_PORTS_TRIED = 50


@command(
    "app",
    "Open the dashboard on 127.0.0.1.",
    """
It serves this machine only, and only to the address printed, which has a token.
It stores measurements only, and asks the hub only for unknown models.
HF_HUB_OFFLINE=1 forbids that too. Ctrl-C ends it.

Examples:
  lora-profile app
  lora-profile app --records measured.jsonl --records other-machine/     shows these records too
  lora-profile app --no-browser --port 8600

Exit: 0 ended with Ctrl-C, 2 usage, a missing library, or a port in use.
""",
)
@option(
    "--port", "N", "port to serve on", show_default="8501, or the next", type=WholeRange(1, 65535)
)
@option("--records", "PATH", "also show this file or folder; repeatable", multiple=True, type=Path)
@option("--no-browser", help="serve only, and print the address")
def app_command(port: int | None, records: tuple[Path, ...], no_browser: bool) -> None:
    """Open the dashboard on this machine, and in your browser."""
    if lacking := missing(NEEDED):
        raise UsageError(
            f"the dashboard needs {', '.join(lacking)}: pip install 'lora-profiler[app]'."
        )
    for path in records:
        if not path.exists():
            raise UsageError(f"--records {path}: there is no such file or folder.")
    from lora_profiler.dashboard.serving import FIRST_PORT, SCRIPT, flags

    port = _free_port(FIRST_PORT, _PORTS_TRIED) if port is None else _checked_port(port)
    headless = no_browser or not _has_display()
    given = [word for path in records for word in ("--records", str(path.absolute()))]
    from streamlit.web.cli import main as streamlit

    with suppress(click.Abort):  # Ctrl-C, which is how it ends
        streamlit(
            ["run", str(SCRIPT), *flags(port, headless=headless), "--", *given],
            prog_name="streamlit",
            standalone_mode=False,
        )


def _free_port(first: int, count: int) -> int:
    for port in range(first, first + count):
        if _is_free(port):
            return port
    raise UsageError(f"no port from {first} to {first + count - 1} is free; name one with --port.")


def _checked_port(port: int) -> int:
    if not _is_free(port):
        raise UsageError(f"port {port} is in use, or not yours to use; name another with --port.")
    return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        if sys.platform != "win32":  # there it would let two programs share one
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _has_display() -> bool:
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
