"""APOLLO: see `_projected.py`."""

from lora_profiler.features.optimizers._projected import state_bytes, temporaries
from lora_profiler.question.optimizer import OptimizerFacts

__all__ = ["FEATURE", "state_bytes", "temporaries"]
FEATURE = OptimizerFacts(
    label="APOLLO",
    keeps=(
        "APOLLO keeps the projection and two averages of each projected gradient; everything else"
        " has two states per weight"
    ),
    assumption=(
        "APOLLO projects the gradients of all linear layers to --optimizer-rank by a random"
        " matrix. It is renewed every 200 steps."
    ),
    whole_weights_alone=True,
    projects_gradients=True,
    rules_alone=True,
)
