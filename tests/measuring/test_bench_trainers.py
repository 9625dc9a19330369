"""Trainers themselves in the harness' steps: the peak of a record beside torch's own profiler around
`train()`, and beside the prediction."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("greenlet")

import torch
from torch.profiler import ProfilerActivity, profile

import families
from lora_profiler import Workload, predict
from lora_profiler.facts.catalog import model_from_config
from lora_profiler.measuring.harness import Case, make_case
from lora_profiler.measuring.harness.memory_pass import MemoryResult, memory_pass
from lora_profiler.measuring.harness.preflight import LIBRARIES, MeasurementError, refuse
from lora_profiler.measuring.harness.trainers import make_trainer, trained_by
from lora_profiler.measuring.harness.training import TrainingBatches
from lora_profiler.measuring.harness.worker import measured
from lora_profiler.measuring.records.record import Conditions
from lora_profiler.measuring.records.serialize import record_dict, record_from_dict
from lora_profiler.planning.setups import setup_for
from lora_profiler.question.optimizer import all_optimizers

LLAMA = model_from_config(families.TINY["llama"] | {"vocab_size": 32_000}, id="tiny", source="test")
NEWEST = {"transformers": "transformers@5.24", "trl-sft": "trl-sft@1.16", "trl-dpo": "trl-dpo@1.16"}
COMMON = {"batch_size": 2, "seq_len": 128, "dtype": "float32", "device": "cpu"}
CASES: list[tuple[str, Any, dict[str, Any]]] = [
    ("transformers", "lora", {}),
    ("transformers", "full", {"eval_batch_size": 4}),
    ("transformers", "lora", {"padding": 0.25, "precision": "amp", "checkpointing": True}),
    ("transformers", "full", {"accumulation": 2, "label_smoothing_factor": 0.1}),
    ("transformers", "lora", {"optimizer": "adafactor", "optimizer_impl": "forloop"}),
    ("trl-sft", "lora", {"eval_batch_size": 4}),
    ("trl-sft", "full", {"checkpointing": False}),
    ("trl-sft", "lora", {"padding": 0.25, "precision": "pure"}),
    ("trl-dpo", "lora", {"batch_size": 1}),
    ("trl-dpo", "full", {"batch_size": 1}),
]


pytestmark = pytest.mark.usefixtures("one_thread")


def asked(trainer: str, method: Any, options: dict[str, Any]) -> Case:
    for module in LIBRARIES[trainer]:
        pytest.importorskip(module)
    setup = setup_for(LLAMA, trainer, method, **COMMON | options)
    conditions = Conditions(min_timed_steps=0, trained_by=NEWEST[trainer])
    return make_case(Workload(model=LLAMA, setup=setup), conditions)


def batches_of(case: Case) -> TrainingBatches:
    return TrainingBatches(case.workload.setup, case.conditions, LLAMA.config["vocab_size"])


def _tensors(model: torch.nn.Module) -> list[torch.Tensor]:
    return [*model.parameters(), *model.buffers()]


def profiled_peak(case: Case, folder: Path) -> int:
    """Of three steps of `train()`, with nothing of the harness between them, in torch's own
    record of its CPU allocator, on top of the model that was there."""
    trainer = make_trainer(case, batches_of(case), str(folder))
    trainer.args.max_steps = 3
    models = filter(None, (trainer.model, getattr(trainer, "ref_model", None)))
    storages = [t.untyped_storage() for model in models for t in _tensors(model)]
    there = {storage.data_ptr(): storage.nbytes() for storage in storages}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        trainer.train()
    events = profiler.profiler.kineto_results.events()  # type: ignore[union-attr]
    sizes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    live = peak = sum(there.values())
    for _, size in sizes:
        live += size
        peak = max(peak, live)
    return peak


@pytest.mark.grid
@pytest.mark.parametrize(("trainer", "method", "options"), CASES, ids=str)
def test_the_record_s_peak_is_the_trainer_s_own_and_the_predicted_one(
    trainer: str, method: Any, options: dict[str, Any], tmp_path: Path
) -> None:
    case = asked(trainer, method, options)
    result = MemoryResult()
    loop = trained_by(case, batches_of(case), lambda stage: None)
    memory_pass(loop, case.conditions, result, lambda step, phase: None)
    loop.close()
    assert result.peak is not None
    _, peak = result.peak
    assert peak == pytest.approx(profiled_peak(case, tmp_path), rel=1e-3)
    told = predict(case.workload, may_trace=False)
    assert told.peak.total_bytes == pytest.approx(peak, rel=1e-3)
    if told.exactness == "exact":
        assert result.saved_activation_bytes == pytest.approx(told.saved_activation_bytes, abs=1024)
    if "eval_batch_size" in options:
        by_moment = {m.moment: m.total_bytes for m in told.moments if m.step == "steady"}
        assert result.steady["evaluation"] == pytest.approx(by_moment["evaluation"], rel=1e-3)


def test_a_measured_trainer_leaves_a_whole_record() -> None:
    """As the child makes it, steps timed and all; and it reads as it was written."""
    case = asked("transformers", "lora", {})
    case = replace(
        case, conditions=replace(case.conditions, min_timed_steps=2, max_timing_seconds=5.0)
    )
    with open(os.devnull, "w") as heartbeats:
        record = measured(case, heartbeats)
    m = record.measurement
    assert m.status in ("ok", "noisy"), m.failure
    assert {"forward", "backward", "clip", "optimizer", "zero"} <= m.phase_seconds.keys()
    assert len(m.loss) >= 5 and m.peak_phase == "backward"
    assert abs(m.attribution_bytes.get("unattributed", 0)) < 0.01 * (m.peak_requested_bytes or 0)
    written = json.loads(json.dumps(record_dict(record)))
    assert record_from_dict(written).id == record.id
    assert written["conditions"]["trained_by"] == "transformers@5.24"


def test_the_losses_are_those_of_the_same_rows_in_the_same_trainer(tmp_path: Path) -> None:
    """Of a plain `train()` that logs each step."""
    from transformers.trainer_utils import IntervalStrategy

    case = asked("transformers", "lora", {"accumulation": 2})
    loop = trained_by(case, batches_of(case), lambda stage: None)
    stepped = [float(loop.step(lambda step, phase: None)) for _ in range(3)]
    loop.close()
    trainer = make_trainer(case, batches_of(case), str(tmp_path))
    trainer.args.max_steps, trainer.args.logging_steps = 3, 1
    trainer.args.logging_strategy = IntervalStrategy.STEPS
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert stepped == pytest.approx(logged, abs=1e-3)


def test_every_optimizer_has_transformers_own_name() -> None:
    from transformers.training_args import OptimizerNames

    assert {facts.optim for facts in all_optimizers().values() if facts.optim} | {
        "adamw_torch_fused"
    } <= {each.value for each in OptimizerNames}


def test_records_of_the_harness_own_loop_say_nothing_of_trainers() -> None:
    """So that their keys are those of older versions."""
    workload = Workload(model=LLAMA)
    own, theirs = make_case(workload), make_case(workload, Conditions(trained_by="trl-sft@1.16"))
    assert own.key != theirs.key


@pytest.mark.parametrize("trainer", sorted(LIBRARIES))
def test_what_a_trainer_takes_and_is_not_there_is_named(trainer: str) -> None:
    setup = setup_for(LLAMA, trainer, "lora", **COMMON)
    conditions = Conditions(trained_by=NEWEST[trainer])
    lacking = LIBRARIES[trainer][-1]
    with pytest.raises(MeasurementError, match=f"needs {lacking}; install them: pip install"):
        refuse(
            Workload(model=LLAMA, setup=setup),
            conditions,
            installed=lambda name: None if name == lacking else name,
            capability=lambda: None,
        )
