"""Rules and profiles against rehearsals: the CUDA build of torch over stub libraries, as
`benchmarks/rehearsed_rules.py` ran it. Rehearsed, not measured."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import rehearsed_rules
from lora_profiler import LoraConfig, Prediction, TrainSetup, Workload, find_model, predict
from lora_profiler.records.serialize import setup_from_dict

ROWS = [json.loads(line) for line in rehearsed_rules.ROWS.read_text("utf-8").splitlines()]
COMPARED = [row for row in ROWS if rehearsed_rules.compared(row) is not None]


def answered(row: dict[str, Any]) -> tuple[Prediction, int]:
    """The prediction of rules, or of a profile, and its requested peak less the rehearsed one, workspaces put to it."""
    setup = setup_from_dict(row["setup"])
    prediction = predict(
        rehearsed_rules.workload(row["model"], setup, row["card"], row["torch"]), may_trace=False
    )
    peak = prediction.peak.total_bytes + row["workspaces_bytes"]
    return prediction, peak - row["rehearsed"]["requested_bytes"]


@pytest.mark.parametrize("row", COMPARED, ids=lambda row: f"{row['model']} {row['card']}")
def test_what_is_called_exact_is_and_bounds_hold(row: dict[str, Any]) -> None:
    prediction, error = answered(row)
    if prediction.exactness == "exact":
        assert error == 0
    elif prediction.error_bound is not None:
        assert abs(error) <= prediction.error_bound * row["rehearsed"]["requested_bytes"]


def test_there_are_both_answers_and_all_methods() -> None:
    answers = [answered(row)[0] for row in COMPARED]
    assert len(answers) >= 100
    assert {answer.exactness for answer in answers} == {"exact", "estimate"}
    assert {answer.workload.setup.method for answer in answers} == {"full", "lora", "qlora"}


TINY_LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 3,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 1000,
    "max_position_embeddings": 2048,
}
WORKSPACES = 2 * 8_519_680


@pytest.mark.parametrize("engine", ["analytic", "traced"])
@pytest.mark.parametrize("checkpointing, rehearsed", [(True, 100_175_496), (False, 178_171_528)])
def test_the_backward_of_softmax_multiplies_into_a_tensor_of_its_own(
    checkpointing: bool, rehearsed: int, engine: str, tmp_path: Path
) -> None:
    """Requested by torch 2.13's CUDA build on a pretended A100 in the second step of a plain loop,
    2 x 512 tokens, LoRA of rank 16 on all linear layers, bfloat16, eager attention."""
    (tmp_path / "config.json").write_text(json.dumps(TINY_LLAMA))
    setup = TrainSetup(
        lora=LoraConfig(), batch_size=2, seq_len=512, attention="eager", checkpointing=checkpointing
    )
    workload = Workload(model=find_model(str(tmp_path)), setup=setup)
    assert predict(workload, engine).peak.total_bytes + WORKSPACES == rehearsed


TRACED = [json.loads(line) for line in rehearsed_rules.TRACED.read_text("utf-8").splitlines()]


def test_traces_ask_for_what_was_rehearsed_and_the_simulated_allocator_gives_it() -> None:
    """As the traces were when they were written down; allocated bytes on average within 0.1 %."""
    answers = {answer["key"]: answer for answer in TRACED if "refused" not in answer}
    rows = [row for row in ROWS if rehearsed_rules.digest(row) in answers]
    errors = [
        rehearsed_rules.less(answers[rehearsed_rules.digest(row)], row)["errors"] for row in rows
    ]
    assert len(rows) >= 20
    assert [error["requested_bytes"] for error in errors] == [0] * len(rows)
    shares = [
        abs(error["allocated_bytes"]) / row["rehearsed"]["allocated_bytes"]
        for error, row in zip(errors, rows, strict=True)
    ]
    assert sum(shares) / len(shares) <= 0.001
