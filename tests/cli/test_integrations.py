"""Predicted against measured inside of real trainings on the CPU, by transformers, TRL and a plain
loop."""

import gc
import json
import os
import platform
import re
import subprocess
import sys
import time
import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from commands import OFFLINE
from loading import modules_after
from lora_profiler import UsageError
from lora_profiler.integrations import PredictedVsMeasured, TrainingOutcome, _Watch
from lora_profiler.planning.nearest import nearest

ROWS = 32
LENGTH = 32


def model() -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, vocab_size=300, max_position_embeddings=64,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def arguments(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "out"),
        "per_device_train_batch_size": 2,
        "max_steps": 6,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "no",
    } | more


def ids() -> list[list[int]]:
    return [[(row * 7 + place) % 300 for place in range(LENGTH)] for row in range(ROWS)]


def logged(trainer: Any) -> dict[str, float]:
    (found,) = [
        each for each in trainer.state.log_history if "lora_profiler/measured_peak_bytes" in each
    ]
    return found


def holds(outcome: TrainingOutcome | None, at_most: float) -> None:
    assert outcome is not None and not outcome.reason
    assert outcome.predicted_peak_bytes and outcome.measured_peak_bytes
    error = outcome.predicted_peak_bytes / outcome.measured_peak_bytes - 1
    assert abs(error) < at_most, outcome
    assert outcome.measured_step_seconds and outcome.measured_step_seconds > 0


@pytest.mark.parametrize("accumulation", [1, 2])
def test_transformers_logs_both(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], accumulation: int
) -> None:
    transformers = pytest.importorskip("transformers")
    share = tmp_path / "record.json"
    callback = PredictedVsMeasured(share=share)
    rows = [{"input_ids": row, "labels": row, "attention_mask": [1] * LENGTH} for row in ids()]
    trainer = transformers.Trainer(
        model=model(),
        args=transformers.TrainingArguments(
            **arguments(tmp_path, gradient_accumulation_steps=accumulation)
        ),
        train_dataset=rows,
        data_collator=transformers.default_data_collator,
        callbacks=[callback],
    )
    trainer.train()
    holds(callback.outcome, 0.002)
    said = [
        line for line in capfd.readouterr().err.splitlines() if line.startswith("lora-profiler:")
    ]
    assert len(said) == 2
    assert said[0].startswith("lora-profiler: Full needs ")
    assert said[0].endswith(f"Assumed: batch 2 × {LENGTH} tokens.")
    assert " predicted, " in said[1] and " measured" in said[1]
    assert logged(trainer)["step"] == 5
    assert callback.outcome is not None
    assert (
        logged(trainer)["lora_profiler/predicted_peak_bytes"]
        == callback.outcome.predicted_peak_bytes
    )
    assert not trainer.model._forward_pre_hooks and not trainer.model._forward_hooks
    record = json.loads(share.read_text())
    assert record["measured_peak_bytes"] == callback.outcome.measured_peak_bytes
    assert record["question"]["model"] is None and record["question"]["model_type"] == "llama"
    assert {"torch", "transformers", "lora-profiler", "python"} <= record["versions"].keys()
    assert len(share.read_text()) < 5000
    assert "/" not in share.read_text() and platform.node() not in share.read_text()


def test_padded_batches_are_predicted_as_padded(tmp_path: Path) -> None:
    """The mask makes attention take another kernel, which holds more."""
    transformers = pytest.importorskip("transformers")
    rows = [
        {"input_ids": row, "labels": row, "attention_mask": [1] * (LENGTH - n % 9) + [0] * (n % 9)}
        for n, row in enumerate(ids(), 1)
    ]
    callback = PredictedVsMeasured()
    transformers.Trainer(
        model=model(),
        args=transformers.TrainingArguments(**arguments(tmp_path)),
        train_dataset=rows,
        data_collator=transformers.default_data_collator,
        callbacks=[callback],
    ).train()
    holds(callback.outcome, 0.005)


def test_trl_logs_both(tmp_path: Path) -> None:
    trl, datasets, peft = map(pytest.importorskip, ("trl", "datasets", "peft"))
    from lora_profiler.measuring.harness.trainers import _tokenizer

    callback = PredictedVsMeasured(steps=4)
    trainer = trl.SFTTrainer(
        model=model(),
        args=trl.SFTConfig(**arguments(tmp_path), max_length=LENGTH),
        train_dataset=datasets.Dataset.from_dict({"input_ids": ids()}),
        processing_class=_tokenizer(),
        peft_config=peft.LoraConfig(r=4),
        callbacks=[callback],
    )
    trainer.train()
    holds(callback.outcome, 0.01)
    assert logged(trainer)["step"] == 4


@pytest.mark.parametrize("keeps", [False, True])
def test_a_loop_of_one_s_own(keeps: bool) -> None:
    torch = pytest.importorskip("torch")
    trained = model()
    optimizer = torch.optim.AdamW(trained.parameters())
    batch = torch.tensor(ids()[:2])
    watch = PredictedVsMeasured(steps=4)
    with watch.loop(trained, optimizer):
        for _ in range(6):
            if keeps:
                output = trained(input_ids=batch, labels=batch, use_cache=False)
                loss = output.loss
            else:
                loss = trained(input_ids=batch, labels=batch, use_cache=False).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    holds(watch.outcome, 0.0005)
    assert not optimizer._optimizer_step_post_hooks


def test_accelerate_s_optimizer_is_the_one_that_it_holds() -> None:
    torch, accelerate = pytest.importorskip("torch"), pytest.importorskip("accelerate")
    trained = model()
    held = torch.optim.AdamW(trained.parameters())
    prepared, optimizer = accelerate.Accelerator(cpu=True).prepare(trained, held)
    batch = torch.tensor(ids()[:2])
    watch = PredictedVsMeasured(steps=3)
    with watch.loop(prepared, optimizer):
        for _ in range(4):
            prepared(input_ids=batch, labels=batch, use_cache=False).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    holds(watch.outcome, 0.0005)


def test_a_training_that_failed_is_let_go(tmp_path: Path) -> None:
    """And a trainer that could not be made is in nobody's way."""
    transformers = pytest.importorskip("transformers")
    callback = PredictedVsMeasured()
    half_made = transformers.Trainer.__new__(transformers.Trainer)

    class Fails(transformers.TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            raise MemoryError

    trained = model()
    for callbacks in ([Fails(), callback], [callback]):
        trainer = transformers.Trainer(
            model=trained,
            args=transformers.TrainingArguments(**arguments(tmp_path)),
            train_dataset=[{"input_ids": row, "labels": row} for row in ids()],
            callbacks=callbacks,
        )
        with suppress(MemoryError):
            trainer.train()
        alive = weakref.ref(trainer), weakref.ref(trainer.optimizer.optimizer)
        del trainer
        gc.collect()
        assert [each() for each in alive] == [None, None]
    assert half_made is not None
    holds(callback.outcome, 0.0005)


def test_evaluating_and_saving_are_no_part_of_a_step(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    begun: dict[int, float] = {}

    class Slow(transformers.TrainerCallback):  # type: ignore[misc, name-defined]
        def on_step_begin(self, args: object, state: Any, *_: object, **__: object) -> None:
            begun[state.global_step + 1] = time.perf_counter()

        def on_evaluate(self, *_: object, **__: object) -> None:
            time.sleep(0.5)

        on_save = on_evaluate

        def on_train_end(self, *_: object, **__: object) -> None:
            begun[6] = time.perf_counter()

    rows = [{"input_ids": row, "labels": row} for row in ids()]
    callback = PredictedVsMeasured()
    each = {"eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 3}
    transformers.Trainer(
        model=model(),
        args=transformers.TrainingArguments(
            **arguments(tmp_path, per_device_eval_batch_size=16, max_steps=5, **each)
        ),
        train_dataset=rows,
        eval_dataset=rows,
        callbacks=[Slow(), callback],
    ).train()
    holds(callback.outcome, 0.0005)
    assert callback.outcome and callback.outcome.measured_step_seconds
    three_steps = 3 * callback.outcome.measured_step_seconds
    assert three_steps < begun[6] - begun[3] - 3 * 0.5  # saved, evaluated and saved at the end


def test_a_data_set_that_streams_has_no_length(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")

    class Streams(torch.utils.data.IterableDataset):  # type: ignore[misc]
        column_names = ("input_ids", "labels")  # as datasets' own has

        def __iter__(self) -> Any:
            return ({"input_ids": row, "labels": row} for row in ids())

    callback = PredictedVsMeasured(steps=3)
    transformers.Trainer(
        model=model(),
        args=transformers.TrainingArguments(**arguments(tmp_path)),
        train_dataset=Streams(),
        callbacks=[callback],
    ).train()
    holds(callback.outcome, 0.01)
    assert "not measured" not in capsys.readouterr().err


def test_a_training_that_ends_early_says_what_there_is(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    trained = model()
    optimizer = torch.optim.AdamW(trained.parameters())
    batch = torch.tensor(ids()[:2])
    for steps in range(3):
        watch = PredictedVsMeasured()
        with watch.loop(trained, optimizer):
            for _ in range(steps):
                trained(input_ids=batch, labels=batch, use_cache=False).loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        assert watch.outcome is not None
        assert (watch.outcome.measured_peak_bytes is not None) == (steps == 2)
        assert watch.outcome.measured_step_seconds is None
    with pytest.raises(UsageError, match="steps is 2; one warms up"):
        PredictedVsMeasured(steps=2)


def test_nothing_of_it_ends_a_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's own profiler, a full disk, a model that nobody thought of."""
    torch = pytest.importorskip("torch")
    trained = model()
    optimizer = torch.optim.AdamW(trained.parameters())
    batch = torch.tensor(ids()[:2])
    share = tmp_path / "gone" / "record.json"
    share.parent.mkdir()
    watch = PredictedVsMeasured(steps=3, share=share)
    share.parent.rmdir()
    monkeypatch.setattr(_Watch, "_facts", lambda self: {}["nothing"])
    with torch.profiler.profile(), watch.loop(trained, optimizer):
        for _ in range(5):
            trained(input_ids=batch, labels=batch, use_cache=False).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    assert watch.outcome is not None and watch.outcome.reason == "KeyError: 'nothing'"
    assert watch.outcome.measured_step_seconds
    with pytest.raises(UsageError, match="There is no folder"):
        PredictedVsMeasured(share=share)


def test_a_second_start_leaves_no_hook_of_the_first(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    callback = PredictedVsMeasured(steps=3)
    rows = [{"input_ids": row, "labels": row} for row in ids()]
    trainer = transformers.Trainer(
        model=model(),
        args=transformers.TrainingArguments(**arguments(tmp_path, max_steps=1)),
        train_dataset=rows,
        callbacks=[callback],
    )
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.AdamW(trainer.model.parameters())
    for _ in range(2):
        callback.on_train_begin(
            trainer.args, trainer.state, None, model=trainer.model, optimizer=optimizer
        )
    assert len(optimizer._optimizer_step_post_hooks) == 1
    callback.on_train_end(None, None, None)
    assert not optimizer._optimizer_step_post_hooks and not trainer.model._forward_pre_hooks


ON_A_GPU = """
import tempfile, transformers
from peft import LoraConfig, get_peft_model
from lora_profiler.integrations import PredictedVsMeasured

config = transformers.LlamaConfig(
    hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4,
    num_key_value_heads=4, vocab_size=2000, max_position_embeddings=512,
)
model = get_peft_model(transformers.LlamaForCausalLM(config), LoraConfig(r=8))
row = {"input_ids": [1] * 128, "labels": [1] * 128, "attention_mask": [1] * 128}
arguments = transformers.TrainingArguments(
    tempfile.mkdtemp(), per_device_train_batch_size=4, max_steps=9, bf16=True, report_to="none",
)
transformers.Trainer(
    model=model, args=arguments, train_dataset=[row] * 64, callbacks=[PredictedVsMeasured()],
    data_collator=transformers.default_data_collator,
).train()
"""
CUDA = os.environ.get("LORA_PROFILER_CUDA_PYTHON")


@pytest.mark.skipif(not CUDA, reason="LORA_PROFILER_CUDA_PYTHON names no CUDA build of torch")
def test_on_a_simulated_gpu(tmp_path: Path) -> None:
    """By torch's own counters of the allocator; only the time is the CPU's."""
    script = tmp_path / "train.py"
    script.write_text(ON_A_GPU)
    asked = ("rehearse", "--gpu", "rtx_4090", "--steps", "8", "--python", str(CUDA))
    done = subprocess.run(
        [sys.executable, "-m", "lora_profiler", *asked, "--", "python", str(script)],
        capture_output=True,
        text=True,
        env=OFFLINE | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    said = re.findall(r"lora-profiler: .*", done.stderr)
    assert len(said) == 2, done
    assert said[0].startswith("lora-profiler: ✓ LoRA r8 fits an RTX 4090: ")
    predicted, measured = re.findall(r"([\d.]+) MiB", said[1])
    assert abs(float(predicted) / float(measured) - 1) < 0.001
    assert " s predicted, " in said[1] or " ms predicted, " in said[1]


def test_what_is_better_left_alone_is_not_hooked() -> None:
    torch = pytest.importorskip("torch")
    trained = model()
    with (
        pytest.raises(UsageError, match="object is no optimizer of torch's"),
        PredictedVsMeasured().loop(trained, object()),
    ):
        pass
    trained.compile()
    optimizer = torch.optim.AdamW(trained.parameters())
    with (
        pytest.raises(UsageError, match="compiled anew"),
        PredictedVsMeasured().loop(trained, optimizer),
    ):
        pass


def test_what_is_not_predicted_is_said() -> None:
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(4, 4)
    optimizer = torch.optim.SGD(layer.parameters())
    watch = PredictedVsMeasured(steps=3)
    with watch.loop(layer, optimizer):
        for _ in range(5):
            layer(torch.ones(2, 4)).sum().backward()
            optimizer.step()
    assert watch.outcome is not None and watch.outcome.measured_peak_bytes
    assert watch.outcome.predicted_peak_bytes is None and watch.outcome.reason
    assert watch.outcome.sentence.endswith(f" Not predicted: {watch.outcome.reason}.")


def test_torch_s_optimizer_is_a_loop_on_a_cpu() -> None:
    """torch takes the foreach one of its own accord on a GPU alone."""
    torch = pytest.importorskip("torch")
    trained = model()
    optimizer = torch.optim.AdamW(trained.parameters())
    seen = _Watch(trained, optimizer, None, 3, 1)
    seen._shapes = {"input_ids": [2, 8], "labels": [2, 8]}
    facts = seen._facts()
    seen.close()
    for device, implementation in (("cpu", "forloop"), ("cuda", "foreach")):
        found = nearest(facts | {"device": device}, 1, 80, torch.__version__).prediction
        assert found is not None
        assert found.workload.setup.optimizer_impl == implementation
        assert found.workload.setup.device == device


def test_the_import_loads_neither_torch_nor_transformers() -> None:
    loaded = modules_after("from lora_profiler.integrations import PredictedVsMeasured as P; P()")
    assert loaded.isdisjoint({"torch", "transformers", "trl", "click"})
