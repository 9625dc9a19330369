"""What a trainer's own loop keeps, in the harness' steps and in rules."""

from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("bitsandbytes")

import torch

import cases
from agreement import totals
from lora_profiler import LoraConfig, TrainSetup, Workload, find_model, predict
from lora_profiler.measuring.harness.training import Training, TrainingBatches
from lora_profiler.measuring.records.record import Conditions
from lora_profiler.memory.analytic.plan import EXACT_MOMENTS
from lora_profiler.memory.prediction import Prediction
from lora_profiler.question.support.library_memory import extra_loop_bytes, pass_scalar_bytes
from lora_profiler.trace.modeling import build_model, make_optimizer
from lora_profiler.trace.single_size import predict_once

MODEL = find_model("EleutherAI/pythia-14m", offline=True)


def asked(loop_state: Any) -> Workload:
    setup = TrainSetup(
        batch_size=2,
        seq_len=32,
        accumulation=2,
        dtype="float32",
        device="cpu",
        optimizer="adamw_8bit",
        loop_state=loop_state,
    )
    return Workload(model=MODEL, setup=setup)


@pytest.mark.parametrize("loop_state", ["none", "transformers", "none"])
def test_states_of_embeddings_are_those_of_the_real_optimizer(loop_state: str) -> None:
    """bitsandbytes itself, after a step, also in a process that had another one before; its code
    books are shared among the tensors."""
    workload = asked(loop_state)
    model = build_model(workload)
    optimizer = make_optimizer(model, workload.setup)
    batches = TrainingBatches(workload.setup, Conditions(), model.config.vocab_size)
    training = Training(model, optimizer, workload.setup, batches)
    training.step(lambda step, phase: None)
    storages = {
        value.data_ptr(): value.numel() * value.element_size()
        for state in optimizer.state.values()
        for value in state.values()
        if torch.is_tensor(value)
    }
    told = predict(workload, "analytic").persistent_bytes["optimizer_states"]
    assert sum(storages.values()) == told


@pytest.mark.parametrize(
    ("loop_state", "columns", "scalars", "of_pass"),
    [
        ("none", 1, 0, 0),
        ("transformers", 6, 8, 8),
        ("transformers-unmasked", 4, 8, 8),
        ("trl", 6, 8, 4),
        ("llamafactory", 6, 12, 8),
        ("axolotl", 6, 8, 4),
        ("unsloth", 6, 12, 4),
    ],
)
def test_a_loop_s_batch_and_scalars_are_beside_the_step(
    loop_state: str, columns: int, scalars: int, of_pass: int
) -> None:
    """By hand: labels, and TRL's mask, beside the ids, of both micro-batches at once; the number of
    items, and the norm of float32 gradients; while a pass runs the loss before, and the Trainer's
    before it is divided. The running loss is the harness' too. The harness holds as much more."""
    workload = asked(loop_state)
    told = {
        m.moment: m.bytes["inputs"]
        for m in predict(workload, "analytic").moments
        if m.step == "steady"
    }
    assert told["optimizer_step"] == columns * 2 * 32 * 8 + scalars
    assert told["loss_backward"] == told["optimizer_step"] + of_pass
    model = build_model(workload)
    batches = TrainingBatches(workload.setup, Conditions(), model.config.vocab_size)
    training = Training(model, make_optimizer(model, workload.setup), workload.setup, batches)
    held: dict[str, int] = {}

    def enter(step: int, phase: str) -> None:
        kept = (training.of_loop, training.of_pass)
        held[phase] = sum(t.numel() for t in kept if t is not None)

    training.step(enter)
    beside = (columns - 1) * 2 * 32 * 8 + scalars
    assert held["optimizer"] == beside
    assert held["backward"] == beside + of_pass


def test_dpo_without_adapters_keeps_a_second_model() -> None:
    """Of the size that transformers' own model has; with adapters there is none."""
    workload = asked("trl-dpo")
    model = build_model(workload)
    size = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
    one, two = (predict(asked(loop), "analytic") for loop in ("trl", "trl-dpo"))
    parameters, buffers = (
        two.peak.bytes[name] - one.peak.bytes[name] for name in ("parameters", "buffers")
    )
    assert parameters + buffers == size
    assert two.persistent_bytes["parameters"] == 2 * one.persistent_bytes["parameters"]
    held = Training(model, None, workload.setup, None).of_loop  # type: ignore[arg-type]
    assert held is not None and held.numel() - extra_loop_bytes(workload.setup) == size
    lora = LoraConfig(r=4)
    adapted = [
        predict(replace(w, setup=replace(w.setup, lora=lora)), "analytic").persistent_bytes
        for w in (workload, asked("trl"))
    ]
    assert adapted[0] == adapted[1]


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("lora", [None, LoraConfig()])
def test_torchtune_keeps_the_single_values_of_its_recipe(
    accumulation: int, lora: LoraConfig | None
) -> None:
    """The statements of torchtune 0.7's train(), once more: what is alive in backward of the second
    step, beside what the harness' own loop keeps."""
    labels, weight = torch.ones(4, dtype=torch.int64), torch.ones(4, requires_grad=True)
    logged: Any = 0
    for _ in range(2):
        running: Any = 0
        tokens: Any = 0
        for _ in range(accumulation):
            current_tokens = (labels != -100).sum()
            tokens = tokens + current_tokens
            current = weight.sum() * current_tokens
            running = running + (current if lora else current.detach())
            current.backward()  # type: ignore[no-untyped-call]
            alive = [current_tokens, tokens, current, running, logged]
        logged = running.detach().item() / tokens if lora else (running / tokens).detach().item()
    kept = sum(t.nbytes for t in alive if isinstance(t, torch.Tensor))
    ours = 4 if accumulation > 1 else 0
    setup = TrainSetup(kernels="torchtune", accumulation=accumulation, lora=lora)
    assert pass_scalar_bytes(setup) == kept - ours


def as_traced(workload: Workload) -> tuple[Prediction, Prediction]:
    """By the rules and by a trace of just this step, in which moments and saved bytes are equal.
    Between steps a trace has the batch still."""
    mine, real = predict(workload, "analytic"), predict_once(workload)
    for moment in EXACT_MOMENTS - {"setup"}:
        assert totals(mine)[moment] == totals(real)[moment]
    assert mine.saved_activation_bytes == real.saved_activation_bytes
    return mine, real


@pytest.mark.parametrize("precision", ["pure", "amp"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_axolotl_makes_inputs_require_a_gradient_without_checkpointing(
    name: str, precision: Any
) -> None:
    """The first layer keeps as much as the others then, which a trace of the model shows."""
    lora = LoraConfig(r=4, lora_dropout=0.1)
    setup = TrainSetup(batch_size=2, seq_len=40, lora=lora, precision=precision)
    workload = Workload(model=cases.spec_of(name), setup=replace(setup, loop_state="axolotl"))
    mine, _ = as_traced(workload)
    bare = predict(replace(workload, setup=setup), "analytic")
    assert mine.saved_activation_bytes > bare.saved_activation_bytes  # type: ignore[operator]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_axolotl_trains_ends_in_float32_beside_layers_in_16_bit(
    name: str, checkpointing: bool
) -> None:
    setup = TrainSetup(
        batch_size=2, seq_len=40, precision="amp", checkpointing=checkpointing, loop_state="axolotl"
    )
    workload = Workload(model=cases.spec_of(name), setup=setup)
    mine, real = as_traced(workload)
    assert mine.persistent_bytes == real.persistent_bytes
    over_flash = replace(workload, setup=replace(setup, attention="flash_attention_2"))
    narrow = predict(over_flash, "analytic").persistent_bytes["parameters"]
    ends = [m for n, m in workload.model.modules() if "norm" in n or n.endswith(("tokens", "head"))]
    numel = sum(w.numel for module in ends for w in module.weights if w.tied_to is None)
    assert mine.persistent_bytes["parameters"] - narrow == 2 * numel
