"""What the parent hands to the measured process: the question, the conditions, and where local inputs lie."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lora_profiler.record import Conditions
from lora_profiler.record_json import decoded, workload_dict, workload_from_dict
from lora_profiler.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run. `weights` is None for random ones, "hub", or a path; `text` a path or None. Neither path reaches the record."""

    workload: Workload
    conditions: Conditions
    repeat: int = 0
    weights: str | None = None
    text: str | None = None
    command: str | None = None


def case_dict(case: Case) -> dict[str, Any]:
    return {
        "workload": workload_dict(case.workload),
        "conditions": asdict(case.conditions),
        "repeat": case.repeat,
        "weights": case.weights,
        "text": case.text,
        "command": case.command,
    }


def case_from_dict(data: Mapping[str, Any]) -> Case:
    """Raises RecordError for what is no case."""
    return Case(
        workload=workload_from_dict(data["workload"]),
        conditions=decoded(Conditions, data["conditions"], "conditions"),
        repeat=data["repeat"],
        weights=data["weights"],
        text=data["text"],
        command=data["command"],
    )
