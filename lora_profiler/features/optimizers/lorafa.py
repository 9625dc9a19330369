"""PEFT's LoRA-FA, which trains B alone (0.21, `optimizers/lorafa.py`)."""

from collections.abc import Iterator
from typing import Any

from lora_profiler._common.polynomial import Polynomial
from lora_profiler.memory.analytic.persistent import Persistent, TrainableTensor, bytes_of
from lora_profiler.question.optimizer import OptimizerFacts
from lora_profiler.question.workload import TrainSetup

FEATURE = OptimizerFacts(
    label="LoRA-FA",
    keeps="LoRA-FA keeps two states per weight of B, each in that weight's dtype",
    b_alone=True,
    rules_alone=True,
)


def state_bytes(tensor: TrainableTensor, setup: TrainSetup) -> Polynomial:
    return tensor.bytes * 2


def temporaries(state: Persistent, setup: TrainSetup) -> Iterator[Polynomial]:
    """Of each B, gradient and denominator of the one before are still bound: the gradient that is
    projected in bfloat16, before and after it is scaled; then it and both denominators. PEFT 0.21
    `optimizers/lorafa.py`."""
    for before, this in state.neighbours:
        yield bytes_of(before) * 2 + this.numel * 6
        yield bytes_of(before) + this.bytes * 2


def made(model: Any, parameters: list[Any], setup: TrainSetup) -> Any:
    from peft.optimizers import create_lorafa_optimizer

    from lora_profiler.trace.modeling.stepping import LEARNING_RATE

    assert setup.lora is not None
    rank, alpha = setup.lora.r, setup.lora.alpha
    return create_lorafa_optimizer(model, r=rank, lora_alpha=alpha, lr=LEARNING_RATE)  # type: ignore[arg-type]  # PEFT declares an int and takes any number
