"""Optimizers that keep less than two averages a weight: GaLore and APOLLO, whose averages are of
gradients projected to a rank, and Adam-mini, whose second average is one a block.

Sources: galore-torch 1.0 `adamw.py`, `galore_projector.py`; apollo-torch 1.0.3 `apollo.py`,
`random_projector.py`; adam-mini 1.1.1 `adam_mini.py`; transformers 5.24 `trainer_optimizer.py`
(_setup_low_rank_optimizer) for which weights are projected, by what rank. Held against the packages
themselves, as `tests/data/projected_optimizers.json` records them.
"""

from collections.abc import Iterator
from typing import NamedTuple

from lora_profiler._common.polynomial import Polynomial, constant
from lora_profiler.memory.analytic.persistent import Persistent, TrainableTensor
from lora_profiler.question.workload import DTYPE_BYTES, TrainSetup


class _Sizes(NamedTuple):
    """Bytes of a projected tensor: the gradient, what it becomes, both averages with the
    projection, and what one more projection allocates for a moment."""

    whole: int
    low: int
    states: int
    projecting: int


def _sizes(tensor: TrainableTensor, setup: TrainSetup) -> _Sizes:
    rows, columns = (size.evaluate(1, 1, 1) for size in tensor.shape)
    width, is_float32 = DTYPE_BYTES[tensor.dtype], tensor.dtype == "float32"
    long, short = max(rows, columns), min(rows, columns)
    in_float32 = 0 if is_float32 else 4 * rows * columns
    if setup.optimizer == "apollo_adamw":
        rank, scalar = setup.optimizer_rank, width
        kept = width * rank * columns if rows >= columns else width * rank * rows
        drawn = kept // width * 4
        projecting = in_float32 + 2 * drawn
    else:
        rank, scalar = min(setup.optimizer_rank, short), 0
        # a float32 projection is a view of all singular vectors
        kept = 4 * short * short if is_float32 else width * rank * short
        vectors = 4 * (long * short + short * short)
        projecting = in_float32 + 4 * rows * columns + vectors
    low = width * rank * long
    return _Sizes(width * rows * columns, low, 2 * low + kept + scalar, projecting)


def state_bytes(tensor: TrainableTensor, setup: TrainSetup) -> Polynomial:
    """Of the averages of one tensor, and of its projection."""
    if tensor.kind.is_projected:
        return constant(_sizes(tensor, setup).states)
    if tensor.kind.averages is not None:
        return tensor.bytes + DTYPE_BYTES[tensor.dtype] * tensor.kind.averages
    return tensor.bytes * 2


def temporaries(state: Persistent, setup: TrainSetup) -> Iterator[Polynomial]:
    """Bytes that a step works with for a moment, one tensor after the other, while the update of
    the tensor before is still bound to its name.

    Where a projection is made anew the gradient is there in float32, GaLore's beside a copy that
    the decomposition works on and the singular vectors. Then the projected gradient, its
    denominator and their quotient are there, and that brought back to the gradient's size, before
    and after it is scaled.
    """
    for before, this in state.neighbours:
        held = before.bytes if before else constant(0)
        if not this.kind.is_projected:
            yield this.bytes * 2
            yield this.bytes + held
            continue
        sizes = _sizes(this, setup)
        yield held + sizes.projecting
        yield constant(3 * sizes.low + 2 * sizes.whole)
        if setup.optimizer == "apollo_adamw":
            yield held + 3 * sizes.low + sizes.whole
