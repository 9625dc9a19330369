"""The analytic predictor: exact rules on symbolic sizes, without torch. `predict(workload)`, `peak_bytes`, `sweep`."""

from lora_profiler.analytic.predict import knows, peak_bytes, predict
from lora_profiler.analytic.sweep import sweep

__all__ = ["knows", "peak_bytes", "predict", "sweep"]
