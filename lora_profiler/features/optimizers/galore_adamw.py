"""GaLore: see `_projected.py`."""

from lora_profiler.features.optimizers._projected import state_bytes, temporaries
from lora_profiler.question.optimizer import OptimizerFacts

__all__ = ["FEATURE", "state_bytes", "temporaries"]
FEATURE = OptimizerFacts(
    label="GaLore",
    keeps=(
        "GaLore keeps the projection and two averages of each projected gradient; everything else"
        " has two states per weight"
    ),
    assumption=(
        "GaLore projects the gradients of all linear layers to --optimizer-rank. The projection"
        " is renewed every 200 steps by a float32 decomposition, counted with its vectors;"
        " cuSOLVER's workspace is not."
    ),
    whole_weights_alone=True,
    projects_gradients=True,
    rules_alone=True,
)
