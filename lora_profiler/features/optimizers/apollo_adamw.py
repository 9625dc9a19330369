"""APOLLO: see `_projected.py`."""

from lora_profiler.features.optimizers._projected import state_bytes, temporaries
from lora_profiler.optimizer import OptimizerFacts

__all__ = ["FEATURE", "state_bytes", "temporaries"]
FEATURE = OptimizerFacts(
    label="APOLLO",
    keeps=(
        "APOLLO keeps two averages of each linear layer's projected gradient and the projection,"
        " and two states a weight of everything else"
    ),
    assumption=(
        "APOLLO projects the gradients of linear layers (all-linear) to rank --optimizer-rank,"
        " renewed every 200 steps by a random matrix."
    ),
    whole_weights_alone=True,
    projects_gradients=True,
    rules_alone=True,
)
