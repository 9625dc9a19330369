"""Why LoRA is not as much faster than full fine-tuning as its FLOPs suggest: what each kind of
kernel adds to its time."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from lora_profiler.planning.timing import TimedStep
from lora_profiler.steptime import Part
from lora_profiler.steptime.roofline import Step, loaded

Cause = Literal[
    "products", "adapter_products", "attention", "memory", "adapter_memory", "dequantise",
    "launches", "update", "besides",
]  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedGap:
    """A step with adapters beside full fine-tuning of the same model and sizes.

    `seconds` are its own, `flops_ratio` and `seconds_ratio` shares of full's. `gap_seconds`: how
    much longer the step takes than full's time times `flops_ratio`, which is what it would take if
    time went with FLOPs. `causes` add up to it; each is what the step spends on something beyond
    `flops_ratio` times what full spends on it, below 0 where it saves more than FLOPs.

    products, attention: those that both have. adapter_products: those of sizes that full has none
    of. memory: kernels that move bytes and multiply nothing, as many as full has; adapter_memory:
    what there are more (casts, dropout, scaled sums) or fewer. launches: waiting for the host.
    besides: what a step takes whatever it computes.
    """

    seconds: float
    flops_ratio: float
    seconds_ratio: float
    gap_seconds: float
    causes: Mapping[Cause, float]


def speed_gap(full: TimedStep, lora: TimedStep) -> SpeedGap:
    """Both on the same device, and with the same micro-batches."""
    ratio = lora.flops / full.flops
    mine, theirs = lora.time.parts, full.time.parts
    adapters = _seconds_of_new_products(full, lora)

    def beyond(*parts: Part) -> float:
        return sum(mine.get(part, 0.0) - ratio * theirs.get(part, 0.0) for part in parts)

    copies = theirs.get("memory", 0.0)
    causes: dict[Cause, float] = {
        "products": beyond("gemm") - adapters,
        "adapter_products": adapters,
        "attention": beyond("attention_forward", "attention_backward"),
        "memory": copies - ratio * copies,
        "adapter_memory": mine.get("memory", 0.0) - copies,
        "dequantise": beyond("dequantise"),
        "launches": beyond("launches"),
        "update": beyond("update"),
        "besides": beyond("besides"),
    }
    return SpeedGap(
        seconds=lora.time.seconds,
        flops_ratio=ratio,
        seconds_ratio=lora.time.seconds / full.time.seconds,
        gap_seconds=lora.time.seconds - ratio * full.time.seconds,
        causes=causes,
    )


def _seconds_of_new_products(full: TimedStep, lora: TimedStep) -> float:
    """Of the products in `lora` of sizes that `full` has none of: the adapters', one of whose sides
    is the rank."""
    known = {kernel.gemm for kernel in full.kernels.kernels if kernel.kind == "gemm"}
    new = tuple(
        kernel
        for kernel in lora.kernels.kernels
        if kernel.kind == "gemm" and kernel.gemm not in known
    )
    accumulation, time = lora.workload.setup.accumulation, lora.time
    step = Step(micro=replace(lora.kernels, kernels=new), accumulation=accumulation, update_bytes=0)
    return accumulation * loaded(step, time.rates, time.constants.fixed).device_seconds(
        time.constants.eta, time.constants.beta
    )
