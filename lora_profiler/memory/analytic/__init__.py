"""The analytic predictor: exact rules on symbolic sizes, without torch. `predict(workload)`,
`peak_bytes`, `peak_polynomials`."""

from lora_profiler.memory.analytic.predict import (
    knows,
    modules_error,
    paged_bytes,
    peak_bytes,
    peak_polynomials,
    predict,
    shared_parts,
    tells,
)

__all__ = [
    "knows",
    "modules_error",
    "paged_bytes",
    "peak_bytes",
    "peak_polynomials",
    "predict",
    "shared_parts",
    "tells",
]
