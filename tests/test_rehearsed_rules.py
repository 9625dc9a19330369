"""Rules and profiles against rehearsals: the CUDA build of torch over stub libraries, as
`benchmarks/rehearsed_rules.py` ran it. Rehearsed, not measured."""

import json
from typing import Any

import pytest

from benchmarks import rehearsed_rules
from lora_profiler import LoraConfig, Prediction, TrainSetup, Workload, find_model, predict
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


@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_product_of_softmax_is_not_called_exact(checkpointing: bool) -> None:
    """TinyLlama's score matrices are larger than its logits at 4,096 tokens. Torch's own CUDA build
    asked for one more of them than is followed, with checkpointing and without."""
    setup = TrainSetup(
        lora=LoraConfig(), seq_len=4096, attention="eager", checkpointing=checkpointing
    )
    model = find_model("TinyLlama/TinyLlama-1.1B-Chat-v1.0", offline=True)
    prediction = predict(Workload(model=model, setup=setup), may_trace=False)
    assert (prediction.exactness, prediction.error_bound) == ("estimate", None)
    assert any("Softmax's backward" in words for words in prediction.assumptions)
