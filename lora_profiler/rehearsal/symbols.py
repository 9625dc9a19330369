"""Which functions each stub library has to export, by what torch's libraries leave undefined."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lora_profiler.rehearsal.elf import read_library

_NVIDIA = re.compile(r"lib(cu|nv|nccl)\w*")
_NOT_NVIDIA = re.compile(r"libcurl|libcups")
_UNVERSIONED = (
    ("nccl", "libnccl"),
    ("nvshmem", "libnvshmem_host"),
    ("cuFile", "libcufile"),
    ("curand", "libcurand"),
    ("nvrtc", "libnvrtc"),
    ("cusparseLt", "libcusparseLt"),
    ("cupti", "libcupti"),
    ("nvml", "libnvidia-ml"),
    ("cu", "libcuda"),
)
"""Whose a symbol without a version is, by what its name begins with; the first that fits."""
_ALWAYS = {"libcuda": "libcuda.so.1", "libnvidia-ml": "libnvidia-ml.so.1"}
"""Looked up by name while a program runs, so that no library need name them."""
_DRIVER_CALL = re.compile(r"\b(cu[A-Z]\w+)\s*\(")


@dataclass(slots=True)
class Exports:
    """Of one stub library: `version` is what its symbols are asked under, None for none."""

    soname: str
    version: str | None = None
    functions: set[str] = field(default_factory=set)

    @property
    def stem(self) -> str:
        return stem_of(self.soname)


def stem_of(soname: str) -> str:
    return soname.partition(".so")[0]


def exports(libraries: Iterable[Path], driver_sources: Iterable[Path] = ()) -> dict[str, Exports]:
    """Stem -> what that library must have. `driver_sources`: C that is compiled against libcuda
    later, as Triton's."""
    read = [read_library(path) for path in libraries]
    wanted = {stem: Exports(soname) for stem, soname in _ALWAYS.items()}
    for library in read:
        for soname in library.needed:
            if _NVIDIA.match(soname) and not _NOT_NVIDIA.match(soname):
                wanted.setdefault(stem_of(soname), Exports(soname))
    for library in read:
        for symbol in library.undefined:
            stem = stem_of(symbol.soname) if symbol.soname else _owner(symbol.name)
            if stem in wanted:
                wanted[stem].functions.add(symbol.name)
                wanted[stem].version = symbol.version or wanted[stem].version
    for source in driver_sources:
        wanted["libcuda"].functions |= set(
            _DRIVER_CALL.findall(source.read_text("utf-8", "replace"))
        )
    return wanted


def _owner(name: str) -> str:
    for prefix, stem in _UNVERSIONED:
        if re.match(prefix + r"[A-Zx_i]", name) or (
            prefix in ("nccl", "nvshmem") and name.startswith(prefix)
        ):
            return stem
    return ""
