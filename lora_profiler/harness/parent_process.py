"""The life of a measured process is tied to that of the one that waits for its result."""

import ctypes
import os
import signal
import sys

PARENT_VARIABLE = "LORA_PROFILER_PARENT"
"""Holds the process id of the one that waits for the result."""


def die_with_parent() -> None:
    """Linux ends this process when the one that started it is killed, so that no orphan disturbs
    the next measurement."""
    if sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.environ.get(PARENT_VARIABLE, str(os.getppid())) != str(
        os.getppid()
    ):  # it was killed before the kernel knew
        os._exit(1)
