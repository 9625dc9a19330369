"""This machine's processor: its name, and which of its logical CPUs this process may use."""

import os
import platform
from contextlib import suppress
from pathlib import Path


def cpu_model() -> str | None:
    """The processor's name as the system gives it."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            names = [
                line.partition(":")[2].strip() for line in file if line.startswith("model name")
            ]
    except OSError:
        names = []
    return (names[0] if names else platform.processor() or platform.machine()) or None


def allowed_cpus() -> frozenset[int]:
    """Of all threads of this process, since OpenMP may bind each to a processor of its own; empty
    where the system has no such thing."""
    if not hasattr(os, "sched_getaffinity"):
        return frozenset()
    cpus: set[int] = set()
    for thread in Path("/proc/self/task").glob("*"):
        with suppress(ProcessLookupError):  # it has just ended
            cpus |= os.sched_getaffinity(int(thread.name))
    return frozenset(cpus or os.sched_getaffinity(0))
