"""Evaluation between steps: its moment is that of traces to the byte where the loss holds it, that
of the harness, and that of transformers' own Trainer.

Trainer's peak is counted by torch's profiler: every allocation of `trainer.train()`.
"""

import gc
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import cases
import families
import oracle
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_model, model_from_config
from lora_profiler.measuring.harness.memory_pass import MemoryResult, memory_pass
from lora_profiler.measuring.harness.training import Training, TrainingBatches
from lora_profiler.measuring.records.record import Conditions
from lora_profiler.memory.analytic import predict
from lora_profiler.memory.analytic.predict import EVALUATED_LAYER_ERROR
from lora_profiler.memory.prediction import Moment, Prediction
from lora_profiler.planning.engine import predict as predict_by
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.workload import LoraConfig, TrainSetup, Workload
from lora_profiler.report.setup_words import training_line
from lora_profiler.trace.modeling import make_optimizer
from lora_profiler.trace.single_size import predict_once

LORA = LoraConfig(r=4)
BASE = TrainSetup(batch_size=1, seq_len=24, eval_batch_size=8, optimizer_impl="fused")
CPU = replace(BASE, device="cpu", dtype="float32")
WORDS = 4001
"""So many that the loss is more than any layer."""


def spec(name: str, vocab_size: int = WORDS) -> ModelSpec:
    config = {**cases.CONFIGS[name], "vocab_size": vocab_size}
    return model_from_config(config, id=name, source="test")


def evaluation(prediction: Prediction) -> Moment:
    (moment,) = (m for m in prediction.moments if m.moment == "evaluation" and m.step == "steady")
    return moment


# --- traces ---------------------------------------------------------------------------------------

ADAPTED = replace(BASE, lora=LoraConfig(r=4, lora_dropout=0.1))
TRACED = [
    ("llama", BASE),
    ("llama", replace(ADAPTED, checkpointing=True, padding=0.2)),
    ("llama", replace(BASE, loss="chunked", dtype="float32", precision="amp")),
    ("llama", replace(BASE, loss="fused")),
    ("mistral-varied", replace(BASE, packed=10, eval_batch_size=3)),
    ("qwen2", replace(BASE, dtype="float32", precision="amp", eval_batch_size=1, batch_size=2)),
    ("qwen3", replace(ADAPTED, precision="amp")),
    ("phi3", replace(BASE, attention="eager", accumulation=2)),
    ("gemma", CPU),
    ("gemma2", replace(ADAPTED, attention="eager")),
    ("gemma3_text", replace(CPU, checkpointing=True)),
    ("olmo2", replace(BASE, world_size=2, sharding="ddp")),
    ("gpt2-varied", replace(BASE, attention="efficient")),
    ("gpt_neox", CPU),
    ("opt", replace(BASE, padding=0.2)),
    ("mixtral", BASE),
    ("qwen3_moe", CPU),
]


@pytest.mark.grid
@pytest.mark.parametrize(("name", "setup"), TRACED, ids=lambda v: v if isinstance(v, str) else "")
def test_the_loss_of_evaluation_is_that_of_the_trace(name: str, setup: TrainSetup) -> None:
    workload = Workload(model=spec(name), setup=setup)
    mine, real = evaluation(predict(workload)), evaluation(predict_once(workload))
    assert mine.total_bytes == real.total_bytes
    assert mine.bytes["logits_and_loss"] == real.bytes["logits_and_loss"]
    assert "gradients" not in real.bytes


def test_a_layer_of_evaluation_is_within_its_bound() -> None:
    """With 32 words no loss covers it."""
    for name, setup in (("llama", BASE), ("gpt2", CPU), ("opt", replace(ADAPTED, precision="amp"))):
        workload = Workload(model=spec(name, 32), setup=replace(setup, attention="eager"))
        mine, real = evaluation(predict(workload)), evaluation(predict_once(workload))
        assert mine.bytes.get("logits_and_loss", 0) == 0
        assert mine.total_bytes == pytest.approx(real.total_bytes, rel=EVALUATED_LAYER_ERROR)


def test_all_else_is_as_without_it() -> None:
    workload = Workload(model=spec("llama"), setup=BASE)
    plain = replace(workload, setup=replace(BASE, eval_batch_size=None))
    others = [m for m in predict(workload).moments if m.moment != "evaluation"]
    assert others == list(predict(plain).moments)
    assert predict(workload).flops == predict(plain).flops


# --- the harness ----------------------------------------------------------------------------------


def test_the_memory_pass_evaluates() -> None:
    """To the byte in evaluation, and the batches of training are what they were."""
    config = {**families.TINY["llama"], "vocab_size": WORDS}
    setup = replace(CPU, lora=LORA)
    prediction = predict(
        Workload(model=model_from_config(dict(config), id="t", source="test"), setup=setup)
    )
    found = {}
    for rows in (8, None):
        asked = replace(setup, eval_batch_size=rows)
        model = oracle.build(config, asked)
        training = Training(
            model, make_optimizer(model, asked), asked, TrainingBatches(asked, Conditions(), WORDS)
        )
        result = found[rows] = MemoryResult()
        memory_pass(training, Conditions(), result, lambda step, phase: None)
        assert model.training
    assert found[8].peak is not None
    phase, peak = found[8].peak
    assert phase == "evaluation"
    assert peak == pytest.approx(evaluation(prediction).total_bytes, rel=1e-4)
    assert found[8].attribution["logits_and_loss"] == pytest.approx(
        evaluation(prediction).bytes["logits_and_loss"], rel=1e-3
    )
    assert abs(found[8].attribution["unattributed"]) <= 1e-4 * peak
    assert found[8].losses == found[None].losses
    assert {p: n for p, n in found[8].steady.items() if p != "evaluation"} == found[None].steady


# --- transformers' Trainer ------------------------------------------------------------------------


def trainers_peak(
    config: Mapping[str, Any], setup: TrainSetup, lengths: tuple[int, ...], folder: Path
) -> int:
    """Bytes alive at the largest instant of three steps, evaluation among them."""
    from torch.profiler import ProfilerActivity, profile
    from transformers import Trainer, TrainingArguments

    def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
        lengths = [len(row["input_ids"]) for row in rows]
        ids = torch.zeros(len(rows), setup.seq_len, dtype=torch.long)
        for i, length in enumerate(lengths):
            ids[i, :length] = torch.arange(1, length + 1)
        mask = (ids > 0).long()
        return {
            "input_ids": ids,
            "attention_mask": mask,
            "labels": ids.masked_fill(mask == 0, -100),
        }

    model = oracle.build(config, setup)
    rows = [{"input_ids": list(range(1, n + 1))} for n in lengths]
    whole = [{"input_ids": list(range(1, setup.seq_len + 1))}] * (setup.eval_batch_size or 1)
    arguments = TrainingArguments(
        str(folder),
        per_device_train_batch_size=len(lengths),
        per_device_eval_batch_size=setup.eval_batch_size or 8,
        max_steps=3,
        bf16=setup.precision == "amp",
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        eval_strategy="steps" if setup.eval_batch_size else "no",
        eval_steps=1,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=rows * 3,  # type: ignore[arg-type]  # a list is a data set
        eval_dataset=whole * 2 if setup.eval_batch_size else None,  # type: ignore[arg-type]
        data_collator=collate,
    )
    owned = {t.untyped_storage() for t in (*model.parameters(), *model.buffers())}
    live = sum({s.data_ptr(): s.nbytes() for s in owned}.values())
    gc.collect()  # what earlier tests left would be freed within, and counted as negative
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        trainer.train()
    peak = live
    events = (e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]")  # type: ignore[union-attr]
    for event in sorted(events, key=lambda e: e.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


TRAINERS = {
    "evaluating": ("llama", replace(CPU, lora=LORA), (24,)),
    "evaluating, bfloat16": ("qwen2", replace(CPU, dtype="bfloat16"), (24,)),
    "evaluating, amp": ("gpt2", replace(CPU, precision="amp"), (24,)),
    "padded": ("llama", replace(CPU, eval_batch_size=None, batch_size=3, padding=0.3), (24, 9, 18)),
}


@pytest.mark.grid
@pytest.mark.parametrize("case", TRAINERS)
def test_trainer_holds_what_is_predicted(case: str, tmp_path: Path) -> None:
    """Trainer's batches have labels and a mask of their own; both stay below a thousandth."""
    name, setup, lengths = TRAINERS[case]
    config = {**families.TINY[name], "vocab_size": 2 * WORDS}
    prediction = predict(
        Workload(model=model_from_config(dict(config), id="t", source="test"), setup=setup)
    )
    peak = trainers_peak(config, setup, lengths, tmp_path)
    assert prediction.peak.total_bytes == pytest.approx(peak, rel=1e-3)
    without = replace(prediction.workload, setup=replace(setup, eval_batch_size=None, padding=0.0))
    assert peak > 1.002 * predict(without).peak.total_bytes


# --- faces ----------------------------------------------------------------------------------------


def test_a_large_batch_of_evaluation_is_the_peak() -> None:
    """10 bytes a logit: bfloat16, its float32 copy and the log-probabilities."""
    model = find_model("meta-llama/Llama-3.1-8B", offline=True)
    setup = TrainSetup(lora=LoraConfig(), precision="amp", eval_batch_size=8)
    prediction = predict_by(Workload(model=model, setup=setup))
    assert prediction.peak.moment == "evaluation" and prediction.exactness == "exact"
    logits = 8 * 2048 * 128256
    assert prediction.peak.bytes["logits_and_loss"] == pytest.approx(10 * logits, rel=1e-3)
    assert any("compute_metrics" in words for words in prediction.assumptions)
    assert training_line(setup).endswith(", evaluating batches of 8")


def test_no_profile_holds_it() -> None:
    with pytest.raises(UsageError, match="no profile is of evaluation"):
        predict_by(Workload(model=spec("llama"), setup=BASE), "compiled")
