"""Seconds of a step on a card, with an interval, and where they go."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from lora_profiler.facts.catalog import Gpu
from lora_profiler.memory.kernels import StepKernels
from lora_profiler.memory.prediction import FlopCount
from lora_profiler.question.workload import TrainSetup
from lora_profiler.steptime.constants import (
    HOSTS,
    Constants,
    Likeness,
    Rates,
    constants_for,
    half_width,
    rates_of,
)
from lora_profiler.steptime.roofline import Part, Step, loaded, step_of

Basis = Likeness | Literal["this machine"]
"""Where the constants come from: measured on the machine at hand, or fitted to cards that are more
or less like the one asked."""
PARTS: tuple[Part, ...] = (
    "gemm",
    "attention_forward",
    "attention_backward",
    "memory",
    "dequantise",
    "launches",
    "update",
    "besides",
)
"""Where the time of a step goes."""


class StepTime(NamedTuple):
    """`low` and `high` hold the measured time nine times in ten, were it as far off as the public
    steps whose model or source was left out of the fit: as far below the fastest host's time and
    above the slowest's.

    `mfu` is that of `throughput.utilisation`: attention in full, recomputation left out; None
    without a FLOP count. `calibrated`: the constants were measured on this machine, or fitted to
    this very card. `share_of_host`: of a micro-batch's time, what launching its kernels alone would
    take; above a half, a faster card helps little. `by_kind`: seconds on the device, all
    micro-batches, and "update" and "besides".
    """

    seconds: float
    low: float
    high: float
    tokens_per_second: float
    mfu: float | None
    calibrated: bool
    likeness: Basis
    share_of_host: float
    by_kind: Mapping[Part, float]
    constants: Constants
    rates: Rates

    @property
    def parts(self) -> Mapping[Part, float]:
        """`by_kind`, and as "launches" what the device waits for the host: together `seconds`."""
        return {**self.by_kind, "launches": max(0.0, self.seconds - sum(self.by_kind.values()))}


def predict_step_time(
    kernels: StepKernels,
    card: Gpu,
    setup: TrainSetup,
    flops: FlopCount | None = None,
    constants: Constants | None = None,
) -> StepTime | None:
    """The time of one optimizer step of `setup`, whose micro-batch launches `kernels`; None where
    the card's peaks are not known.

    `constants` are those of the card where they were measured on it; else the package's own.
    `flops` are of one micro-batch.

    Raises UsageError for an optimizer whose update is not counted.
    """
    rates = rates_of(card)
    if rates is None:
        return None
    likeness: Likeness = "fitted"
    if constants is None:
        constants, likeness = constants_for(card)
    return step_time_at(kernels, setup, rates, constants, likeness, flops=flops)


def step_time_at(
    kernels: StepKernels,
    setup: TrainSetup,
    rates: Rates,
    constants: Constants,
    likeness: Basis,
    *,
    flops: FlopCount | None = None,
    width: float | None = None,
) -> StepTime:
    """The same on a device of known rates. `width` is half the interval's as a share, where the
    constants bring one of their own.

    Raises UsageError for an optimizer whose update is not counted.
    """
    time = time_of(
        step_of(kernels, setup),
        rates,
        constants,
        likeness,
        width,
        stated_kernels=not kernels.is_estimate,
    )
    return time._replace(mfu=_mfu(flops, setup, time.seconds, kernels, rates))


def time_of(
    step: Step,
    rates: Rates,
    constants: Constants,
    likeness: Basis,
    width: float | None = None,
    *,
    stated_kernels: bool = True,
) -> StepTime:
    """The same of a step whose kernels are known, whoever counted them; `stated_kernels`: all that
    compute are known to the roofline, and none by its bytes alone."""
    load = loaded(step, rates, constants.fixed)
    eta, beta = constants.eta, constants.beta
    seconds, micro = load.seconds(eta, beta), load.micro_seconds(eta, beta)
    hosts = 1.0  # this machine's own, where it was measured
    if width is None:
        like = "fitted" if likeness == "this machine" else likeness
        width, hosts = half_width(like, stated_kernels), HOSTS
    return StepTime(
        seconds=seconds,
        low=load.on_host(1 / hosts).seconds(eta, beta) / (1 + width),
        high=load.on_host(hosts).seconds(eta, beta) / (1 - width),
        tokens_per_second=step.tokens / seconds,
        mfu=None,
        calibrated=likeness in ("this machine", "fitted"),
        likeness=likeness,
        share_of_host=load.host / micro,
        by_kind=load.by_part(eta, beta),
        constants=constants,
        rates=rates,
    )


def _mfu(
    flops: FlopCount | None, setup: TrainSetup, seconds: float, kernels: StepKernels, rates: Rates
) -> float | None:
    """Against the peak of the dtype of most products."""
    if flops is None:
        return None
    wide = sum(k.count * k.flops for k in kernels.kernels if k.dtype == "float32")
    peak = (
        rates.fp32_flops
        if 2 * wide > sum(k.count * k.flops for k in kernels.kernels)
        else rates.tensor_flops
    )
    return setup.accumulation * (flops.forward + flops.backward) / (seconds * peak)
