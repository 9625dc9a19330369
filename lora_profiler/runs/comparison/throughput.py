"""How fast one record's run went: step times with how they scatter (median and its interval, mean,
quantiles, deviations, drift), tokens and joules per second and per token, and MFU and HFU, the
FLOPs of a step against what the card could do in the same time."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, stdev

from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import Gpu, match_device
from lora_profiler.measuring.records.checks import half_width_limit, median_interval
from lora_profiler.measuring.records.record import REHEARSED, Device, Measurement, Record
from lora_profiler.memory.prediction import FlopCount
from lora_profiler.question.workload import TrainSetup

MOST_POINTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSpread:
    """Statistics of samples in their own unit. `low` and `high` are the 95 % interval of the median
    (`samples.median_interval`).

    `mad` is the median absolute deviation from the median, unscaled; `sd` the sample standard
    deviation, None for one sample. `drift` is the Theil-Sen slope over the order of the samples as
    a share of the median: 0.01 is 1 % more each step.
    """

    n: int
    median: float
    low: float
    high: float
    mean: float
    p10: float
    p20: float
    p80: float
    p90: float
    mad: float
    sd: float | None
    smallest: float
    largest: float
    drift: float | None

    @property
    def relative_half_width(self) -> float:
        return (self.high - self.low) / 2 / self.median


def spread(samples: Sequence[float]) -> SampleSpread:
    """The spread of at least one positive sample. Raises ValueError for none."""
    low, middle, high = median_interval(samples)
    ordered = sorted(samples)
    return SampleSpread(
        n=len(samples),
        median=middle,
        low=low,
        high=high,
        mean=sum(samples) / len(samples),
        p10=quantile(ordered, 0.1),
        p20=quantile(ordered, 0.2),
        p80=quantile(ordered, 0.8),
        p90=quantile(ordered, 0.9),
        mad=median(abs(x - middle) for x in samples),
        sd=stdev(samples) if len(samples) > 1 else None,
        smallest=ordered[0],
        largest=ordered[-1],
        drift=slope(samples) / middle if len(samples) > 1 else None,
    )


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of sorted samples lie, between two of them in proportion
    (numpy's "linear")."""
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def slope(samples: Sequence[float]) -> float:
    """Theil-Sen slope per sample of at least two: the median of the slopes between all pairs, which
    outliers hardly move.

    More than MOST_POINTS samples are first gathered into medians of equally many, since the pairs
    grow with the square.
    """
    size = -(-len(samples) // MOST_POINTS)
    points = [median(samples[i : i + size]) for i in range(0, len(samples) - size + 1, size)]
    return (
        median(
            (b - a) / (j - i)
            for i, a in enumerate(points)
            for j, b in enumerate(points[i + 1 :], i + 1)
        )
        / size
    )


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
        >>> from lora_profiler import Store
        >>> from lora_profiler.runs.comparison.throughput import throughput
        >>> path = Path("benchmarks/records/cpu-epyc/cpu_families.jsonl")
        >>> record = Store(path).records()[0]
        >>> throughput(record).steps.n
        14
    """

    record_id: str
    steps: SampleSpread
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
        >>> from lora_profiler import Store
        >>> from lora_profiler.runs.comparison.throughput import throughput
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


def _warnings(steps: SampleSpread, half_width_limit: float) -> tuple[str, ...]:
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


WHOLE_CARD = (None, "off")
"""What `record.Device.mig` says of a device that is no slice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Utilisation:
    """Shares of the card's dense peak, at most 1. All count attention in full, not only its causal
    half.

    `mfu`: FLOPs that the method needs, forward and backward; `hfu`: with what checkpointing
    computes again. LoRA needs fewer FLOPs than full fine-tuning, so their MFU are not comparable:
    `mfu_full_equivalent` is the MFU that full fine-tuning would have at the same tokens per second
    (6 FLOPs a token and matrix weight), None where it was not asked for.
    """

    card: Gpu
    peak_flops: float
    mfu: float
    hfu: float
    mfu_full_equivalent: float | None


def card_of(device: Device) -> Gpu | None:
    """The whole card that a record's device is, None for processors, slices, pretended cards and
    those that the catalogue does not know."""
    if device.kind in ("cpu", REHEARSED) or device.mig not in WHOLE_CARD:
        return None
    return match_device(device.name, device.total_bytes)


def peak_flops(card: Gpu, setup: TrainSetup) -> float | None:
    """Dense peak in FLOP/s of the dtype in which the model's matrices are multiplied, None where no
    source gives it.

    bfloat16 under autocast. float32 is float32 itself, since torch leaves TF32 off; float32
    adapters are too small a part to change the peak that counts.
    """
    dtype = "bfloat16" if setup.precision != "pure" else setup.dtype
    tflops = {
        "float32": card.fp32_tflops,
        "float16": card.fp16_dense_tflops,
        "bfloat16": card.bf16_dense_tflops,
    }[dtype]
    return None if tflops is None else tflops * 1e12


def share_of_peak(flops: int, seconds: float, peak: float) -> float:
    """`flops` done in `seconds` as a share of `peak` FLOP/s."""
    return flops / (seconds * peak)


def utilisation(
    record: Record, flops: FlopCount | None, full_flops: FlopCount | None = None
) -> Utilisation | None:
    """The utilisation of a timed run, None where the time, the FLOPs or the card's peak are not
    known.

    `flops` are those of one micro-batch of the record's workload, `full_flops` those of full
    fine-tuning with the same sizes.
    """
    speed, card = throughput(record), card_of(record.environment.device)
    peak = peak_flops(card, record.workload.setup) if card else None
    if speed is None or flops is None or card is None or peak is None:
        return None
    micro_batch_seconds = speed.steps.median / record.workload.setup.accumulation
    return Utilisation(
        card=card,
        peak_flops=peak,
        mfu=share_of_peak(_model_flops(flops), micro_batch_seconds, peak),
        hfu=share_of_peak(flops.total, micro_batch_seconds, peak),
        mfu_full_equivalent=(
            share_of_peak(_model_flops(full_flops), micro_batch_seconds, peak)
            if full_flops
            else None
        ),
    )


def _model_flops(flops: FlopCount) -> int:
    """Without recomputation by checkpointing. What a fused attention kernel computes again in
    backward is still in it: half of attention's forward FLOPs, which no field of FlopCount keeps
    apart."""
    return flops.forward + flops.backward


# --- paired runs ----------------------------------------------------------------------------------


RESAMPLES = 2000
SEED = 20_210_617
CONFIDENCE = 0.95
MOST_STEPS = 500
"""Of longer runs every so many-th step is drawn from: the interval comes out wider, never narrower,
and in about a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """Median step time of `b` over that of `a`: 0.8 means that b takes 80 % of a's time. `low` and
    `high` are a 95 % interval.

    `processes` are the records on either side, and `steps` the timed steps. With one process each,
    the interval knows nothing of how runs differ; with fewer than LEAST_SAMPLES steps it is not
    one of 95 %.
    """

    case_a: str
    case_b: str
    ratio: float
    low: float
    high: float
    processes: tuple[int, int]
    steps: tuple[int, int]


def full_against_lora(records_a: Sequence[Record], records_b: Sequence[Record]) -> Ratio:
    """The ratio of medians over all steps of each side; records of one case each, from one device
    and one environment.

    The interval is a percentile bootstrap (B. Efron, Annals of Statistics 7, 1979): whole records
    are drawn again, then steps within each, with a fixed seed. Raises UsageError for records that
    cannot be compared, with the reason.
    """
    _check(records_a, records_b)
    a, b = ([r.measurement.step_seconds for r in records] for records in (records_a, records_b))
    some_a, some_b = ([run[:: -(-len(run) // MOST_STEPS)] for run in runs] for runs in (a, b))
    draw = random.Random(SEED)
    ratios = sorted(
        _drawn_median(some_b, draw) / _drawn_median(some_a, draw) for _ in range(RESAMPLES)
    )
    outside = round((1 - CONFIDENCE) / 2 * RESAMPLES)
    return Ratio(
        case_a=records_a[0].case_key,
        case_b=records_b[0].case_key,
        ratio=_median(b) / _median(a),
        low=ratios[outside],
        high=ratios[-1 - outside],
        processes=(len(a), len(b)),
        steps=(sum(map(len, a)), sum(map(len, b))),
    )


def _median(runs: Sequence[Sequence[float]]) -> float:
    return median(seconds for run in runs for seconds in run)


def _drawn_median(runs: Sequence[Sequence[float]], draw: random.Random) -> float:
    return _median([draw.choices(run, k=len(run)) for run in draw.choices(runs, k=len(runs))])


def _check(records_a: Sequence[Record], records_b: Sequence[Record]) -> None:
    for side in (records_a, records_b):
        if not side:
            raise UsageError("A comparison of step times needs at least one record on each side.")
        cases = sorted({r.case_key for r in side})
        if len(cases) > 1:
            raise UsageError(
                f"Records of several cases stand on one side: {', '.join(cases)}. Give those of one"
                " case."
            )
    records = [*records_a, *records_b]
    for r in records:
        if not r.measurement.went_through or min(r.measurement.step_seconds, default=0.0) <= 0:
            raise UsageError(
                f"{r.id} ({r.measurement.status}) has no step times to compare; leave it out."
            )
    if len({r.environment.device.uuid_hash for r in records}) > 1:
        raise UsageError(
            "The records come from different devices; GPUs of one model differ by 5 % and more."
            " Run both on one."
        )
    if len({r.environment.key for r in records}) > 1:
        raise UsageError(
            "The records come from different environments (software, device or threads). Run both"
            " in one."
        )
    tokens = sorted({str(r.measurement.tokens_per_step) for r in records})
    if len(tokens) > 1:
        raise UsageError(
            f"The records' steps differ in tokens ({', '.join(tokens)}), so their times cannot be"
            " compared."
        )
