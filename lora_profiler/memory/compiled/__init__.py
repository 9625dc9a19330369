"""Traced steps compiled into profiles: exact peaks for every size, without torch."""

from lora_profiler.memory.compiled.evaluation import has_nearly, has_profile
from lora_profiler.memory.compiled.predict import (
    peak_bytes,
    peak_polynomials,
    predict,
    predict_with,
    with_tape,
)

__all__ = [
    "has_nearly",
    "has_profile",
    "peak_bytes",
    "peak_polynomials",
    "predict",
    "predict_with",
    "with_tape",
]
