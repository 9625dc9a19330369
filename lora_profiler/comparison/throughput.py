"""Step times, tokens and joules of one record, per second and per token."""

from dataclasses import dataclass

from lora_profiler.comparison.percentiles import Spread, spread
from lora_profiler.records.record import Measurement, Record
from lora_profiler.records.statistics import half_width_limit

MIN_STEPS = 10
SD_LIMIT, EXTREME_LIMIT, DRIFT_LIMIT = 0.10, 0.50, 0.01
"""Warnings: standard deviation and extremes against the mean, drift a step."""
HOST_BOUND_LIMIT = 0.02
MIN_ENERGY_SECONDS = 10.0
"""The driver's counter moves in steps of about 0.1 s; a shorter block says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyUse:
    """Joules per padded token: all that the device took, and what it took above idling in the same
    warm process."""

    gross_joules_per_token: float
    net_joules_per_token: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Speed of one record: what its steps took and what went through them in a median step.

    Token rates: padded (batch x length), those that are no padding, those whose label counts.
    `host_bound`: the timed block took 2 % longer, or shorter, by the host's clock than the device's
    events say; None on a CPU, where there is one clock only.

    Examples:
        >>> from pathlib import Path
        >>> from lora_profiler import Store, throughput
        >>> path = Path("benchmarks/records/cpu-epyc/cpu_families.jsonl")
        >>> record = Store(path).records()[0]
        >>> throughput(record).steps.n
        14
    """

    record_id: str
    steps: Spread
    steps_per_second: float
    samples_per_second: float
    tokens_per_second: float | None
    nonpad_tokens_per_second: float | None
    supervised_tokens_per_second: float | None
    host_bound: bool | None
    energy: EnergyUse | None
    warnings: tuple[str, ...]


def throughput(record: Record) -> Throughput | None:
    """The speed of a run that went through and was timed, None for any other and where a step is
    said to have taken no time.

    Examples:
        >>> from pathlib import Path
        >>> from lora_profiler import Store, throughput
        >>> path = Path("benchmarks/records/cpu-epyc/cpu_families.jsonl")
        >>> record = Store(path).records()[0]
        >>> round(throughput(record).tokens_per_second)
        895
    """
    measurement, setup = record.measurement, record.workload.setup
    if not measurement.went_through or min(measurement.step_seconds, default=0.0) <= 0:
        return None
    steps = spread(measurement.step_seconds)

    def rate(count: int | None) -> float | None:
        return None if count is None else count / steps.median

    kind = record.environment.device.kind
    return Throughput(
        record_id=record.id,
        steps=steps,
        steps_per_second=1 / steps.median,
        samples_per_second=setup.batch_size * setup.accumulation / steps.median,
        tokens_per_second=rate(measurement.tokens_per_step),
        nonpad_tokens_per_second=rate(measurement.nonpad_tokens_per_step),
        supervised_tokens_per_second=rate(measurement.supervised_tokens_per_step),
        host_bound=None if kind == "cpu" else _host_bound(measurement),
        energy=_energy(measurement),
        warnings=_warnings(steps, half_width_limit(kind)),
    )


def _host_bound(measurement: Measurement) -> bool | None:
    block = measurement.block_seconds
    if not block:
        return None
    return abs(block - sum(measurement.step_seconds)) > HOST_BOUND_LIMIT * block


def _energy(measurement: Measurement) -> EnergyUse | None:
    energy, tokens = measurement.energy, measurement.tokens_per_step
    if energy is None or not tokens or not energy.steps or energy.seconds < MIN_ENERGY_SECONDS:
        return None
    idle = (
        energy.idle_joules / energy.idle_seconds * energy.seconds if energy.idle_seconds else None
    )
    tokens *= energy.steps
    return EnergyUse(
        gross_joules_per_token=energy.joules / tokens,
        net_joules_per_token=None if idle is None else (energy.joules - idle) / tokens,
    )


def _warnings(steps: Spread, half_width_limit: float) -> tuple[str, ...]:
    """What makes the median doubtful, a clause each."""
    warnings = []
    if steps.n < MIN_STEPS:
        warnings.append(f"only {steps.n} of at least {MIN_STEPS} steps were timed")
    if steps.sd is not None and steps.sd >= SD_LIMIT * steps.mean:
        warnings.append(
            f"the standard deviation is {100 * steps.sd / steps.mean:.0f} % of the mean"
        )
    for name, value in (("shortest", steps.smallest), ("longest", steps.largest)):
        off = value / steps.mean - 1
        if abs(off) >= EXTREME_LIMIT:
            warnings.append(
                f"the {name} step is {100 * abs(off):.0f} % {'below' if off < 0 else 'above'} the"
                " mean"
            )
    if steps.relative_half_width > half_width_limit:
        width, limit = 100 * steps.relative_half_width, 100 * half_width_limit
        warnings.append(
            f"the median's interval is +-{width:.1f} % wide, where {limit:g} % is the aim"
        )
    if steps.drift is not None and abs(steps.drift) >= DRIFT_LIMIT:
        warnings.append(
            f"step times {'rise' if steps.drift > 0 else 'fall'} by {100 * abs(steps.drift):.1f} %"
            " a step"
        )
    return tuple(warnings)
