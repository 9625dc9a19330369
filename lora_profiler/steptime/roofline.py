"""Seconds of a step from its kernels and its update: each kernel takes the longer of its products
and its bytes, and all of them a host to launch them.

bytes      b / (bandwidth beta), less where they fit into the cache
product    2 m n (k + filling), in whole tiles and whole waves of them, / (peak eta)
attention  its products in whole tiles of keys, / (peak eta share); backward's passes before and
           after them by their bytes
micro      sqrt(device^2 + host^2), host = launches x launch time; device + host where both are one
update     likewise, its bytes at bandwidth beta
step       accumulation x micro + update + what a step takes besides; the first micro-batch adds its
           gradients to none
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import hypot, log
from typing import Literal, NamedTuple

from lora_profiler.errors import UsageError
from lora_profiler.memory.kernels import Gemm, Kernel, Kind, StepKernels
from lora_profiler.question.base import base_kind
from lora_profiler.question.optimizer import optimizer_facts, package_optimizer
from lora_profiler.question.workload import UPDATES_SHARED, TrainSetup
from lora_profiler.steptime.constants import FRESH_BYTES, Fixed, Rates

Part = Kind | Literal["launches", "update", "besides"]
_SMALL_TILES = (32, 64)
_FILLING = 96
"""Elements of the inner dimension that a tile's pipeline holds before tensor cores have their first
product: three stages of 32, as cuBLAS' kernels for Ampere are named (`stages_32x3`). One tile a
multiprocessor leaves nothing else to compute meanwhile; CUTLASS, "Efficient GEMM in CUDA",
pipelining."""
HALF_TILE = 64
"""Keys that a query meets beyond those that it sees: of the tile of 128 that the mask's edge cuts,
half on average is computed for nothing (FlashAttention 2 `flash_fwd_launch_template.h`,
`flash_bwd_launch_template.h`)."""


class Step(NamedTuple):
    """One optimizer step: `accumulation` micro-batches and an update that moves `update_bytes` in
    `update_launches`.

    `fresh_bytes`: of the update's temporaries, which a CPU takes from the system anew
    (`update.fresh_bytes`). `more_launches`: of a micro-batch, where operators are known to launch
    more than a kernel each.
    """

    micro: StepKernels
    accumulation: int
    update_bytes: int
    update_launches: int = 0
    fresh_bytes: int = 0
    more_launches: int = 0

    @property
    def tokens(self) -> int:
        return self.micro.tokens * self.accumulation


@dataclass(frozen=True, slots=True)
class Load:
    """What `count` equal kernels need of a card, in seconds each: products at the whole peak, bytes
    at the whole bandwidth, and what no fitted constant scales; the longest counts. `fresh`, the
    system's time for new memory, comes on top.
    """

    kind: Kind
    product: float
    copy: float
    rest: float
    count: int
    fresh: float = 0.0

    def seconds(self, eta: float, beta: float) -> float:
        return self.count * (max(self.product / eta, self.copy / beta, self.rest) + self.fresh)


@dataclass(frozen=True, slots=True)
class StepLoad:
    """A step on a card, ready for any eta and beta. `host` and `update_host`: what launching a
    micro-batch's and the update's kernels takes; `added` and `added_host`: those that add its
    gradients to the ones before, which the first micro-batch has none of."""

    loads: tuple[Load, ...]
    host: float
    update: float
    accumulation: int
    besides: float
    overlaps: bool = True
    update_host: float = 0.0
    added: Load | None = None
    added_host: float = 0.0

    def device_seconds(self, eta: float, beta: float) -> float:
        return sum(load.seconds(eta, beta) for load in self.loads)

    def micro_seconds(self, eta: float, beta: float) -> float:
        return self._with_host(self.device_seconds(eta, beta), self.host)

    def update_seconds(self, beta: float) -> float:
        return self._with_host(self.update / beta, self.update_host)

    def seconds(self, eta: float, beta: float) -> float:
        device = self.device_seconds(eta, beta) - self._added_seconds(eta, beta)
        first = self._with_host(device, self.host - self.added_host)
        further = (self.accumulation - 1) * self.micro_seconds(eta, beta)
        return first + further + self.update_seconds(beta) + self.besides

    def on_host(self, times: float) -> "StepLoad":
        """With launches that take so many times as long."""
        return replace(
            self,
            host=times * self.host,
            update_host=times * self.update_host,
            added_host=times * self.added_host,
        )

    def by_part(self, eta: float, beta: float) -> dict[Part, float]:
        """Seconds on the device by kind of kernel, those of the update, and what a step takes
        besides."""
        seconds: dict[Part, float] = {}
        for load in self.loads:
            before = seconds.get(load.kind, 0.0)
            seconds[load.kind] = before + self.accumulation * load.seconds(eta, beta)
        if self.added:
            seconds[self.added.kind] -= self._added_seconds(eta, beta)
        return seconds | {"update": self.update / beta, "besides": self.besides}

    def _added_seconds(self, eta: float, beta: float) -> float:
        return self.added.seconds(eta, beta) if self.added else 0.0

    def _with_host(self, device: float, host: float) -> float:
        return hypot(device, host) if self.overlaps else device + host


def loaded(step: Step, rates: Rates, fixed: Fixed) -> StepLoad:
    """The step's kernels weighed against a card, those of equal weight together."""
    counts: dict[tuple[Kind, float, float, float, float], int] = {}
    for kernel in step.micro.kernels:
        weight = (kernel.kind, *weights(kernel, rates, fixed), fresh_seconds(kernel, rates))
        counts[weight] = counts.get(weight, 0) + kernel.count
        if beside := copy_seconds(passes_bytes(kernel, rates), rates, fixed):
            weight = (kernel.kind, 0.0, beside, 0.0, 0.0)
            counts[weight] = counts.get(weight, 0) + kernel.count
    added = _added(step, rates, fixed)
    return StepLoad(
        loads=tuple(
            Load(kind, product, copy, rest, count, fresh)
            for (kind, product, copy, rest, fresh), count in counts.items()
        ),
        host=(step.micro.launches + step.more_launches) * fixed.launch_seconds,
        update=step.update_bytes / rates.bandwidth,
        accumulation=step.accumulation,
        besides=fixed.step_seconds
        + (step.fresh_bytes / rates.fresh_bandwidth if rates.fresh_bandwidth else 0.0),
        overlaps=not rates.is_host,
        update_host=step.update_launches * fixed.launch_seconds,
        added=added,
        added_host=added.count * fixed.launch_seconds if added else 0.0,
    )


def _added(step: Step, rates: Rates, fixed: Fixed) -> Load | None:
    """Each gradient and its sum read and the sum written (torch `accumulate_grad.h`), of tensors as
    large as the mean one: their kernels are among those of a micro-batch of several."""
    tensors = step.micro.trained_tensors
    if step.accumulation == 1 or not tensors:
        return None
    moved = 3 * sum(size * count for size, count in step.micro.trainable.items()) // tensors
    return Load("memory", 0.0, copy_seconds(moved, rates, fixed), 0.0, tensors)


def weights(kernel: Kernel, rates: Rates, fixed: Fixed) -> tuple[float, float, float]:
    """(product, copy, rest) of one launch, as `Load` has them.

    Float32 products reach a fixed share of a peak of their own unless `Fixed` says otherwise;
    dequantisations one of the bandwidth, and operators that compute longer than they move a rate of
    their own.
    """
    if kernel.kind == "dequantise":
        return 0.0, 0.0, kernel.moved_bytes / (rates.bandwidth * fixed.dequantisation)
    copy = copy_seconds(kernel.moved_bytes, rates, fixed)
    if kernel.kind == "memory":
        rate = rates.operators.get(kernel.op)
        return 0.0, copy, kernel.moved_bytes / rate if rate else 0.0
    reached = {
        "attention_forward": fixed.attention_forward,
        "attention_backward": fixed.attention_backward,
    }.get(kernel.kind, 1.0)
    if kernel.gemm is not None:
        reached *= narrow_share(kernel.gemm, rates)
    if kernel.gemm is None:
        flops = attention_flops(kernel, rates)
    else:
        flops = tiled_flops(kernel.gemm, rates.processors, rates.tile)
        if kernel.dtype != "float32" and not rates.is_host:
            flops *= 1 + min(1, _FILLING / kernel.gemm.k)
    if kernel.dtype != "float32":
        return flops / (rates.tensor_flops * reached), copy, 0.0
    if fixed.fp32_product is None:
        return flops / (rates.fp32_flops * reached), copy, 0.0
    return 0.0, copy, flops / (rates.fp32_flops * fixed.fp32_product * reached)


def attention_flops(kernel: Kernel, rates: Rates) -> float:
    """FLOPs of fused attention with what its tiles compute beyond the mask. Forward has 4 a query's
    element and key, backward 10."""
    if rates.is_host or not kernel.flops:
        return kernel.flops
    each = 10 if kernel.kind == "attention_backward" else 4
    return kernel.flops + HALF_TILE * each * _query_elements(kernel)


def passes_bytes(kernel: Kernel, rates: Rates) -> int:
    """Of the kernels before and after those of attention's products in backward: the result and its
    gradient are read and float32 sums for the queries' gradient cleared, and these read and written
    in the queries' dtype (FlashAttention 2 `flash_bwd_preprocess_kernel.h`). 0 for others."""
    if kernel.kind != "attention_backward" or rates.is_host:
        return 0
    return int(_query_elements(kernel) * attention_bytes_per_element(_itemsize(kernel)))


def attention_bytes_per_element(itemsize: int) -> int:
    """Bytes of an element of the queries in them."""
    return 3 * itemsize + 8


def _query_elements(kernel: Kernel) -> float:
    """Of all queries, from the bytes: forward writes as many, and backward reads as many thrice and
    keys and values, of which it writes the gradients."""
    if kernel.kind == "attention_backward":
        return max(0, kernel.read_bytes - kernel.written_bytes) / (2 * _itemsize(kernel))
    return kernel.written_bytes / _itemsize(kernel)


def _itemsize(kernel: Kernel) -> int:
    return 4 if kernel.dtype == "float32" else 2


def fresh_seconds(kernel: Kernel, rates: Rates) -> float:
    """For memory that the kernel's result takes from the system; an operator that changes its input
    (`add_`) takes none."""
    if (
        rates.fresh_bandwidth is None
        or kernel.written_bytes < FRESH_BYTES
        or kernel.op.endswith("_")
    ):
        return 0.0
    return kernel.written_bytes / rates.fresh_bandwidth


def narrow_share(gemm: Gemm, rates: Rates) -> float:
    """Share of a large product's rate, between two measured sides in proportion to the
    logarithm."""
    side = min(gemm.m, gemm.n, gemm.k)
    below: tuple[float, float] | None = None
    for width, share in rates.narrow:
        if side <= width:
            if below is None or side == width:
                return share
            part = log(side / below[0]) / log(width / below[0])
            return below[1] + part * (share - below[1])
        below = (width, share)
    return 1.0


def copy_seconds(moved_bytes: int, rates: Rates, fixed: Fixed) -> float:
    """At the whole bandwidth. What fits into a part of the cache saves a share of its time, by
    `Fixed`. What does not is written over before it is read again, the more the nearer it comes to
    the whole cache; on a CPU the part that fits stays."""
    if not moved_bytes:
        return 0.0
    part = fixed.cached_part * rates.l2_bytes
    if rates.is_host or moved_bytes <= part:
        cached = min(1.0, part / moved_bytes)
    else:
        cached = max(0.0, (rates.l2_bytes - moved_bytes) / (rates.l2_bytes - part)) if part else 0.0
    return moved_bytes / rates.bandwidth * (1 - fixed.cached_share * cached)


def tiled_flops(gemm: Gemm, processors: int, sides: tuple[int, ...] = (256, 128)) -> float:
    """FLOPs that a card is busy for: the result in whole tiles, and these in whole waves of one
    tile for each multiprocessor.

    With cuBLAS' `sides` the longer side is rounded up to 256, the shorter to 128, or to 64 or 32
    where it is no longer than that. Fewer tiles than multiprocessors take no wave of their own:
    cuBLAS then splits the inner dimension. NVIDIA, "Matrix Multiplication Background User's Guide",
    3.1 and 3.2.
    """
    long_side, short_side = sides
    short, long = sorted((gemm.m, gemm.n))
    tile = min(short_side, next((tile for tile in _SMALL_TILES if short <= tile), short_side))
    rows, columns = -(-long // long_side), -(-short // tile)
    flops = 2 * gemm.batches * rows * long_side * columns * tile * gemm.k
    tiles = gemm.batches * rows * columns
    if not processors or tiles < processors:
        return flops
    return flops * (-(-tiles // processors) * processors) / tiles


# --- step -----------------------------------------------------------------------------------------


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
            f"the time of products over {base_kind(setup.quantization.quant_type).title} is not"
            " known; ask about --quant-type nf4."
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
