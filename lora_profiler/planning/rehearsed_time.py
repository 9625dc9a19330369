"""How long a rehearsed step would take on the card that was pretended: the kernels that the
script's own step launched, weighed by the same roofline as those of a predicted one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lora_profiler.catalog import Gpu
from lora_profiler.kernels import Gemm, Kernel, StepKernels
from lora_profiler.steptime import StepTime, constants_for, rates_of, time_of
from lora_profiler.steptime.roofline import Step

_NO_STEP = "the script ended before one more step could be looked at"
_INT8 = ("int8_linear_matmul", "int8_scaled_mm", "int8_mixed_scaled_mm", "_int_mm")


@dataclass(frozen=True, slots=True, kw_only=True)
class RehearsedTime:
    """`time` None, and the `reason`, where it is not told. It is predicted: nothing was timed.

    `tokens` of one step's inputs, `launches` of kernels and of BLAS as the stub libraries counted
    them. `products` are those that torch's dispatcher saw, of `library_calls` that BLAS and its
    like were asked for: where there are more of these, what they compute is not in the time.
    `by_bytes`: operators of other libraries, and Triton's kernels, which are priced by the bytes of
    their tensors alone; `left_out`: operators that are not priced at all.
    """

    time: StepTime | None
    reason: str = ""
    tokens: int = 0
    launches: int = 0
    products: int = 0
    library_calls: int = 0
    by_bytes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


def rehearsed_time(work: Mapping[str, Any] | None, gpu: Gpu) -> RehearsedTime:
    """`work`: of a rehearsal's document, None where it has none."""
    rates = rates_of(gpu)
    if rates is None:
        return RehearsedTime(time=None, reason=f"no source gives the peaks of {gpu.name}")
    if work is None:
        return RehearsedTime(time=None, reason=_NO_STEP)
    if "reason" in work:
        return RehearsedTime(time=None, reason=work["reason"])
    kernels, update = kernels_of(work["step"]), kernels_of(work["update"])
    if any(kernel.op in _INT8 for kernel in kernels):
        return RehearsedTime(time=None, reason="the time of products in int8 is not known")
    by_bytes = {*work["other_libraries"], *(k.op for k in kernels if k.op.startswith("triton"))}
    constants, likeness = constants_for(gpu)
    return RehearsedTime(
        time=time_of(
            rehearsed_step(work, kernels, update),
            rates,
            constants,
            likeness,
            stated_kernels=not by_bytes and not work["unread"],
        ),
        tokens=work["tokens"],
        launches=work["launches"] + work["library_calls"],
        products=sum(k.count for k in (*kernels, *update) if k.kind == "gemm"),
        library_calls=work["library_calls"],
        by_bytes=tuple(sorted(by_bytes)),
        left_out=tuple(sorted(work["unread"])),
    )


def rehearsed_step(
    work: Mapping[str, Any], kernels: Sequence[Kernel], update: Sequence[Kernel]
) -> Step:
    """All micro-batches as one: an operator's launches are counted, so that accumulation is in
    them."""
    micro = StepKernels(kernels=tuple(kernels), tokens=work["tokens"], trainable={})
    launches = work["launches"] + work["library_calls"] - work["update_launches"]
    return Step(
        micro=micro,
        accumulation=1,
        update_bytes=sum(kernel.count * kernel.moved_bytes for kernel in update),
        update_launches=work["update_launches"],
        more_launches=launches - micro.launches,
    )


def kernels_of(rows: Sequence[Mapping[str, Any]]) -> list[Kernel]:
    """Of "step" or "update" of a rehearsal's work."""
    found = []
    for row in rows:
        gemm = row["gemm"]
        sizes = None if gemm is None else Gemm(batches=gemm[0], m=gemm[1], n=gemm[2], k=gemm[3])
        kernel = Kernel(**{**row, "gemm": sizes}, phase="forward", module="")
        found.append(kernel)
        if kernel.op == "_softmax_backward_data":
            # CUDA's multiplies gradient and output first, below what a dispatcher sees (torch
            # `native/cuda/SoftMax.cu`, softmax_backward_cuda_out)
            found.append(replace(kernel, op="mul"))
    return found
