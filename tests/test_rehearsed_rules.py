"""Rules and profiles against rehearsals: the CUDA build of torch over stub libraries, as
`benchmarks/rehearsed_rules.py` ran it. Rehearsed, not measured."""

import json
from typing import Any

import pytest

from benchmarks import rehearsed_rules
from lora_profiler import Prediction, predict
from lora_profiler.records.serialize import setup_from_dict

ROWS = [json.loads(line) for line in rehearsed_rules.ROWS.read_text("utf-8").splitlines()]
COMPARED = [row for row in ROWS if rehearsed_rules.compared(row) is not None]


def answered(row: dict[str, Any]) -> tuple[Prediction, int]:
    """The prediction, and its requested peak less the rehearsed one, workspaces put to it."""
    setup = setup_from_dict(row["setup"])
    prediction = predict(
        rehearsed_rules.workload(row["model"], setup, row["card"], row["torch"]), may_trace=False
    )
    peak = prediction.peak.total_bytes + row["workspaces_bytes"]
    return prediction, peak - row["rehearsed"]["requested_bytes"]


@pytest.mark.parametrize("row", COMPARED, ids=lambda row: f"{row['model']} {row['card']}")
def test_what_is_called_exact_is_and_bounds_hold(row: dict[str, Any]) -> None:
    """But for 1,024 bytes of bitsandbytes' own, and 4 of the loss that is summed up over
    micro-batches, which are known and open."""
    prediction, error = answered(row)
    setup = prediction.workload.setup
    if prediction.exactness == "exact":
        known = 1024 * (setup.method == "qlora") + 4 * (setup.accumulation > 1)
        assert abs(error) <= known
    elif prediction.error_bound is not None:
        assert abs(error) <= prediction.error_bound * row["rehearsed"]["requested_bytes"]


def test_there_are_both_answers_and_all_methods() -> None:
    answers = [answered(row)[0] for row in COMPARED]
    assert len(answers) >= 100
    assert {answer.exactness for answer in answers} == {"exact", "estimate"}
    assert {answer.workload.setup.method for answer in answers} == {"full", "lora", "qlora"}
