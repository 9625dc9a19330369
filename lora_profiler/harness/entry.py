"""The first thing a measured process does, before torch takes seconds to import: it ties its life to that of its parent.

`python -m lora_profiler.harness.entry ...` goes on as `harness.child` with the same arguments; with `--ranks N CHILD... CASE
RESULT` as `harness.launch`, which starts N of them.
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


def take_one_device() -> None:
    """A rank sees one accelerator, its own, so that everything beyond reads as in a run of one process."""
    rank = os.environ.get("LOCAL_RANK")
    if rank is None:
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    entries = visible.split(",") if visible is not None else []
    if visible is None:
        os.environ["CUDA_VISIBLE_DEVICES"] = rank
    elif int(rank) < len(entries):
        os.environ["CUDA_VISIBLE_DEVICES"] = entries[int(rank)].strip()


if __name__ == "__main__":
    die_with_parent()
    if sys.argv[1:2] == ["--ranks"]:
        from lora_profiler.harness.torchrun import main
    else:
        take_one_device()
        from lora_profiler.harness.worker import main

    sys.exit(main(sys.argv[1:]))
