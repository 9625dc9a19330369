"""ZeRO-1, 2 and 3, of one rank and offloaded too, by rule against what DeepSpeed itself asked a pretended card
for (`benchmarks/rehearsed/deepspeed_rank.py`)."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agreement import totals
from benchmarks.rehearsed.deepspeed_rank import config_of
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_gpu, model_from_config
from lora_profiler.memory.analytic import predict
from lora_profiler.memory.analytic.zero3_fetching import gathered
from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.timing import step_time
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.support.check import check
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload

REHEARSED: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "data" / "deepspeed_rehearsed.json").read_text("utf-8")
)
ROWS = REHEARSED["rows"]
SHARDING = {1: "zero1-deepspeed", 2: "zero2", 3: "zero3"}
SCALARS = 64
"""Bytes: DeepSpeed's flags and norms, and losses of micro-batches."""


def named(row: dict[str, Any]) -> str:
    more = ["again"] * row["checkpointing"] + ["tied"] * row["model"].get("tied", 0)
    more += [word for word in ("recipe", "use_reentrant") if word in row]
    more += [f"of-{row['ranks']}", f"x{row.get('accumulation', 1)}", *row.get("targets", ())]
    kind = "-".join((row["method"], *row["offload"], *more))
    return f"zero{row['stage']}-{row['model']['hidden']}-{row['seq']}-{kind}"


def predicted(row: dict[str, Any], **changes: Any) -> Prediction:
    targets = tuple(row["targets"]) if "targets" in row else "all-linear"
    lora, base = (
        LoraConfig(r=16, target_modules=targets),
        Quantization(recipe=row.get("recipe", "stock")),
    )
    setup = TrainSetup(
        **{
            "batch_size": row["batch"],
            "seq_len": row["seq"],
            "lora": None if row["method"] == "full" else lora,
            "quantization": base if row["method"] == "qlora" else None,
            "sharding": SHARDING[row["stage"]],
            "world_size": row["ranks"],
            "reduce_bucket_size": row["bucket"],
            "checkpointing": row["checkpointing"],
            "use_reentrant": row.get("use_reentrant", False),
            "accumulation": row.get("accumulation", 1),
            **{f"offload_{what}_device": "cpu" for what in row["offload"]},
            **changes,
        }
    )
    model = model_from_config(config_of(row["model"]), id="rehearsed", source="test")
    card = Platform(capability=find_gpu(REHEARSED["card"]).capability)
    return predict(Workload(model=model, setup=setup, platform=card))


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_what_lives_through_the_step_is_deepspeed_s(row: dict[str, Any]) -> None:
    found = predicted(row)
    setup = next(m for m in found.moments if (m.moment, m.step) == ("setup", "steady"))
    ids = 8 * row["batch"] * row["seq"]  # which are there when it is counted
    assert abs(setup.total_bytes + ids - row["between"]) < SCALARS
    host, mine = row["host"], found.host_bytes
    assert mine.get("parameters", 0) + mine.get("adapters", 0) == host.get("weights", 0)
    assert mine.get("gradients", 0) == host.get("gradients", 0)
    assert mine.get("optimizer_states", 0) == host.get("states", 0)


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_forward_and_backward_are_nearer_than_the_bound(row: dict[str, Any]) -> None:
    at = totals(predicted(row))
    ahead = max(at["last_layer_forward"], at["end_of_forward"])
    back = max(at["loss_backward"], at["last_layer_backward"], at["first_layer_backward"])
    error = {"full": 0.004, "qlora": 0.005}.get(row["method"], 0.02)
    assert ahead == pytest.approx(row["forward"], rel=error)
    assert back == pytest.approx(row["backward"], rel=error)


@pytest.mark.parametrize("row", ROWS, ids=named)
def test_the_peak_is_within_its_bound(row: dict[str, Any]) -> None:
    found = predicted(row)
    peak = max(row["forward"], row["backward"], row["step"])
    assert found.error_bound is not None
    assert abs(found.peak.total_bytes / peak - 1) < found.error_bound
    assert found.exactness == "estimate"
    assert "rehearsed with the plain loss only" in " ".join(found.assumptions)


@pytest.mark.parametrize("stage", [2, 3])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_layers_sum_to_what_is_left_on_the_card(stage: int, method: str) -> None:
    row = {**ROWS[0], "stage": stage, "method": method, "offload": ["optimizer"]}
    more = {"offload_param_device": "cpu"} if stage == 3 else {}
    found = predicted(row, **more)
    held, layers = found.persistent_bytes, found.layers
    whole = held["parameters"] + held["adapters"]
    assert sum(layer.parameter_bytes for layer in layers) == whole
    assert all(layer.gradient_bytes == layer.optimizer_state_bytes == 0 for layer in layers)
    assert held["gradients"] == held["optimizer_states"] == 0


def test_a_rank_s_host_by_hand() -> None:
    """ZeRO-2 of P numbers over four ranks: of a quarter 16 bit and 16 bytes in float32 (weight,
    gradient, two states), and a buffer as long as the longest weight, which the card has too."""
    row = {**ROWS[0], "offload": ["optimizer"]}
    plain, moved = predicted({**row, "offload": []}), predicted(row)
    part = plain.parameters.trainable // 4
    longest = 2 * max(m.num_parameters for _, m in plain.workload.model.modules())
    assert sum(moved.host_bytes.values()) == 18 * part + longest
    between = [p.moments[0].total_bytes for p in (plain, moved)]
    assert between[0] - between[1] == 4 * part - longest  # in the first step: no states yet


def test_states_on_nvme_leave_buffers_on_the_host() -> None:
    """As many as the file's default, of a sub-group each; ZeRO-2 takes NVMe for the host."""
    row = {**ROWS[0], "stage": 3, "offload": []}
    found = predicted(row, offload_optimizer_device="nvme")
    part = predicted(row).persistent_bytes["gradients"] // 2
    assert dict(found.host_bytes) == {"gradients": 2 * part, "optimizer_states": 4 * 4 * part}
    assert "NVMe contents are not counted" in " ".join(found.assumptions)
    over_cpu, over_nvme = (
        predicted(ROWS[0], offload_optimizer_device=device).host_bytes for device in ("cpu", "nvme")
    )
    assert over_cpu == over_nvme


def test_weights_are_gathered_module_by_module_by_hand() -> None:
    """Two layers of a 40 M and a 20 M weight, between an embedding and a head of 10 M. The embedding
    brings the first layer's in one buffer (60); its first use copies them (130 with the embedding)
    and brings the second's (190), its second lets the first buffer go and brings the head (140);
    the second layer's first use copies it (200), its second lets its buffer go (140). Backward lets
    go of each weight once it was used."""
    layer = (40_000_000, 20_000_000)
    found = gathered(
        [10_000_000],
        [layer, layer],
        [10_000_000],
        is_tied=False,
        runs_again=False,
        into_embedding=True,
    )
    assert found.loss == 140_000_000
    assert found.forward == (190_000_000, 200_000_000)
    assert found.backward == (70_000_000, 130_000_000)
    assert found.embedding == 10_000_000


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sharding": "fsdp"}, "is not DeepSpeed's"),
        ({"sharding": "zero2", "offload_param_device": "cpu"}, "ZeRO-2 keep weights on the GPU"),
        ({"sharding": "zero3", "optimizer": "adamw_8bit"}, "offloads CPUAdam and CPULion only"),
        ({"sharding": "zero3", "device": "cpu"}, "offloading needs --device cuda"),
    ],
)
def test_what_deepspeed_does_not_move_is_refused(changes: dict[str, Any], words: str) -> None:
    row = {**ROWS[0], "stage": 3, "offload": ["optimizer"]}
    asked = predicted(row).workload
    with pytest.raises(UsageError, match=words):
        check(replace(asked, setup=replace(asked.setup, **changes)), "analytic")


def test_no_time_is_told_of_it() -> None:
    asked = predicted({**ROWS[0], "offload": ["optimizer"]}).workload
    assert "with offloading to CPU is not known" in str(
        step_time(asked, find_gpu(REHEARSED["card"])).refusal
    )
