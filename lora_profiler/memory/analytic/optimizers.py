"""What an optimizer keeps per trainable tensor, and what one step allocates for a moment: torch's
AdamW and SGD, and those of bitsandbytes and torchao. The others are in `features/optimizers/`.

Sources: torch `optim/{adamw,sgd}.py`; bitsandbytes `optim/optimizer.py`, `backends/cpu/ops.py`;
torchao `optim/adam.py`. Measured against the real optimizers by `tests/memory/test_persistent.py`,
`tests/memory/test_moments.py` and `tests/features/test_package_optimizers.py`.
"""

from collections.abc import Iterator, Mapping

from lora_profiler._common.polynomial import ZERO, Polynomial, constant, total, undominated
from lora_profiler.memory.analytic.persistent import Persistent, TrainableTensor
from lora_profiler.question.feature import part
from lora_profiler.question.optimizer import PackageOptimizer, package_optimizer
from lora_profiler.question.support.optimizers import steps_in_groups
from lora_profiler.question.workload import DTYPE_BYTES, TrainSetup

HOST_SCALAR_BYTES = 4


def state_bytes(tensor: TrainableTensor, setup: TrainSetup) -> Polynomial:
    """Bytes of the states of one tensor that live on the device.

    AdamW keeps two averages in the tensor's own dtype, and a 4-byte step counter that stays in host
    memory unless the implementation is fused (on CPU host memory is what counts). SGD without
    momentum keeps nothing. What the packages keep is in `_package_state_bytes`, what others keep in
    their own files.
    """
    made = package_optimizer(setup.optimizer)
    if made is not None:
        return _package_state_bytes(made, tensor, setup)
    if own := part("optimizers", setup.optimizer, "law", "state_bytes"):
        size: Polynomial = own(tensor, setup)
        return size
    if setup.optimizer == "sgd":
        return ZERO
    counted = setup.optimizer_impl == "fused" or setup.device == "cpu"
    return tensor.bytes * 2 + (HOST_SCALAR_BYTES if counted else 0)


def _package_state_bytes(
    made: PackageOptimizer, tensor: TrainableTensor, setup: TrainSetup
) -> Polynomial:
    """Quantised states come in blocks with a float32 scale each: steps of a size, not a polynomial,
    so that the rank is taken from `setup`.

    Whole states are float32 in bitsandbytes, in the tensor's dtype in torchao, which keeps a code
    book with every quantised state, and a step counter in host memory. What is paged counts
    nothing; scales are never paged.
    """
    made = _on(made, tensor)
    counter = HOST_SCALAR_BYTES if made.package == "torchao" and setup.device == "cpu" else 0
    if made.bits == 32 and not made.is_paged:
        return tensor.numel * (4 * made.states)
    numel = _numel(tensor, setup)
    is_paged = made.pages(numel, setup.device)
    if not made.quantises(numel):
        wide = 4 if made.package == "bitsandbytes" else DTYPE_BYTES[tensor.dtype]
        return constant(0 if is_paged else made.states * wide * numel + counter)
    one = 4 * -(-numel // made.block) + (0 if is_paged else -(-numel * made.bits // 8))
    if made.package == "torchao":
        one += made.code_book_bytes
    return constant(made.states * one + counter)


def paged_state_bytes(trainable: Mapping[TrainableTensor, int], setup: TrainSetup) -> int:
    """Bytes of states in CUDA's unified memory, which `total_state_bytes` leaves out."""
    made = package_optimizer(setup.optimizer)
    if made is None or not made.is_paged:
        return 0
    size = 0
    for tensor, count in trainable.items():
        numel, own = _numel(tensor, setup), _on(made, tensor)
        if own.pages(numel, setup.device):
            size += count * own.states * numel * own.bits // 8
    return size


def _on(made: PackageOptimizer, tensor: TrainableTensor) -> PackageOptimizer:
    return made._replace(bits=32) if tensor.kind.is_wide else made


def total_state_bytes(trainable: Mapping[TrainableTensor, int], setup: TrainSetup) -> Polynomial:
    """Bytes of all states. bitsandbytes' 8-bit optimizers share two code books among their tensors,
    made in host memory, of which each comes to the device with the first state that needs it; one
    that steps in backward is an optimizer of its own, with its own books."""
    result = total(state_bytes(tensor, setup) * count for tensor, count in trainable.items())
    made = package_optimizer(setup.optimizer)
    if made is None or made.bits == 32 or made.package == "torchao":
        return result
    if setup.device == "cpu":
        return result + 2 * made.code_book_bytes
    needed = sum(
        count
        for tensor, count in trainable.items()
        if _on(made, tensor).quantises(_numel(tensor, setup))
    )
    owners = needed if setup.optimizer_in_bwd else min(needed, 1)
    return result + owners * made.states * made.code_book_bytes


def step_temporary_candidates(state: Persistent, setup: TrainSetup) -> tuple[Polynomial, ...]:
    """Bytes that a step allocates and frees beside gradients and states; the largest of the
    candidates counts."""
    own = part("optimizers", setup.optimizer, "law", "temporaries")
    if made := package_optimizer(setup.optimizer):
        return undominated(list(_of_package(made, state, setup)))
    return undominated(list((own or _CORE[setup.optimizer])(state, setup)))


def adamw_temporaries(state: Persistent, setup: TrainSetup) -> Iterator[Polynomial]:
    """foreach AdamW makes one tensor per parameter of a dtype at a time. The loop makes two of the
    tensor that it works on while the last one of the tensor before is still bound to its name. On
    CPU the scalars of the step count."""
    on_cpu = setup.device == "cpu"
    if setup.optimizer_impl == "fused":
        yield constant(scalar_bytes(setup) + state.stepped_bytes)
    elif setup.optimizer_impl == "foreach":
        # the temporaries of one dtype are still bound while the next dtype's are made
        dtypes = {tensor.dtype for tensor in state.trainable}
        scalars = 8 + DTYPE_BYTES[min(dtypes)] if on_cpu and len(dtypes) == 1 else 0
        yield (_largest_group(state) if steps_in_groups(setup) else state.gradient_bytes) + scalars
    else:
        for before, this in state.neighbours:
            scalars = 8 + DTYPE_BYTES[this.dtype] if on_cpu else 0
            yield this.bytes * 2 + bytes_of(before) + scalars


def _largest_group(state: Persistent) -> Polynomial:
    """Gradients of the matrices, of which there are more than of vectors."""
    return total(tensor.bytes * n for tensor, n in state.trainable.items() if len(tensor.shape) > 1)


def _sgd(state: Persistent, setup: TrainSetup) -> Iterator[Polynomial]:
    yield constant(state.stepped_bytes)


def _of_package(
    made: PackageOptimizer, state: Persistent, setup: TrainSetup
) -> Iterator[Polynomial]:
    """bitsandbytes works in place on CUDA, in float32 copies on CPU."""
    yield ZERO
    if made.package == "torchao":
        for tensor in state.trainable:
            numel = _numel(tensor, setup)
            if made.quantises(numel):
                yield constant(made.states * made.compiled_bytes(numel, setup.device))
    if made.package == "bitsandbytes" and setup.device == "cpu":
        for tensor in state.trainable:
            copies = 3 + (tensor.dtype != "float32")
            if made.quantises(_numel(tensor, setup)):
                copies += 2
            yield tensor.numel * (4 * copies) + (scalar_bytes(setup) if made.kind == "AdamW" else 0)


_CORE = {"adamw": adamw_temporaries, "sgd": _sgd}


def scalar_bytes(setup: TrainSetup) -> int:
    """The step count and what is made of it, on CPU."""
    return 12 if setup.device == "cpu" else 0


def bytes_of(tensor: TrainableTensor | None) -> Polynomial:
    return tensor.bytes if tensor else ZERO


def _numel(tensor: TrainableTensor, setup: TrainSetup) -> int:
    return tensor.numel.evaluate(1, 1, setup.lora.r if setup.lora else 1)
