"""The analytic predictor: exact rules on symbolic sizes, without torch. `predict(workload)`,
`peak_bytes`, `peak_polynomials`."""

from lora_profiler.memory.analytic.predict import (
    knows,
    paged_bytes,
    peak_bytes,
    peak_polynomials,
    predict,
    read_off_error,
    shared_parts,
    tells,
)

__all__ = [
    "knows",
    "paged_bytes",
    "peak_bytes",
    "peak_polynomials",
    "predict",
    "read_off_error",
    "shared_parts",
    "tells",
]
