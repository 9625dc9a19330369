"""What the stub libraries counted: launches by kernel, products of BLAS, and values that the script
read from the card."""

import ctypes
from pathlib import Path

_stubs = ctypes.CDLL(None)
for _counter in ("pretended_launches", "pretended_library_calls", "pretended_values_read"):
    getattr(_stubs, _counter).restype = ctypes.c_ulonglong
_stubs.pretended_write_launches.argtypes = [ctypes.c_char_p]


def launches() -> int:
    return int(_stubs.pretended_launches())


def library_calls() -> int:
    return int(_stubs.pretended_library_calls())


def values_read() -> int:
    return int(_stubs.pretended_values_read())


def launches_by_name(work: Path) -> dict[str, int]:
    """Since the process began. Names are mangled, as the libraries register them."""
    if _stubs.pretended_write_launches(bytes(work)):
        return {}
    counts: dict[str, int] = {}
    for line in work.read_text("utf-8", "replace").splitlines():
        count, _, name = line.partition("\t")
        counts[name] = counts.get(name, 0) + int(count)
    work.unlink()
    return counts
