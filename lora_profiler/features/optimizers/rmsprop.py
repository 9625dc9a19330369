"""torch's RMSprop (`optim/rmsprop.py`)."""

from collections.abc import Iterator
from typing import Any

from lora_profiler._common.polynomial import Polynomial
from lora_profiler.memory.analytic.persistent import (
    HOST_SCALAR_BYTES,
    Persistent,
    TrainableTensor,
    adamw_temporaries,
    bytes_of,
)
from lora_profiler.question.optimizer import OptimizerFacts
from lora_profiler.question.workload import TrainSetup

FEATURE = OptimizerFacts(
    label="RMSprop",
    keeps="RMSprop keeps one state per trained weight, in that weight's dtype",
    optim="rmsprop",
    classes=("RMSprop",),
    on_shards=True,
)


def state_bytes(tensor: TrainableTensor, setup: TrainSetup) -> Polynomial:
    """One average, and a step counter that stays in host memory unless the device is a CPU."""
    return tensor.bytes + (HOST_SCALAR_BYTES if setup.device == "cpu" else 0)


def temporaries(state: Persistent, setup: TrainSetup) -> Iterator[Polynomial]:
    """Square roots of the averages: of all of a dtype, as AdamW's; in the loop one, while the last
    one of the tensor before is still bound."""
    if setup.optimizer_impl == "foreach":
        yield from (size + state.stepped_bytes for size in adamw_temporaries(state, setup))
    else:
        for before, this in state.neighbours:
            yield this.bytes + bytes_of(before)


def made(model: Any, parameters: list[Any], setup: TrainSetup) -> Any:
    import torch

    from lora_profiler.trace.modeling.stepping import LEARNING_RATE, grouped

    foreach = setup.optimizer_impl == "foreach"
    return torch.optim.RMSprop(grouped(parameters, setup), lr=LEARNING_RATE, foreach=foreach)
