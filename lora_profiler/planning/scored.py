"""Records beside what is predicted of them: one prediction for each distinct workload, however many records share it."""

from collections.abc import Iterable
from dataclasses import dataclass

from lora_profiler.compare import Comparison, compare
from lora_profiler.errors import LoraProfilerError
from lora_profiler.planning.engine import check_engine, predict
from lora_profiler.prediction import Prediction
from lora_profiler.record import Record
from lora_profiler.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One record, what is predicted of its workload, and the two joined.

    `prediction` is None where the workload could not be predicted, and `refusal` then says why in a sentence; else it is None.
    """

    record: Record
    prediction: Prediction | None
    refusal: str | None
    comparisons: tuple[Comparison, ...]


def scored(records: Iterable[Record], engine: str = "auto") -> list[Scored]:
    """Every record in the order given. A workload that cannot be predicted is a refusal and spoils no other.

    Nothing is traced: "traced" takes the profiles that are there, as "compiled" does. Raises UsageError for an unknown engine.
    """
    check_engine(engine)
    answerer = "compiled" if engine == "traced" else engine
    answers: dict[Workload, Prediction | str] = {}
    found = []
    for record in records:
        workload = record.workload
        if workload not in answers:
            answers[workload] = _answer(workload, answerer)
        answer = answers[workload]
        if isinstance(answer, str):
            found.append(Scored(record=record, prediction=None, refusal=answer, comparisons=()))
        else:
            found.append(Scored(record=record, prediction=answer, refusal=None, comparisons=compare(record, answer)))
    return found


def _answer(workload: Workload, engine: str) -> Prediction | str:
    try:
        return predict(workload, engine)
    except LoraProfilerError as e:
        return str(e)
