"""Child processes: what they can import, how they are ended, and that none outlives its parent."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PARENT_VARIABLE = "LORA_PROFILER_PARENT"
"""Holds the process id of the one that waits for the result."""
SPIN_VARIABLE = "GOMP_SPINCOUNT"
"""How long a thread of GNU's OpenMP, which torch brings on Linux, spins at the end of each parallel
part before it sleeps."""
CROWDED = 1.5
"""Programs that want a processor, for each there is. From here on a thread that spins keeps the
processor from the one that it waits for: with 9 on 2 processors a step took 8 times as long as with
threads that sleep."""
CHILD = (sys.executable, "-m", "lora_profiler.measuring.harness.entry")
"""The measured process."""


def python_path(environ: Mapping[str, str] = os.environ) -> str:
    """PYTHONPATH with which a child imports this package, wherever this process has it from: also
    by a link, beside which nothing else lies."""
    root = str(Path(__file__).absolute().parents[3])
    return os.pathsep.join(filter(None, (root, environ.get("PYTHONPATH"))))


def is_crowded() -> bool:
    """Whether other programs want the processors that this process may run on."""
    if not hasattr(os, "getloadavg"):
        return False
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return os.getloadavg()[0] > CROWDED * (own or 1)


def die_with_parent() -> None:
    """Linux ends this process when the one that started it is killed, so that no orphan disturbs
    the next measurement."""
    if sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    # it was killed before the kernel knew
    if os.environ.get(PARENT_VARIABLE, str(os.getppid())) != str(os.getppid()):
        os._exit(1)


def end_group(process: "subprocess.Popen[Any]", *requests: tuple[int, float]) -> None:
    """Ends a child that leads a process group, and all that it started.

    Each request is a signal and the seconds that the child has to end after it; then it is killed.
    """
    for request, seconds in requests:
        if not has_ended(process):
            _signal_group(process, request)
        deadline = time.monotonic() + seconds
        while not has_ended(process) and time.monotonic() < deadline:
            time.sleep(0.05)
    _signal_group(process, getattr(signal, "SIGKILL", signal.SIGTERM))
    process.wait()


def has_ended(process: "subprocess.Popen[Any]") -> bool:
    """Whether the child has ended, without reaping it: its group keeps its number until it is."""
    if process.returncode is None and hasattr(os, "waitid"):
        with contextlib.suppress(ChildProcessError):  # another thread has just reaped it
            options = os.WEXITED | os.WNOWAIT | os.WNOHANG
            return os.waitid(os.P_PID, process.pid, options) is not None
    return process.poll() is not None


def _signal_group(process: "subprocess.Popen[Any]", request: int) -> None:
    if process.returncode is not None:  # reaped: the number may be another group's by now
        return
    with contextlib.suppress(ProcessLookupError, PermissionError, ValueError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, request)
        elif process.poll() is None:
            process.send_signal(signal.CTRL_BREAK_EVENT if request == signal.SIGINT else request)  # type: ignore[attr-defined]
