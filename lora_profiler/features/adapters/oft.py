"""PEFT's OFT (0.21.2, `tuners/oft/layer.py`): rotations of the input, block by block."""

from collections.abc import Mapping
from typing import Any

from lora_profiler._common.polynomial import Polynomial, constant
from lora_profiler.errors import UsageError
from lora_profiler.memory.analytic.persistent import TrainableTensor

FEATURE = {
    "title": "OFT",
    "error": "TypeError",
    "formula": "in / w x w (w - 1) / 2 of every adapted layer, w its width of a rotation",
    "size": "blocks of {0.oft_block_size}, ",
    "matrices": True,
    "without": ("r",),  # its `r` is a number of blocks
}


def block_size(in_features: int, requested: int) -> int:
    """The divisor of `in_features` nearest to `requested`, the lower of two equally near; all of it
    where that is no wider (adjust_oft_parameters)."""
    if requested >= in_features:
        return in_features
    lower = next(size for size in range(requested, 0, -1) if in_features % size == 0)
    higher = next(size for size in range(requested, in_features + 1) if in_features % size == 0)
    return lower if requested - lower <= higher - requested else higher


def _skew_elements(width: int) -> int:
    """The numbers above the diagonal of a square matrix."""
    return width * (width - 1) // 2


def check_config(config: Mapping[str, Any]) -> None:
    """Raises UsageError for one by the number of blocks, which `r` is here."""
    if config["r"]:
        raise UsageError("OFT by its number of blocks (r) is not predicted")


def tensors(adapter: Any, dtype: str, lora: Any) -> tuple[TrainableTensor, ...]:
    """A row for each block of the input: what is above the diagonal of a skew-symmetric matrix
    (update_layer)."""
    width = block_size(adapter.in_features, lora.oft_block_size)
    shape = adapter.in_features // width, _skew_elements(width)
    return (TrainableTensor(tuple(map(constant, shape)), dtype),)


def buffer_bytes(adapters: Any, setup: Any) -> Polynomial:
    """int64 row and column of each number above the diagonal, of every layer
    (OFTRotationModule)."""
    widths = (block_size(a.in_features, setup.lora.oft_block_size) for a in adapters)
    return constant(sum(2 * 8 * _skew_elements(width) for width in widths))
