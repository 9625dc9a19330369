"""Weights without values that no memory of this machine stands behind: of files of holes, and of
what is cast from them."""

import json
import mmap
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

LARGE = 1 << 20
"""Elements of a tensor; smaller ones are read."""
_BLOCK_BYTES = 512
DTYPES = {
    "bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64", "int64": "I64",
    "int32": "I32", "bool": "BOOL", "uint8": "U8", "int8": "I8",
}  # fmt: skip
"""torch's names of dtypes -> those of safetensors."""
_NAMES = {theirs: name for name, theirs in DTYPES.items()}


def holes(shape: Sequence[int], dtype: "torch.dtype") -> "torch.Tensor":
    """Zeros on the host in pages that nobody has touched; `torch.zeros` may take some that were
    freed, and write them."""
    import torch

    meta = torch.empty(shape, dtype=dtype, device="meta")
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    return torch.frombuffer(mmap.mmap(-1, meta.nbytes, flags), dtype=dtype).view(meta.shape)


def read_no_holes() -> None:
    """safetensors maps a file as large as its weights, and copies what it reads: of a file of
    holes, read into host memory, it need not."""
    import safetensors

    original: Callable[..., Any] = safetensors.safe_open

    def safe_open(filename: Any, framework: str = "pt", device: Any = "cpu", **how: Any) -> Any:
        if framework in ("pt", "torch", "pytorch") and device == "cpu" and _is_hole(filename):
            return _Holes(filename)
        return original(filename, framework, device, **how)

    safetensors.safe_open = safe_open  # type: ignore[assignment, misc]


def _is_hole(path: Any) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False  # safetensors says so
    return 2 * _BLOCK_BYTES * status.st_blocks < status.st_size


class _Holes:
    """What `safe_open` gives, but for large tensors, which are not read."""

    def __init__(self, path: Any) -> None:
        self._path = path
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            self._parts: dict[str, Any] = json.loads(file.read(length))
        self._metadata: dict[str, str] | None = self._parts.pop("__metadata__", None)
        self._begin = 8 + length

    def __enter__(self) -> "_Holes":
        return self

    def __exit__(self, *error: object) -> None: ...

    def metadata(self) -> dict[str, str] | None:
        return self._metadata

    def keys(self) -> list[str]:
        return sorted(self._parts)

    def offset_keys(self) -> list[str]:
        return sorted(self._parts, key=lambda name: self._parts[name]["data_offsets"])

    def get_tensor(self, name: str) -> Any:
        return self.get_slice(name)[...]

    def get_tensors(self) -> dict[str, Any]:
        return {name: self.get_tensor(name) for name in self._parts}

    def get_slice(self, name: str) -> "_Slice":
        return _Slice(self._path, self._begin, self._parts[name])


class _Slice:
    def __init__(self, path: Any, begin: int, part: Mapping[str, Any]) -> None:
        self._path, self._begin, self._part = path, begin, part

    def get_shape(self) -> list[int]:
        shape: list[int] = self._part["shape"]
        return shape

    def get_dtype(self) -> str:
        return str(self._part["dtype"])

    def __getitem__(self, index: Any) -> Any:
        import torch

        shape, dtype = self.get_shape(), getattr(torch, _NAMES[self.get_dtype()])
        first, end = self._part["data_offsets"]
        if torch.Size(shape).numel() > LARGE:
            made = holes(torch.empty(shape, device="meta")[index].shape, dtype)
            with open(self._path, "rb") as file:
                file.seek(self._begin + first)
                head = bytearray(file.read(dtype.itemsize))
            if any(head):  # differs from another tensor
                made.view(-1)[:1] = torch.frombuffer(head, dtype=dtype)
            return made
        if first == end:
            return torch.empty(shape, dtype=dtype)[index]
        with open(self._path, "rb") as file:
            file.seek(self._begin + first)
            data = bytearray(file.read(end - first))
        return torch.frombuffer(data, dtype=dtype).view(shape)[index]
