"""How long a step takes on a device: its kernels counted or traced, and the constants that the
device is known by."""

from collections.abc import Mapping
from contextlib import suppress
from typing import Literal, NamedTuple

from lora_profiler._common.packages import require
from lora_profiler.errors import LoraProfilerError, NoProfileError, UncountedError, UsageError
from lora_profiler.facts.catalog import Gpu, as_gpu
from lora_profiler.facts.evidence import MeasuredStep, nearest_step
from lora_profiler.memory.kernels import StepKernels
from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.engine import as_known, check_engine, on_card, predict, rules_know
from lora_profiler.question.support.check import UNTIMED, profile_unsupported_reason
from lora_profiler.question.workload import Workload
from lora_profiler.steptime import (
    Basis,
    Constants,
    Part,
    Rates,
    StepTime,
    constants_for,
    rates_of,
    step_time_at,
)
from lora_profiler.steptime.roofline import Step, check_base_timed, loaded


class TimedStep(NamedTuple):
    """The time of one optimizer step of `workload` on a device, the kernels of its micro-batch, and
    the FLOPs of the whole step.

    `evidence` is the public measurement most like it, None where the constants are this machine's
    own.
    """

    workload: Workload
    time: StepTime
    kernels: StepKernels
    flops: int
    evidence: MeasuredStep | None


class Timing(NamedTuple):
    """What is known of a step's time. `step` is None where nothing is, and `refusal` then says why
    in a sentence; else it is None."""

    step: TimedStep | None
    refusal: str | None


def step_time(
    workload: Workload,
    gpu: Gpu | str | None = None,
    engine: str = "auto",
    prediction: Prediction | None = None,
) -> Timing:
    """The time of a step of `workload` on `gpu`; without one, on this machine's processor where the
    workload's device is "cpu".

    Constants that `lora-profile calibrate` found on this machine come before the package's own,
    which are fitted to public measurements. The kernels are counted by rules, or read off a
    profile where no rule knows them; engine "traced" traces the step for them, which needs torch
    and takes some seconds. `prediction` is that of the same workload, where there is one already.

    Raises UsageError for an unknown engine, and what `predict` raises.

    Examples:
        >>> from lora_profiler import LoraConfig, TrainSetup, Workload, find_model, step_time
        >>> model = find_model("meta-llama/Llama-3.1-8B")
        >>> workload = Workload(model=model, setup=TrainSetup(lora=LoraConfig()))
        >>> round(step_time(workload, "a100_sxm_80gb").step.time.seconds, 1)
        0.6
    """
    check_engine(engine)
    gpu = None if gpu is None else as_gpu(gpu)
    workload = on_card(workload, gpu)
    if workload.setup.images is not None:
        return Timing(step=None, refusal=_NO_TOWERS)
    setup = workload.setup
    if setup.offload_embedding or (setup.offloads and not setup.offload_checkpoints):
        return Timing(step=None, refusal=_ON_THE_HOST)
    if setup.context_parallel_size > 1:
        return Timing(step=None, refusal=UNTIMED)
    device = device_for(workload, gpu)
    if device is None:
        return Timing(step=None, refusal=_NO_DEVICE if gpu is None else no_speed(gpu))
    try:
        check_base_timed(workload.setup)
    except UsageError as e:
        return Timing(step=None, refusal=str(e))
    try:
        kernels = kernels_of(workload, engine)
    except LoraProfilerError as e:
        hint = "" if engine == "traced" else f" {_TRACE_IT}"
        return Timing(step=None, refusal=f"the time of a step is not known: {e}{hint}")
    flops = (prediction or predict(workload, engine)).flops
    try:
        time = step_time_at(
            kernels,
            setup,
            device.rates,
            device.constants,
            device.basis,
            flops=flops,
            width=device.half_width,
        )
    except LoraProfilerError as e:
        return Timing(step=None, refusal=str(e))
    step = TimedStep(
        workload=workload,
        time=time,
        kernels=kernels,
        flops=setup.accumulation
        * (flops.total if flops else sum(k.count * k.flops for k in kernels.kernels)),
        evidence=_evidence(workload, gpu) if gpu and device.basis != "this machine" else None,
    )
    return Timing(step=step, refusal=None)


def is_timed(workload: Workload, gpu: Gpu | None) -> bool:
    """Whether there is a device to time: a card, or this machine's processor, measured and asked
    about."""
    return gpu is not None or device_for(workload, gpu) is not None


_NO_DEVICE = (
    "a step time needs a GPU: `--gpu rtx_4090`; for this CPU run `lora-profile calibrate`, then"
    " use --device cpu."
)
_NO_TOWERS = (
    "the time of a step with images is not known: no measured one was held against the kernels of a"
    " vision tower."
)
_ON_THE_HOST = (
    "step time with offloading to CPU is not known: it depends on the CPU and on the bus to it."
)
_TRACE_IT = "--engine traced traces the step for them, which needs torch."


def no_speed(gpu: Gpu) -> str:
    """Why no step is timed on a card of which `device_for` knows nothing."""
    return (
        f"the time of a step on {gpu.name} is not known: no source here gives its bandwidth and its"
        " peak in FLOP/s."
    )


class TimedDevice(NamedTuple):
    """What a step's time is worked out with: a device's rates and constants, where they come from,
    and half the interval's width as a share where they bring one of their own."""

    rates: Rates
    constants: Constants
    basis: Basis
    half_width: float | None = None


def device_for(workload: Workload, gpu: Gpu | None) -> TimedDevice | None:
    """What is known of the device: what was measured on this machine first, then what is known of
    cards like it."""
    if gpu is None and workload.setup.device != "cpu":
        return None
    from lora_profiler.steptime.fit import local_constants, local_cpu

    local = local_constants(gpu.key) if gpu else local_cpu()
    if local:
        return TimedDevice(
            rates=local.rates,
            constants=local.constants,
            basis="this machine",
            half_width=local.half_width,
        )
    rates = rates_of(gpu) if gpu else None
    if gpu is None or rates is None:
        return None
    constants, likeness = constants_for(gpu)
    return TimedDevice(rates=rates, constants=constants, basis=likeness)


def kernels_of(workload: Workload, engine: str) -> StepKernels:
    """The kernels of a micro-batch: traced, or counted by rules, or read off a profile where no
    rule knows them and there is one, or counted over an estimate of the layers.

    Raises UncountedError where nothing does, and what tracing raises.
    """
    if engine == "traced":
        require("tracing")
        from lora_profiler.trace.kernels import step_kernels

        return step_kernels(as_known(workload, engine))
    from lora_profiler.memory.analytic.kernels import counted_kernels

    if rules_know(workload):
        with suppress(UncountedError):
            return counted_kernels(workload)
    known = as_known(workload, "compiled")  # times are of more questions than peaks are
    if engine != "analytic" and not profile_unsupported_reason(known):
        from lora_profiler.memory.compiled.kernels import profile_kernels

        with suppress(NoProfileError):
            return profile_kernels(known)
    return counted_kernels(workload)


def _evidence(workload: Workload, gpu: Gpu) -> MeasuredStep:
    setup = workload.setup
    tokens = setup.batch_size * setup.seq_len * setup.accumulation
    return nearest_step(setup.method, gpu.key, workload.model.num_parameters, tokens)


class RunTime(NamedTuple):
    """Seconds of training, and the interval of the step's time carried over to all of it. Neither
    evaluation nor loading is among them."""

    seconds: float
    low: float
    high: float


def run_time(step: TimedStep, tokens: float, epochs: float = 1.0, sending: float = 0.0) -> RunTime:
    """The time of as many steps like `step` on all ranks as `epochs` passes over `tokens` take;
    tokens of padding count as tokens, and a last step that is not full as its share. `sending` is
    how many seconds of a step the ranks send: `seconds` and `low` hide them behind compute, `high`
    adds them.

    Examples:
        >>> from lora_profiler import LoraConfig, TrainSetup, Workload
        >>> from lora_profiler import find_gpu, find_model, step_time
        >>> workload = Workload(model=find_model("gpt2"), setup=TrainSetup(lora=LoraConfig()))
        >>> step = step_time(workload, find_gpu("rtx_4090")).step
        >>> found = run_time(step, 2048 * 1000)
        >>> round(found.seconds / step.time.seconds)
        1000
    """
    time = step.time
    of_step = time.tokens_per_second * time.seconds * step.workload.setup.batches_at_once
    steps = tokens * epochs / of_step
    return RunTime(
        seconds=steps * max(time.seconds, sending),
        low=steps * max(time.low, sending),
        high=steps * (time.high + sending),
    )


# --- why LoRA is not as much faster than full fine-tuning as its FLOPs suggest --------------------


Cause = Literal[
    "products", "adapter_products", "attention", "memory", "adapter_memory", "dequantise",
    "launches", "update", "besides",
]  # fmt: skip


class SpeedGap(NamedTuple):
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
    step = Step(micro=lora.kernels._replace(kernels=new), accumulation=accumulation, update_bytes=0)
    return accumulation * loaded(step, time.rates, time.constants.fixed).device_seconds(
        time.constants.eta, time.constants.beta
    )
