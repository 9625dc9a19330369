"""This process and its machine: the processor's name, the CPUs that it may use, and Python's
garbage collector, held back where it would search through very many objects and find nothing to
free."""

import atexit
import gc
import os
import platform
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def collector_paused() -> Iterator[None]:
    """No search for cycles inside: it would walk through all that was made, again and again, and
    find nothing."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def exit_without_search() -> None:
    """No search for cycles when the process ends: all that it would go through goes with the
    process."""
    atexit.register(gc.freeze)


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


# --- launchers ------------------------------------------------------------------------------------


LAUNCHERS = (
    *("accelerate", "torchrun", "deepspeed", "python", "python3", "uv", "trl", "axolotl"),
    *("llamafactory-cli", "lmf", "tune", "swift", "litgpt"),
)


def launcher_at(words: Sequence[str]) -> int:
    """Where the command stands behind prompts and variables: $ HF_HUB_OFFLINE=1 trl sft."""
    before = ("$", ">", "!", "time")
    stands = (n for n, w in enumerate(words) if w not in before and not re.match(r"!?\w+=", w))
    return next(stands, len(words))


def program(word: str) -> str:
    """The command's name, without the folder that it is in."""
    return word.rpartition("/")[2]


def starts_training(words: Sequence[str]) -> bool:
    """Whether the words are a launcher and what it starts."""
    start = launcher_at(words)
    return len(words) > start + 1 and program(words[start]) in LAUNCHERS
