"""What DeepSpeed's ZeRO-2 and ZeRO-3 hold through the step, by rule against ranks that trained
with it over gloo (`benchmarks/truth/deepspeed_ranks.py`)."""

import json
from pathlib import Path
from typing import Any

import pytest

from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import model_from_config
from lora_profiler.memory.analytic import predict
from lora_profiler.memory.analytic.deepspeed import piece_bytes
from lora_profiler.memory.analytic.predict import LAYER_ERROR
from lora_profiler.memory.analytic.sharding import ShardedParameter
from lora_profiler.memory.prediction import Prediction
from lora_profiler.question.workload import LoraConfig, TrainSetup, Workload

MEASURED: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data" / "deepspeed_ranks.json").read_text("utf-8")
)
LORA = LoraConfig(r=4)


def predicted(row: dict[str, Any], **changes: Any) -> Prediction:
    setup = TrainSetup(
        **{
            "batch_size": 2,
            "seq_len": 24,
            "lora": LORA if row["method"] == "lora" else None,
            "sharding": f"zero{row['stage']}",
            "world_size": row["ranks"],
            "device": "cpu",
            "reduce_bucket_size": MEASURED["bucket"],
            **changes,
        }
    )
    model = model_from_config(MEASURED["config"], id="measured", source="test")
    return predict(Workload(model=model, setup=setup))


@pytest.mark.parametrize("row", MEASURED["rows"], ids=str)
def test_a_rank_holds_what_deepspeed_holds(row: dict[str, Any]) -> None:
    found = predicted(row)
    held, mine = row["held"], found.persistent_bytes
    assert mine["parameters"] + mine["adapters"] == held["weights"]
    assert mine["gradients"] == held["gradients"]
    assert mine["optimizer_states"] == held["masters"] + held["states"]
    if row["stage"] == 3:
        setup = next(m for m in found.moments if m.moment == "setup")
        assert setup.bytes["communication"] == held["bucket"]


@pytest.mark.parametrize("row", MEASURED["rows"], ids=str)
def test_it_is_an_estimate_that_says_which_part_is_known(row: dict[str, Any]) -> None:
    found = predicted(row)
    assert (found.exactness, found.error_bound) == ("estimate", LAYER_ERROR)
    assert "DeepSpeed 0.19.8's to the byte" in " ".join(found.assumptions)
    first = next(m for m in found.moments if m.moment == "end_of_forward" and m.step == 1)
    assert first.bytes["optimizer_states"] == row["held"]["masters"]


def test_the_bucket_of_zero2_is_there_in_the_layers_backward_alone() -> None:
    """And as much again, a copy of what it holds."""
    row = MEASURED["rows"][0]
    at = {m.moment: m.bytes.get("communication", 0) for m in predicted(row).moments}
    assert at["first_layer_backward"] == 2 * 2 * MEASURED["bucket"]
    assert at["setup"] == at["end_of_forward"] == at["loss_backward"] == at["optimizer_step"] == 0


def test_a_weight_of_zero3_by_hand() -> None:
    """Of 300,001 elements over 4 ranks each has 75,001; 100,000 are kept whole beside the part."""
    assert piece_bytes(ShardedParameter((300_001,), 2, True), 4) == 2 * 75_001
    assert piece_bytes(ShardedParameter((1000, 100), 2, True), 4) == 2 * (25_000 + 100_000)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"precision": "amp"}, "Try: `--dtype bfloat16 --precision pure`"),
        ({"optimizer": "muon", "lora": LORA}, "flat gradients"),
    ],
)
def test_what_deepspeed_does_not_do_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        TrainSetup(sharding="zero3", world_size=2, **changes)
