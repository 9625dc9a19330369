"""Records beside what is predicted of them: one prediction for each distinct workload, however many
records share it; and a record beside everything else that is worked out from it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lora_profiler._common.process import collector_paused
from lora_profiler.errors import LoraProfilerError
from lora_profiler.measuring.records.record import Record
from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.engine import check_engine, predict
from lora_profiler.question.workload import Workload
from lora_profiler.runs.comparison.errors import Claims, Comparison, claims, compare
from lora_profiler.runs.comparison.throughput import (
    Throughput,
    Utilisation,
    card_of,
    throughput,
    utilisation,
)

if TYPE_CHECKING:
    from lora_profiler.planning.timing import Timing


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One record, what is predicted of its workload, and the two joined.

    `prediction` is None where the workload could not be predicted, and `refusal` then says why in a
    sentence; else it is None.
    """

    record: Record
    prediction: Prediction | None
    refusal: str | None
    comparisons: tuple[Comparison, ...]


def scored(records: Iterable[Record], engine: str = "auto") -> list[Scored]:
    """Every record in the order given. A workload that cannot be predicted is a refusal and spoils
    no other.

    Nothing is traced: "traced" takes the profiles that are there, as "compiled" does. Raises
    UsageError for an unknown engine.
    """
    check_engine(engine)
    answerer = "compiled" if engine == "traced" else engine
    answers: dict[Workload, _Answer] = {}
    rows = []
    with collector_paused():
        for record in records:
            answer = answers.get(record.workload)
            if answer is None:
                answer = answers[record.workload] = _answer(record.workload, answerer)
            rows.append(answer.scored(record))
    return rows


class _Answer:
    """Of one workload. What it claims is worked out with the first run that went through: on CUDA
    that can take a while."""

    def __init__(self, prediction: Prediction | None, refusal: str | None) -> None:
        self._prediction, self._refusal = prediction, refusal
        self._claims: Claims | None = None

    def scored(self, record: Record) -> Scored:
        comparisons: tuple[Comparison, ...] = ()
        if self._prediction is not None and record.measurement.went_through:
            if self._claims is None:
                self._claims = claims(self._prediction)
            comparisons = self._claims.against(record)
        return Scored(
            record=record,
            prediction=self._prediction,
            refusal=self._refusal,
            comparisons=comparisons,
        )


def _answer(workload: Workload, engine: str) -> _Answer:
    try:
        return _Answer(predict(workload, engine, may_trace=False), None)
    except LoraProfilerError as e:
        return _Answer(None, str(e))


# --- a record with everything that is worked out from it ------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One record and what it says; `speed`, `utilisation` and `timing` are None where nothing was
    timed, these two also where the card is unknown."""

    record: Record
    prediction: Prediction
    comparisons: tuple[Comparison, ...]
    speed: Throughput | None
    utilisation: Utilisation | None
    timing: "Timing | None"


def result(record: Record, prediction: Prediction) -> Result:
    from lora_profiler.planning.timing import step_time

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
