"""A kernel: what runs once on the device, as bytes and FLOPs, with no word about how fast any card
does it."""

from collections.abc import Callable, Iterable, Mapping
from operator import attrgetter
from typing import Literal, NamedTuple

from lora_profiler.question.workload import Dtype

Kind = Literal["gemm", "attention_forward", "attention_backward", "dequantise", "memory"]
Phase = Literal["forward", "backward", "recompute"]
FILLS_FIRST = frozenset(
    {
        "slice_backward", "select_backward", "constant_pad_nd", "nll_loss_backward",
        "embedding_dense_backward",
    }
)  # fmt: skip
"""They fill their output with zeros, and then write the gradient's or input's elements into it."""
_FLASH_BACKWARD = frozenset(
    {"_scaled_dot_product_flash_attention_backward", "_flash_attention_backward"}
)


def launches_of(op: str, *, is_grouped: bool = False) -> int:
    """Kernels that one operator launches on CUDA, as the stub libraries of a rehearsal count them.

    FlashAttention's backward has one for the products, one before it and one after it, and sums the
    gradients of keys and values that several heads share (`is_grouped`), one kernel each.
    """
    if op in _FLASH_BACKWARD:
        return 5 if is_grouped else 3
    return 2 if op in FILLS_FIRST else 1


class Gemm(NamedTuple):
    """`batches` products of (m x k) by (k x n) matrices."""

    m: int
    n: int
    k: int
    batches: int = 1

    @property
    def flops(self) -> int:
        return 2 * self.batches * self.m * self.n * self.k


class Kernel(NamedTuple):
    """An operator that runs `count` times on one set of shapes, with so many `launches` each.

    Bytes and FLOPs are those of one time. `read_bytes` and `written_bytes`: every input and
    output tensor once, expanded dimensions once, views never. `flops` are of matrix products alone,
    attention's with only the causal half where it is causal, and with what a fused backward pass
    computes again; `dtype` is that of the products. `parameters`: weights that a dequantisation
    makes. `module` is the name in the base model, with "*" for the number of a layer that repeats.
    """

    kind: Kind
    op: str
    phase: Phase
    module: str
    read_bytes: int
    written_bytes: int
    dtype: Dtype | None = None
    gemm: Gemm | None = None
    flops: int = 0
    parameters: int = 0
    count: int = 1  # type: ignore[assignment]  # which takes the place of the method of tuples
    launches: int = 1

    @property
    def moved_bytes(self) -> int:
        return self.read_bytes + self.written_bytes


class StepKernels(NamedTuple):
    """The kernels of one micro-batch, and what its optimizer step is about.

    `tokens`: of the micro-batch. `trainable`: elements that train by the bytes that one of them
    has; `trained_tensors`: how many tensors these are, which is what an update's launches go by.
    `is_estimate`: what operators read is taken to be what such operators usually read.
    """

    kernels: tuple[Kernel, ...]
    tokens: int
    trainable: Mapping[int, int]
    trained_tensors: int = 0
    is_estimate: bool = False

    @property
    def launches(self) -> int:
        return sum(kernel.count * kernel.launches for kernel in self.kernels)


def merged(kernels: Iterable[Kernel]) -> tuple[Kernel, ...]:
    """Equal kernels as one, their counts added, in the order of the first of each."""
    return _together(kernels, _all_but_count)


def lumped(kernels: Iterable[Kernel]) -> tuple[Kernel, ...]:
    """Kernels that differ in module and phase alone as one, which has those of the first: for
    whoever weighs them on many cards."""
    return _together(kernels, _cost_identity)


def _together(
    kernels: Iterable[Kernel], identity: Callable[[Kernel], object]
) -> tuple[Kernel, ...]:
    firsts: dict[object, Kernel] = {}
    counts: dict[object, int] = {}
    for kernel in kernels:
        key = identity(kernel)
        firsts.setdefault(key, kernel)
        counts[key] = counts.get(key, 0) + kernel.count
    return tuple(
        first if first.count == counts[key] else first._replace(count=counts[key])
        for key, first in firsts.items()
        if counts[key]
    )


def _identity(*left_out: str) -> Callable[[Kernel], object]:
    return attrgetter(*(name for name in Kernel._fields if name not in left_out))


_all_but_count = _identity("count")
_cost_identity = _identity("count", "module", "phase")
