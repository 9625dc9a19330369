"""The first thing a measured process does, before torch takes seconds to import: it ties its life to that of its parent.

`python -m lora_profiler.harness.begin ...` goes on as `harness.child` with the same arguments.
"""

import ctypes
import os
import signal
import sys

PARENT_VARIABLE = "LORA_PROFILER_PARENT"
"""Holds the process id of the one that waits for the result."""


def die_with_parent() -> None:
    """Linux ends this process when the one that started it is killed, so that no orphan disturbs the next measurement."""
    if sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.environ.get(PARENT_VARIABLE, str(os.getppid())) != str(os.getppid()):  # it was killed before the kernel knew
        os._exit(1)


if __name__ == "__main__":
    die_with_parent()
    from lora_profiler.harness.child import main

    sys.exit(main(sys.argv[1:]))
