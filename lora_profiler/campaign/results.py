"""A record beside everything that is worked out from it: prediction, errors, speed, utilisation,
predicted time."""

from dataclasses import dataclass, replace

from lora_profiler.comparison.errors import Comparison, compare
from lora_profiler.comparison.throughput import (
    Throughput,
    Utilisation,
    card_of,
    throughput,
    utilisation,
)
from lora_profiler.planning.engine import predict
from lora_profiler.planning.timing import Timing, step_time
from lora_profiler.prediction import Prediction
from lora_profiler.records.record import Record


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One record and what it says; `speed`, `utilisation` and `timing` are None where nothing was
    timed, these two also where the card is unknown."""

    record: Record
    prediction: Prediction
    comparisons: tuple[Comparison, ...]
    speed: Throughput | None
    utilisation: Utilisation | None
    timing: Timing | None


def result(record: Record, prediction: Prediction) -> Result:
    """`prediction` is that of `record.workload`."""
    speed, card = throughput(record), card_of(record.environment.device)
    return Result(
        record=record,
        prediction=prediction,
        comparisons=compare(record, prediction),
        speed=speed,
        utilisation=_utilisation(record, prediction),
        timing=step_time(record.workload, card, prediction=prediction) if speed and card else None,
    )


def _utilisation(record: Record, prediction: Prediction) -> Utilisation | None:
    own = utilisation(record, prediction.flops)
    setup = record.workload.setup
    if own is None or setup.lora is None or setup.images is not None:
        return own
    full = predict(
        replace(record.workload, setup=replace(setup, lora=None, quantization=None)),
        may_trace=False,
    )
    return utilisation(record, prediction.flops, full.flops)
