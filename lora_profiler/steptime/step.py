"""One optimizer step, out of the kernels of its micro-batch and the setup that says how often they
run, and the bytes that the update moves."""

from collections.abc import Mapping

from lora_profiler.errors import UsageError
from lora_profiler.kernels import StepKernels
from lora_profiler.optimizer import optimizer_facts, package_optimizer
from lora_profiler.steptime.constants import FRESH_BYTES
from lora_profiler.steptime.roofline import Step
from lora_profiler.workload import QUANT_TITLES, UPDATES_SHARED, TrainSetup

CLIPPING_PASSES = 3
"""Clipping by norm reads each gradient once for the norm, then reads and writes it scaled."""
_CLIPPING_LISTS, _CLIPPING_ONCE = 4, 8
"""Kernels at a list of gradients, which the norm takes three of, and of the norm itself (torch
`nn/utils/clip_grad.py`, `native/cuda/ForeachReduceOp.cu`)."""
_ADAMW_PASSES = {"foreach": 20, "fused": 7, "forloop": 20}
"""Times that AdamW reads or writes something of an element's size: fused, 4 read and 3 written;
else operator by operator, 12 and 8 (torch `optim/adam.py`; 2 fewer without weight decay)."""
_ADAMW_OPERATORS = {1: 4, 2: 2, 3: 2}
"""By how many lists of tensors they take: mul, mul, div, add; lerp, sqrt; addcmul, addcdiv (torch
`optim/adam.py`)."""
_SGD_OPERATORS = {2: 1}
_LISTED = {1: 770, 2: 448, 3: 336, 4: 252}
"""Tensors at a launch, by lists: `depth_to_max_tensors` of torch's
`aten/src/ATen/native/cuda/MultiTensorApply.cuh` as built with CUDA 13."""
_LISTED_ELEMENTS = 2240 * 65_536
"""Blocks at a launch, and elements of one; the same file."""


def update_bytes(
    setup: TrainSetup, trainable: Mapping[int, int], *, clipping: int = 0
) -> int | None:
    """Of one optimizer step over `trainable` elements by their size in bytes; `clipping` passes
    more over the gradients.

    The packages' optimizers read weight and gradient and write the weight, and read and write each
    state, at the bits that large tensors have; paged ones as if their states lay on the card. SGD
    has no states. The operators of Adafactor, Muon, RMSprop and of those that project are not
    counted: None.
    """
    if not optimizer_facts(setup.optimizer).is_timed:
        return None
    return sum(
        _own(setup, count) * (_step_bytes_per_element(setup, size) + clipping * size)
        for size, count in trainable.items()
    )


def update_launches(setup: TrainSetup, tensors: int, elements: int) -> int:
    """Kernels of one update over `tensors` of `elements` together on a CUDA card.

    Operator by operator, eight a tensor for AdamW and one for SGD; of the packages' optimizers one.
    foreach and fused take lists of tensors, `_LISTED` of them or `_LISTED_ELEMENTS` elements at a
    launch, whichever is reached first. Those of Adafactor, Muon and RMSprop are not counted, as
    their bytes.
    """
    if package_optimizer(setup.optimizer):
        return tensors
    operators = _ADAMW_OPERATORS if setup.optimizer == "adamw" else _SGD_OPERATORS
    if setup.optimizer_impl == "forloop":
        return sum(operators.values()) * tensors
    if setup.optimizer_impl == "fused":
        operators = {4 if setup.optimizer == "adamw" else 2: 1}
    return sum(count * _lists(lists, tensors, elements) for lists, count in operators.items())


def _lists(lists: int, tensors: int, elements: int) -> int:
    """Launches of an operator that takes so many lists of tensors; 0 for no tensor."""
    by_elements = -(-elements // _LISTED_ELEMENTS)
    return max(-(-tensors // _LISTED[lists]), by_elements) if tensors else 0


def fresh_bytes(setup: TrainSetup, trainable: Mapping[int, int]) -> int:
    """Of the temporaries that foreach AdamW makes of all weights at once, one of their size; 0 for
    other updates.

    They are let go together. From twice `FRESH_BYTES` on, the largest trim threshold that glibc's
    heap comes to (malloc.c), that gives them back to the system, and the next step takes them anew.
    """
    temporaries = sum(_own(setup, count) * size for size, count in trainable.items())
    foreach = setup.optimizer == "adamw" and setup.optimizer_impl == "foreach"
    return temporaries if foreach and temporaries >= 2 * FRESH_BYTES else 0


def _own(setup: TrainSetup, count: int) -> int:
    """Elements that this rank updates."""
    return -(-count // setup.world_size) if setup.sharding in UPDATES_SHARED else count


def _step_bytes_per_element(setup: TrainSetup, size: int) -> int:
    made = package_optimizer(setup.optimizer)
    if made is not None:
        return 3 * size + 2 * made.states * made.bits // 8
    if setup.optimizer == "sgd":
        return 3 * size
    return _ADAMW_PASSES[setup.optimizer_impl] * size


def check_base_timed(setup: TrainSetup) -> None:
    """Raises UsageError for a base but in NF4."""
    if setup.quantization is not None and setup.quantization.quant_type != "nf4":
        raise UsageError(
            f"the time of products over {QUANT_TITLES[setup.quantization.quant_type]} is not known;"
            " ask about --quant-type nf4."
        )


def step_of(kernels: StepKernels, setup: TrainSetup) -> Step:
    """The step of `setup`, whose micro-batch launches `kernels`.

    Raises UsageError for an optimizer whose update is not counted, and for a base but in NF4.
    """
    check_base_timed(setup)
    clips = setup.loop_state != "none"  # by norm, by default, in every loop that has a state
    moved = update_bytes(setup, kernels.trainable, clipping=CLIPPING_PASSES * clips)
    if moved is None:
        raise UsageError(
            f"the time of {setup.optimizer}'s update is not known; ask about adamw, adamw_8bit or"
            " sgd."
        )
    fresh = fresh_bytes(setup, kernels.trainable)
    elements = sum(_own(setup, count) for count in kernels.trainable.values())
    launches = update_launches(setup, kernels.trained_tensors, elements)
    if clips:
        lists = _lists(1, kernels.trained_tensors, elements)
        launches += _CLIPPING_LISTS * lists + _CLIPPING_ONCE
    return Step(
        micro=kernels,
        accumulation=setup.accumulation,
        update_bytes=moved,
        update_launches=launches,
        fresh_bytes=fresh,
    )
