"""What the parent hands to the measured process: the question, the conditions, and where local
inputs lie."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypedDict

from lora_profiler.measuring.records.record import (
    Conditions,
    case_key,
    conditions_dict,
    padding_in_setup,
)
from lora_profiler.measuring.records.serialize import (
    WorkloadFields,
    decoded,
    workload_dict,
    workload_of,
)
from lora_profiler.question.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run. `weights` is None for random ones, "hub", or a path; `text` a path or None. Neither
    path reaches the record."""

    workload: Workload
    conditions: Conditions
    repeat: int = 0
    weights: str | None = None
    text: str | None = None
    command: str | None = None

    @property
    def key(self) -> str:
        return case_key(self.workload, self.conditions)


def make_case(
    workload: Workload,
    conditions: Conditions | None = None,
    *,
    weights: str | None = None,
    text: str | None = None,
    repeat: int = 0,
) -> Case:
    """A case whose conditions name its inputs, without saying where on this machine they lie."""
    name = "random" if weights is None else "hub" if weights == "hub" else Path(weights).name
    workload, conditions = padding_in_setup(workload, conditions or Conditions())
    named = replace(conditions, weights=name, text="random" if text is None else Path(text).name)
    return Case(workload=workload, conditions=named, repeat=repeat, weights=weights, text=text)


def case_dict(case: Case) -> dict[str, Any]:
    parts = {
        "workload": workload_dict(case.workload),
        "conditions": conditions_dict(case.conditions),
    }
    return {f.name: getattr(case, f.name) for f in fields(case)} | parts


def write_case(path: Path, case: Case) -> None:
    path.write_text(json.dumps(case_dict(case), allow_nan=False), "utf-8")


class CaseFields(TypedDict):
    workload: WorkloadFields
    conditions: Conditions
    repeat: int
    weights: str | None
    text: str | None
    command: str | None


def case_from_dict(data: Mapping[str, Any]) -> Case:
    """Raises RecordError for what is no case."""
    read: CaseFields = decoded(CaseFields, data, "case")
    workload, conditions = padding_in_setup(workload_of(read["workload"]), read["conditions"])
    values: dict[str, Any] = {**read, "workload": workload, "conditions": conditions}
    return Case(**values)


def read_case(path: Path) -> Case:
    return case_from_dict(json.loads(path.read_text("utf-8")))
