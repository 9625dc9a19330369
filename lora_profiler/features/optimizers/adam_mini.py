"""Adam-mini: see `_projected.py`."""

from lora_profiler.features.optimizers._projected import state_bytes, temporaries
from lora_profiler.question.optimizer import OptimizerFacts

__all__ = ["FEATURE", "state_bytes", "temporaries"]
FEATURE = OptimizerFacts(
    label="Adam-mini",
    keeps=("Adam-mini keeps one state per trained weight and one per head, row or tensor"),
    assumption=("Adam-mini finds its blocks by the names of weights."),
    whole_weights_alone=True,
    rules_alone=True,
)
