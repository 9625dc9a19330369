"""torch's Muon (`optim/_muon.py`)."""

from collections.abc import Iterator
from typing import Any

from lora_profiler._common.polynomial import Polynomial, constant
from lora_profiler.memory.analytic.persistent import Persistent, TrainableTensor
from lora_profiler.question.optimizer import OptimizerFacts
from lora_profiler.question.workload import DTYPE_BYTES, TrainSetup

FEATURE = OptimizerFacts(
    label="Muon",
    keeps="Muon keeps one state per trained weight, in that weight's dtype",
    classes=("Muon",),
    matrices_alone=True,
)


def state_bytes(tensor: TrainableTensor, setup: TrainSetup) -> Polynomial:
    return tensor.bytes


def temporaries(state: Persistent, setup: TrainSetup) -> Iterator[Polynomial]:
    """The step of one matrix after the other, by the lines of `_zeropower_via_newtonschulz`: the
    momentum that it is given (`update`), X in bfloat16 before and after a product, and square
    matrices of the smaller side.

    Two moments can be the largest: while a round makes its Gram matrix, of which the one before and
    its polynomial are still bound; and while it makes the next X beside them. A bfloat16 update is
    X itself in the first round.
    """
    for tensor in state.trainable:
        rank = setup.lora.r if setup.lora else 1
        rows, columns = (size.evaluate(1, 1, rank) for size in tensor.shape)
        update, x, square = (
            DTYPE_BYTES[tensor.dtype] * rows * columns,
            2 * rows * columns,
            2 * min(rows, columns) ** 2,
        )
        yield constant(update + x + 3 * square)
        yield constant(update + 2 * x + 2 * square)


def made(model: Any, parameters: list[Any], setup: TrainSetup) -> Any:
    import torch

    from lora_profiler.trace.modeling.stepping import LEARNING_RATE

    return torch.optim.Muon(parameters, lr=LEARNING_RATE)
