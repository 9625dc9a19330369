"""Cases with their predictions, made before anything runs, so that a wrong question costs no
time."""

from collections.abc import Sequence
from dataclasses import dataclass

from lora_profiler.measuring.harness import Case, MeasurementError
from lora_profiler.measuring.harness.preflight import refuse, refuse_on_this_machine
from lora_profiler.measuring.harness.pretended import Pretended
from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.engine import predict
from lora_profiler.question.workload import Workload
from lora_profiler.units import bytes_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A case that can be started, and what is predicted of it."""

    case: Case
    prediction: Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedCase:
    """A case that this machine or installation cannot run, and why."""

    case: Case
    reason: str


def _predicted(workload: Workload) -> Prediction:
    """What profiles and rules say, but for images, of which a trace alone says anything."""
    return predict(workload, may_trace=workload.setup.images is not None)


def planned(case: Case, pretended: Pretended | None = None) -> Planned:
    """`case` with its prediction. Raises what `preflight.refuse_on_this_machine` and the predictor
    raise."""
    refuse_on_this_machine(case.workload, case.conditions, pretended)
    return Planned(case=case, prediction=_predicted(case.workload))


def planned_for_cluster(case: Case) -> Planned:
    """`planned` for a case that other machines run: what this one lacks is no reason to refuse it.
    Raises UsageError."""
    refuse(case.workload, case.conditions, installed=lambda name: name, capability=lambda: None)
    return Planned(case=case, prediction=_predicted(case.workload))


def sorted_out(
    cases: Sequence[Case], memory_bytes: int | None
) -> tuple[list[Planned], list[RefusedCase]]:
    """Those of many cases that can be started here, and those that cannot: a suite is made for more
    than one machine.

    `memory_bytes` is the machine's. Raises UsageError for a case that no machine could run.
    """
    able: list[Planned] = []
    unable: list[RefusedCase] = []
    for case in cases:
        try:
            plan = planned(case)
            refuse_beyond(memory_bytes, [plan])
            able.append(plan)
        except MeasurementError as e:
            unable.append(RefusedCase(case=case, reason=str(e)))
    return able, unable


def refuse_beyond(memory_bytes: int | None, cases: Sequence[Planned]) -> None:
    """Raises MeasurementError for a case on the CPU that needs more than the machine's memory by
    its prediction.

    There it would end by the operating system's choice, and perhaps another program with it. A
    budget ends a run in time, but the weights must have room all the same. A device of its own says
    by itself that it is full.
    """
    for plan in cases:
        conditions, prediction = plan.case.conditions, plan.prediction
        if memory_bytes is None or plan.case.workload.setup.device != "cpu":
            continue
        weights = sum(
            prediction.persistent_bytes.get(name, 0)
            for name in ("parameters", "adapters", "quantization_state")
        )
        peak = prediction.peak.total_bytes
        needed = max(
            weights, peak if conditions.budget_bytes is None else min(peak, conditions.budget_bytes)
        )
        needed *= plan.case.workload.setup.world_size
        if needed > memory_bytes:
            name = f"{plan.case.workload.model.id} ({plan.case.workload.setup.method})"
            raise MeasurementError(
                f"{name} needs {bytes_text(needed)} by its prediction, and this machine has"
                f" {bytes_text(memory_bytes)}; take a smaller batch or sequence, or --budget to see"
                " it run out of memory."
            )
