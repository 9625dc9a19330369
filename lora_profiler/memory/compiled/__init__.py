"""Traced steps compiled into profiles: exact peaks for every size, without torch."""

from lora_profiler.memory.compiled.evaluation import has_profile, has_stand_in
from lora_profiler.memory.compiled.predict import (
    peak_bytes,
    peak_polynomials,
    predict,
    predict_with,
    with_tape,
)

__all__ = [
    "has_profile",
    "has_stand_in",
    "peak_bytes",
    "peak_polynomials",
    "predict",
    "predict_with",
    "with_tape",
]
