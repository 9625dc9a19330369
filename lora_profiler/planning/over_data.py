"""What data say of a way to train: memory is that of the worst batch, time that of the average
one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lora_profiler.errors import NoProfileError, UsageError
from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.engine import engine_for_search, peak_bytes_checked, resized
from lora_profiler.question.batching.batches import Batches, Batching, batches_of
from lora_profiler.question.batching.sample_lengths import SampleLengths
from lora_profiler.question.workload import TrainSetup, Workload

if TYPE_CHECKING:
    from lora_profiler.facts.catalog import Gpu
    from lora_profiler.planning.fit import Fit
    from lora_profiler.planning.timing import TimedStep, Timing

TIMED_PARTS = 4
"""Quarters of an epoch, by length, each timed at its mean length: a step's time is nearly linear in
the length within one. `tests/planning/test_over_data.py` holds them against every length."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingData:
    """The lengths of samples, and how a trainer makes batches of them.

    `max_length` is where samples are cut; None cuts none, and packs into rows of the setup's own
    sequence length. `epochs` is how often the data are gone through, None where nobody asked.

    Examples:
        >>> from lora_profiler import TrainingData, TrainSetup, Workload
        >>> from lora_profiler.planning.answers import answers
        >>> from lora_profiler import find_model, lengths_of
        >>> data = TrainingData(lengths=lengths_of([100, 200, 300, 400]))
        >>> workload = Workload(model=find_model("gpt2"), setup=TrainSetup(batch_size=2))
        >>> (answer,) = answers([workload], data=data)
        >>> answer.over_data.worst.seq_len, answer.prediction.workload.setup.seq_len
        (400, 400)
    """

    lengths: SampleLengths
    batching: Batching = "random"
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    epochs: float | None = None

    def batches(self, setup: TrainSetup) -> Batches:
        """Raises UsageError for a setup that has lengths of its own."""
        if setup.is_padded:
            raise UsageError("how much is padded follows from the data; leave --padding out.")
        if setup.packed is not None:
            raise UsageError(
                "how long packed sequences are follows from the data; leave --packed out and take"
                " --batching packed."
            )
        max_length = self.max_length
        if max_length is None and self.batching.startswith("packed"):
            max_length = setup.seq_len
        return batches_of(
            self.lengths,
            batching=self.batching,
            batch_size=setup.batch_size,
            max_length=max_length,
            pad_to_multiple_of=self.pad_to_multiple_of,
            accumulation=setup.accumulation,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPeak:
    """One shape of batch: rows and their length, its steady-state peak, None where the engine knows
    no other size than the worst, and how many as long as this an epoch is expected to have."""

    batch_size: int
    seq_len: int
    peak_bytes: int | None
    expected_per_epoch: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OverData:
    """The epoch of one workload. `worst` is the longest batch that can occur, of which the
    prediction and the verdict are; `median` the one that half of the batches do not exceed.

    Examples:
        >>> from lora_profiler import TrainingData, TrainSetup, Workload
        >>> from lora_profiler import find_model
        >>> from lora_profiler.question.batching.data import read_lengths
        >>> from lora_profiler.planning.answers import answers
        >>> workload = Workload(model=find_model("gpt2"), setup=TrainSetup(batch_size=4))
        >>> data = TrainingData(lengths=read_lengths("mean=200,max=800"))
        >>> answers([workload], data=data)[0].over_data.worst.seq_len
        800
    """

    data: TrainingData
    batches: Batches
    worst: BatchPeak
    median: BatchPeak
    steps_per_epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LongSamples:
    """The few samples that alone keep a workload from fitting: how many, and the length to cut all
    at so that it fits for certain."""

    samples: int
    seq_len: int


FEW = 0.05
"""Of the samples: where more are too long, they are no outliers."""


def long_samples(epoch: OverData, fit: "Fit") -> LongSamples | None:
    """None where it fits, where no length does or none is known, and for packed rows, which are of
    one length whatever the samples are."""
    data = epoch.data
    if fit.verdict == "fits" or not fit.longest_seq_len or data.batching.startswith("packed"):
        return None
    longest = fit.longest_seq_len - fit.longest_seq_len % (data.pad_to_multiple_of or 1)
    longer = sum(count for length, count in data.lengths.counts.items() if length > longest)
    if not longest or longer > FEW * data.lengths.num_samples:
        return None
    return LongSamples(samples=longer, seq_len=longest)


def batches_for(workloads: Sequence[Workload], data: TrainingData) -> list[Batches]:
    """Those of each workload; workloads of the same sizes share them."""
    made: dict[tuple[int, int, int], Batches] = {}
    for workload in workloads:
        sizes = _sizes(workload.setup)
        if sizes not in made:
            made[sizes] = data.batches(workload.setup)
    return [made[_sizes(workload.setup)] for workload in workloads]


def _sizes(setup: TrainSetup) -> tuple[int, int, int]:
    return setup.batch_size, setup.seq_len, setup.accumulation


def worst_batch(workload: Workload, batches: Batches) -> Workload:
    """`workload` at the longest batch that can occur."""
    return replace(workload, setup=_at(workload.setup, batches, batches.longest))


def _at(setup: TrainSetup, batches: Batches, length: int) -> TrainSetup:
    return replace(
        setup,
        batch_size=batches.batch_size,
        seq_len=length,
        packed=batches.packed,
        padding=batches.padding,
    )


def over_data(
    prediction: Prediction, data: TrainingData, batches: Batches, engine: str
) -> OverData:
    """The epoch of the workload of `prediction`, which is that of its worst batch."""
    setup = prediction.workload.setup
    ranks = setup.batches_at_once

    def shape(length: int, peak: int | None) -> BatchPeak:
        return BatchPeak(
            batch_size=batches.batch_size,
            seq_len=length,
            peak_bytes=peak,
            expected_per_epoch=batches.counts[length],
        )

    return OverData(
        data=data,
        batches=batches,
        worst=shape(batches.longest, prediction.peak.total_bytes),
        median=shape(batches.median, _peak(prediction, batches, batches.median, engine)),
        steps_per_epoch=math.ceil(batches.num_batches / (setup.accumulation * ranks)),
    )


def _peak(prediction: Prediction, batches: Batches, length: int, engine: str) -> int | None:
    workload, answerer = prediction.workload, engine_for_search(prediction, engine)
    try:
        setup = _at(workload.setup, batches, length)
        return peak_bytes_checked(resized(workload, setup, answerer), answerer)
    except NoProfileError:  # traced at exactly the worst batch
        return None


def mean_timing(workload: Workload, batches: Batches, gpu: "Gpu | None", engine: str) -> "Timing":
    """The time of a step, averaged over the batches of an epoch; what else is told of it is that of
    a batch about as long as the mean."""
    from lora_profiler.planning.timing import Timing, step_time

    parts = batches.parts(TIMED_PARTS)
    steps: list[TimedStep] = []
    for length, _ in parts:
        sized = resized(workload, _at(workload.setup, batches, length), engine)
        timing = step_time(sized, gpu, engine)
        if timing.step is None:
            return timing
        steps.append(timing.step)
    return Timing(step=_averaged(steps, *zip(*parts, strict=True)), refusal=None)


def _averaged(
    steps: "Sequence[TimedStep]", lengths: Sequence[int], shares: Sequence[float]
) -> "TimedStep":
    mean_length = sum(length * share for length, share in zip(lengths, shares, strict=True))
    nearest = min(range(len(steps)), key=lambda n: abs(lengths[n] - mean_length))
    times = [step.time for step in steps]
    seconds = [share * time.seconds for time, share in zip(times, shares, strict=True)]
    total = sum(seconds)

    def mean(values: Sequence[float], weights: Sequence[float] = shares) -> float:
        return sum(v * w for v, w in zip(values, weights, strict=True)) / sum(weights)

    utilisations = [time.mfu for time in times if time.mfu is not None]
    time = times[nearest]._replace(
        seconds=total,
        low=mean([time.low for time in times]),
        high=mean([time.high for time in times]),
        tokens_per_second=mean([time.tokens_per_second for time in times], seconds),
        mfu=mean(utilisations, seconds) if len(utilisations) == len(times) else None,
        share_of_host=mean([time.share_of_host for time in times], seconds),
        by_kind={
            part: mean([time.by_kind.get(part, 0.0) for time in times])
            for part in dict.fromkeys(part for time in times for part in time.by_kind)
        },
    )
    flops = round(mean([step.flops for step in steps]))
    return steps[nearest]._replace(time=time, flops=flops)
