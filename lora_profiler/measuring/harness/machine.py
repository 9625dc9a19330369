"""Memory and processor time of this process and of the machine around it. `None` where the system
does not tell.

`root` stands in for the root folder of /proc and /sys in tests.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any

from lora_profiler._common.process import allowed_cpus

_ROOT = Path("/")
_NO_LIMIT_BYTES = 2**60
"""cgroup version 1 writes a number near 2**63 for "no limit"."""


# --- memory ---------------------------------------------------------------------------------------


def physical_memory_bytes() -> int | None:
    """The machine's memory, whatever this process may use of it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        psutil = _psutil()
        return None if psutil is None else int(psutil.virtual_memory().total)


def memory_limit_bytes(root: Path = _ROOT) -> int | None:
    """The tightest memory limit among this process's control groups; None where there is none."""
    limits = _numbers(root, "memory.max", "memory.limit_in_bytes")
    return min((limit for limit in limits if limit < _NO_LIMIT_BYTES), default=None)


def resident_bytes(root: Path = _ROOT) -> int | None:
    """What this process holds in memory now, pages shared with others included."""
    try:
        return int((root / "proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        psutil = _psutil()
        return None if psutil is None else int(psutil.Process().memory_info().rss)


def peak_resident_bytes(root: Path = _ROOT) -> int | None:
    """The most that this process ever held in memory.

    `ru_maxrss` (bytes on macOS, KiB elsewhere) only where there is no VmHWM: on Linux it survives
    exec, and so also counts what the process that started this one held.
    """
    for line in _lines(root / "proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    try:
        resource = import_module("resource")
    except ImportError:  # Windows
        return None
    unit = {"darwin": 1}.get(sys.platform, 1024)
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


def cgroup_peak_bytes(root: Path = _ROOT) -> int | None:
    """The most that this process's control group ever used, page cache and other processes of the
    group included."""
    return next(_numbers(root, "memory.peak", "memory.max_usage_in_bytes"), None)


def oom_kills(root: Path = _ROOT) -> int | None:
    """How many processes of this control group the kernel has killed for want of memory so far."""
    for folder in _control_groups(root):
        for line in (*_lines(folder / "memory.events"), *_lines(folder / "memory.oom_control")):
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


def last_cache_bytes(root: Path = _ROOT) -> int | None:
    """Of the first processor's last cache before memory."""
    sizes: dict[int, int] = {}
    for folder in (root / "sys/devices/system/cpu/cpu0/cache").glob("index*"):
        level, size = ((*_lines(folder / name), "")[0] for name in ("level", "size"))
        if level.isdigit() and size[:-1].isdigit() and size[-1] in "KMG":
            sizes[int(level)] = int(size[:-1]) * {"K": 2**10, "M": 2**20, "G": 2**30}[size[-1]]
    return sizes[max(sizes)] if sizes else None


def _control_groups(root: Path) -> Iterator[Path]:
    """Folders of the control groups that count this process's memory, innermost first; of version 2
    ("0::/...") and version 1.

    Inside a container the path that the kernel names may not be there: the mount itself is then the
    container's group.
    """
    mount = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0" or "memory" in controllers.split(","):
            top = mount if number == "0" else mount / "memory"
            folder = top / path.lstrip("/")
            yield from (
                f for f in (folder, *folder.parents) if f.is_relative_to(top) and f.is_dir()
            )


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


def _numbers(root: Path, *names: str) -> Iterator[int]:
    """What files of these names say in the control groups."""
    for folder, name in product(_control_groups(root), names):
        lines = _lines(folder / name)
        if lines and lines[0].isdigit():
            yield int(lines[0])


# --- processor time -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTimes:
    """A moment: processor seconds spent so far by this process and its descendants, and by everyone
    on `cpus`; and a clock.

    `cpus` are the numbers of the processors that this process may run on. What happens on others
    takes nothing from it: in a container they are the neighbours'.
    """

    own_seconds: float
    busy_seconds: float
    wall_seconds: float
    cpus: frozenset[int]


def cpu_times(root: Path = _ROOT, allowed: frozenset[int] | None = None) -> CpuTimes | None:
    """Now. The system counts in hundredths of a second, so intervals of a second and more can be
    compared.

    `allowed` stands in for the processors of this process in tests.
    """
    busy = _busy_seconds(root)
    cpus = frozenset((allowed_cpus() if allowed is None else allowed) & busy.keys()) or frozenset(
        busy
    )
    if not cpus:
        return None
    return CpuTimes(
        own_seconds=sum(os.times()[:4]) + _seconds_below(),
        busy_seconds=sum(busy[cpu] for cpu in cpus),
        wall_seconds=time.perf_counter(),
        cpus=cpus,
    )


def other_cpu_share(before: CpuTimes | None, after: CpuTimes | None) -> float | None:
    """The share of the time of this process's processors that went to neither it nor its
    descendants; None if they changed.

    Time that a hypervisor gave to others ("steal") counts: it is missing here all the same.
    """
    if (
        before is None
        or after is None
        or after.wall_seconds <= before.wall_seconds
        or after.cpus != before.cpus
    ):
        return None
    others = (after.busy_seconds - before.busy_seconds) - (after.own_seconds - before.own_seconds)
    return min(
        1.0, max(0.0, others / ((after.wall_seconds - before.wall_seconds) * len(after.cpus)))
    )


def _busy_seconds(root: Path) -> dict[int, float]:
    """By processor; empty where the system does not tell."""
    seconds = {}
    for line in _lines(root / "proc/stat"):
        name, *times = line.split()
        if name.startswith("cpu") and name != "cpu":
            # user and nice hold guests' time
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, times[:8])
            seconds[int(name[3:])] = (user + nice + system + irq + softirq + steal) / os.sysconf(
                "SC_CLK_TCK"
            )
    psutil = None if seconds else _psutil()
    if psutil is not None:
        for cpu, spent in enumerate(psutil.cpu_times(percpu=True)):
            seconds[cpu] = float(spent.user + spent.system + getattr(spent, "nice", 0.0))
    return seconds


def _seconds_below() -> float:
    """Processor seconds of all processes below this one, and of their children that they waited
    for; those that ended and were waited for here are in this process's own times."""
    psutil, seconds = _psutil(), 0.0
    for process in psutil.Process().children(recursive=True) if psutil is not None else ():
        with suppress(psutil.Error):  # it has just gone
            seconds += sum(process.cpu_times()[:4])
    return seconds


def _psutil() -> Any:
    try:
        return import_module("psutil")
    except ImportError:
        return None
