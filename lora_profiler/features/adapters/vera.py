"""PEFT's VeRA (`tuners/vera/{layer,model}.py`): all layers share two frozen random matrices."""

from typing import Any

from lora_profiler._common.polynomial import Polynomial, R, constant
from lora_profiler.memory.analytic.persistent import TrainableTensor
from lora_profiler.question.support.bases import adapter_dtype
from lora_profiler.question.workload import DTYPE_BYTES

FEATURE = {
    "title": "VeRA",
    "error": "TypeError",
    "empty_error": "ValueError",  # it looks for its largest layer first (`model.py`, _find_dim)
    "formula": "out + R of every adapted layer; A and B, which all share, are frozen",
    "shared": True,
}


def tensors(adapter: Any, dtype: str, lora: Any) -> tuple[TrainableTensor, ...]:
    """A vector as long as the output and one as long as the rank (`layer.py`, update_layer)."""
    return (TrainableTensor((constant(adapter.out_features),), dtype), TrainableTensor((R,), dtype))


def buffer_bytes(adapters: Any, setup: Any) -> Polynomial:
    """Two matrices as long as the longest input and output (`model.py`, _init_vera_A_vera_B)."""
    widest: int = max(a.in_features for a in adapters) + max(a.out_features for a in adapters)
    return R * widest * DTYPE_BYTES[adapter_dtype(setup)]


def refusals(setup: Any) -> dict[str, object]:
    """torch refuses its products (`layer.py`, forward, rehearsed)."""
    return {
        "FSDP's mixed precision leaves VeRA's frozen matrices in float32, and torch refuses them"
        " with bfloat16; use --precision pure or amp.": setup.precision == "fsdp-mixed"
    }
