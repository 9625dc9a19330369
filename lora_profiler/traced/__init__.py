"""The real training step traced on the meta device, and compiled into profiles. Knows torch."""

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lora_profiler.prediction import Prediction
    from lora_profiler.workload import Workload


def predict(workload: "Workload") -> "Prediction":
    """The answer of a profile made now, which is kept in the cache. Raises CompileError, and what building the model raises."""
    from lora_profiler import compiled
    from lora_profiler.compiled.library import keep
    from lora_profiler.traced.compiler import compile_profile

    profile = compile_profile(workload)
    keep(profile)
    return replace(compiled.predict_with(profile, workload), engine="traced")
