"""What an optimizer keeps per trainable tensor, and what one step allocates for a moment.

Sources: torch `optim/adamw.py`, `optim/sgd.py`; transformers `optimization.py` (Adafactor); bitsandbytes `optim/optimizer.py`.
Measured against the real optimizers by `tests/test_persistent.py` and `tests/test_moments.py`.
"""

from collections.abc import Mapping

from lora_profiler.analytic.backward import undominated
from lora_profiler.analytic.persistent import Persistent, TrainableTensor
from lora_profiler.analytic.polynomial import ZERO, Polynomial, constant, total
from lora_profiler.workload import DTYPE_BYTES, TrainSetup

EIGHT_BIT_MIN_NUMEL = 4096
EIGHT_BIT_BLOCK = 256
CODE_BOOK_BYTES = 1024


def state_bytes(tensor: TrainableTensor, setup: TrainSetup) -> Polynomial:
    """Bytes of the states of one tensor, step counters left out.

    AdamW keeps two averages in the tensor's own dtype; SGD without momentum nothing; Adafactor a float32 row and column for
    matrices and a float32 average for the rest. 8-bit AdamW keeps two bytes an element and two float32 scales per 256
    elements, but two float32 averages for tensors under 4096 elements; its tensors' sizes must not depend on the rank.
    """
    if setup.optimizer == "adamw":
        return tensor.bytes * 2
    if setup.optimizer == "sgd":
        return ZERO
    if setup.optimizer == "adafactor":
        if len(tensor.shape) < 2:
            return tensor.numel * 4
        *batch, rows, columns = tensor.shape
        leading = constant(1)
        for size in batch:
            leading = leading * size
        return leading * (rows + columns) * 4
    numel = tensor.numel.evaluate(1, 1, 1)
    if numel < EIGHT_BIT_MIN_NUMEL:
        return constant(8 * numel)
    return constant(2 * (numel + 4 * -(-numel // EIGHT_BIT_BLOCK)))


def total_state_bytes(trainable: Mapping[TrainableTensor, int], setup: TrainSetup) -> Polynomial:
    """Bytes of all states, with what is kept on the device beside them: step counters and 8-bit code books.

    The step counter is a 4-byte scalar per tensor, in host memory unless the implementation is fused; on CPU host memory is
    what is counted.
    """
    result = total(state_bytes(tensor, setup) * count for tensor, count in trainable.items())
    counters = setup.optimizer == "adamw" and (setup.optimizer_impl == "fused" or setup.device == "cpu")
    if counters:
        result = result + 4 * sum(trainable.values())
    if setup.optimizer == "adamw_8bit":
        result = result + 2 * CODE_BOOK_BYTES
    return result


def step_temporary_candidates(state: Persistent, setup: TrainSetup) -> tuple[Polynomial, ...]:
    """Bytes that a step allocates and frees beside gradients and states; the largest of the candidates counts.

    foreach AdamW makes one tensor per parameter of a dtype at a time. The loop makes two of the tensor that it works on while
    the last one of the tensor before is still bound to its name. On CPU the scalars of the step count too.
    """
    trainable = state.trainable
    scalars = _host_scalars(trainable) if setup.device == "cpu" else ZERO
    found: list[Polynomial] = [ZERO]
    if setup.optimizer == "adamw" and setup.optimizer_impl == "foreach":
        found = [total(t.bytes * n for t, n in trainable.items() if t.dtype == d) for d in sorted({t.dtype for t in trainable})]
    elif setup.optimizer == "adamw" and setup.optimizer_impl == "forloop":
        found = [this.bytes * 2 + (before.bytes if before else ZERO) for before, this in state.neighbours]
    elif setup.optimizer == "adafactor":
        found = [tensor.numel * 8 for tensor in trainable]
    return undominated(size + scalars for size in found)


def _host_scalars(trainable: Mapping[TrainableTensor, int]) -> Polynomial:
    return constant(8 + max(DTYPE_BYTES[tensor.dtype] for tensor in trainable))
