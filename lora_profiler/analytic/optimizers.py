"""What an optimizer keeps per trainable tensor, and what one step allocates for a moment.

Sources: torch `optim/adamw.py`, `optim/sgd.py`; transformers `optimization.py` (Adafactor);
bitsandbytes `optim/optimizer.py`. Measured against the real optimizers by
`tests/test_persistent.py` and `tests/test_moments.py`.
"""

from collections.abc import Mapping

from lora_profiler.algebra.front import undominated
from lora_profiler.algebra.polynomial import ZERO, Polynomial, constant, product, total
from lora_profiler.analytic.persistent import Persistent, TrainableTensor
from lora_profiler.workload import DTYPE_BYTES, TrainSetup

EIGHT_BIT_MIN_NUMEL = 4096
EIGHT_BIT_BLOCK = 256
CODE_BOOK_BYTES = 1024


def state_bytes(tensor: TrainableTensor, setup: TrainSetup) -> Polynomial:
    """Bytes of the states of one tensor that live on the device.

    AdamW keeps two averages in the tensor's own dtype, and a 4-byte step counter that stays in host
    memory unless the implementation is fused (on CPU host memory is what counts). SGD without
    momentum keeps nothing. Adafactor keeps a float32 row and column for matrices, a float32 average
    for vectors, and a 4-byte scalar. 8-bit AdamW keeps two bytes an element and two float32 scales
    per 256 elements, but two float32 averages for tensors under 4096 elements: steps of a size, not
    a polynomial, so that the rank is taken from `setup`.
    """
    if setup.optimizer == "adamw":
        counted = setup.optimizer_impl == "fused" or setup.device == "cpu"
        return tensor.bytes * 2 + (4 if counted else 0)
    if setup.optimizer == "sgd":
        return ZERO
    if setup.optimizer == "adafactor":
        return _factored(tensor) + 4
    numel = _numel(tensor, setup)
    if numel < EIGHT_BIT_MIN_NUMEL:
        return constant(8 * numel)
    return constant(2 * (numel + 4 * -(-numel // EIGHT_BIT_BLOCK)))


def _factored(tensor: TrainableTensor) -> Polynomial:
    """float32 row and column averages over the last two dimensions; a vector is kept whole."""
    if len(tensor.shape) < 2:
        return tensor.numel * 4
    *leading, rows, columns = tensor.shape
    return product(leading) * (rows + columns) * 4


def total_state_bytes(trainable: Mapping[TrainableTensor, int], setup: TrainSetup) -> Polynomial:
    """Bytes of all states; 8-bit AdamW shares two code books of 256 float32 among its tensors."""
    result = total(state_bytes(tensor, setup) * count for tensor, count in trainable.items())
    return result + 2 * CODE_BOOK_BYTES if setup.optimizer == "adamw_8bit" else result


def step_temporary_candidates(state: Persistent, setup: TrainSetup) -> tuple[Polynomial, ...]:
    """Bytes that a step allocates and frees beside gradients and states; the largest of the
    candidates counts.

    foreach AdamW makes one tensor per parameter of a dtype at a time. The loop makes two of the
    tensor that it works on while the last one of the tensor before is still bound to its name;
    Adafactor likewise, in float32, two for float32 parameters and four for others. 8-bit AdamW
    works in place on CUDA, in float32 copies on CPU. On CPU the scalars of the step count.
    """
    trainable = state.trainable
    on_cpu = setup.device == "cpu"
    scalars = 12 if on_cpu else 0
    if setup.optimizer == "adamw" and setup.optimizer_impl == "foreach":
        # the temporaries of one dtype are still bound while the next dtype's are made
        dtypes = {tensor.dtype for tensor in trainable}
        scalars = 8 + DTYPE_BYTES[min(dtypes)] if on_cpu and len(dtypes) == 1 else 0
        found = [state.gradient_bytes + scalars]
    elif setup.optimizer == "adamw" and setup.optimizer_impl == "forloop":
        pairs = state.neighbours
        found = [
            this.bytes * 2 + _bytes(before) + (8 + DTYPE_BYTES[this.dtype] if on_cpu else 0)
            for before, this in pairs
        ]
    elif setup.optimizer == "adamw":
        found = [constant(scalars)]
    elif setup.optimizer == "adafactor":
        pairs = state.neighbours
        found = [
            this.numel * 4 * _copies(this) + (before.numel * 4 if before else 0) + scalars
            for before, this in pairs
        ]
        found += [this.numel * 4 * _copies(this) + _factored(this) for this in trainable]
    elif setup.optimizer == "adamw_8bit" and on_cpu:
        found = [
            tensor.numel * (4 * _eight_bit_copies(tensor, setup)) + scalars for tensor in trainable
        ]
    else:
        found = [ZERO]
    return undominated(found)


def _bytes(tensor: TrainableTensor | None) -> Polynomial:
    return tensor.bytes if tensor else ZERO


def _numel(tensor: TrainableTensor, setup: TrainSetup) -> int:
    return tensor.numel.evaluate(1, 1, setup.lora.r if setup.lora else 1)


def _eight_bit_copies(tensor: TrainableTensor, setup: TrainSetup) -> int:
    """float32 copies that bitsandbytes' CPU kernels make: two more for 8-bit states, one more for
    16-bit tensors."""
    return 3 + 2 * (_numel(tensor, setup) >= EIGHT_BIT_MIN_NUMEL) + (tensor.dtype != "float32")


def _copies(tensor: TrainableTensor) -> int:
    return 2 if tensor.dtype == "float32" else 4
