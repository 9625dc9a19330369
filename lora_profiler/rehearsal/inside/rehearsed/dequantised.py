"""bitsandbytes' C functions that unpack weights. Its own operators call them, and the kernels of
axolotl and Unsloth do, below torch's dispatcher."""

from collections.abc import Callable
from typing import Any

_SIZES = {"fp32": 4, "bf16": 2, "fp16": 2}
Listener = Callable[[int, int, int, int], None]
"""Hears how many elements were unpacked, how many share a scale, bits of a packed one, and bytes
of one that is written."""
LISTENERS: list[Listener] = []


class _Heard:
    """Stands for a C function of (code, packed, scales, out, block, elements, stream), all of whose
    attributes are its own."""

    def __init__(self, function: Any, bits: int, size: int) -> None:
        self.__dict__ |= {"_function": function, "_bits": bits, "_size": size}

    def __call__(self, *arguments: Any) -> Any:
        block, elements = (int(getattr(each, "value", each)) for each in arguments[4:6])
        for listener in LISTENERS:
            listener(elements, block, self._bits, self._size)
        return self._function(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._function, name, value)


def observe_bitsandbytes() -> None:
    """Of `bitsandbytes.cextension`, before anybody takes a function out of its library."""
    from bitsandbytes.cextension import lib

    for dtype, size in _SIZES.items():
        for kind, bits in (("", 8), ("_nf4", 4), ("_fp4", 4)):
            name = f"cdequantize_blockwise_{dtype}{kind}"
            setattr(lib, name, _Heard(getattr(lib, name), bits, size))
