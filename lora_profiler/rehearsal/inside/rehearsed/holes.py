"""Weights without values that no memory of this machine stands behind: of files of holes, and of
what is cast from them."""

import mmap
import os
from collections.abc import Callable, Sequence
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
    """safetensors copies what it reads: of a file of holes, read into host memory, it need not."""
    import safetensors

    original: Callable[..., Any] = safetensors.safe_open

    def safe_open(filename: Any, framework: str = "pt", device: Any = "cpu", **how: Any) -> Any:
        opened = original(filename, framework, device, **how)
        is_torch = framework in ("pt", "torch", "pytorch")
        return _Holes(opened) if is_torch and device == "cpu" and _is_hole(filename) else opened

    safetensors.safe_open = safe_open  # type: ignore[assignment, misc]


def _is_hole(path: Any) -> bool:
    status = os.stat(path)
    return 2 * _BLOCK_BYTES * status.st_blocks < status.st_size


class _Holes:
    """An opened file whose large tensors are not read."""

    def __init__(self, opened: Any) -> None:
        self._opened = opened

    def __getattr__(self, name: str) -> Any:
        return getattr(self._opened, name)

    def __enter__(self) -> "_Holes":
        self._opened.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)

    def get_slice(self, name: str) -> "_Slice":
        return _Slice(self._opened.get_slice(name))

    def get_tensor(self, name: str) -> Any:
        return self.get_slice(name)[...]

    def get_tensors(self) -> dict[str, Any]:
        return {name: self.get_tensor(name) for name in self._opened.keys()}  # noqa: SIM118


class _Slice:
    def __init__(self, part: Any) -> None:
        self._part = part

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)

    def __getitem__(self, index: Any) -> Any:
        import torch

        shape = self._part.get_shape()
        if torch.Size(shape).numel() <= LARGE:
            return self._part[index]
        dtype = getattr(torch, _NAMES[self._part.get_dtype()])
        return holes(torch.empty(shape, device="meta")[index].shape, dtype)
