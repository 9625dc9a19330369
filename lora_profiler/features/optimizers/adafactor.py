"""transformers' Adafactor (`optimization.py`), without relative steps."""

from collections.abc import Iterator
from typing import Any

from lora_profiler._common.polynomial import Polynomial, product
from lora_profiler.memory.analytic.persistent import Persistent, TrainableTensor, scalar_bytes
from lora_profiler.question.optimizer import OptimizerFacts
from lora_profiler.question.workload import TrainSetup

FEATURE = OptimizerFacts(
    label="Adafactor",
    keeps="Adafactor keeps one row and one column of sums per trained matrix",
    optim="adafactor",
    classes=("Adafactor",),
    reduces=True,
)


def state_bytes(tensor: TrainableTensor, setup: TrainSetup) -> Polynomial:
    """A float32 row and column for matrices, a float32 average for vectors, and a scalar."""
    return _factored(tensor) + 4


def temporaries(state: Persistent, setup: TrainSetup) -> Iterator[Polynomial]:
    """As the loop of AdamW, in float32, two copies for float32 parameters and four for others."""
    scalars = scalar_bytes(setup)
    for before, this in state.neighbours:
        copies = 2 if this.dtype == "float32" else 4
        yield this.numel * 4 * copies + (before.numel * 4 if before else 0) + scalars
        yield this.numel * 4 * copies + _factored(this)


def _factored(tensor: TrainableTensor) -> Polynomial:
    """float32 row and column averages over the last two dimensions; a vector is kept whole."""
    if len(tensor.shape) < 2:
        return tensor.numel * 4
    *leading, rows, columns = tensor.shape
    return product(leading) * (rows + columns) * 4


def made(model: Any, parameters: list[Any], setup: TrainSetup) -> Any:
    from transformers.optimization import Adafactor

    from lora_profiler.trace.modeling.stepping import LEARNING_RATE

    return Adafactor(parameters, lr=LEARNING_RATE, scale_parameter=False, relative_step=False)  # type: ignore[no-untyped-call]
