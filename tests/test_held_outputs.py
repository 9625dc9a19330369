"""A loop that holds the model's output until the next one is there: predicted to the byte.

The truth is a fresh trace, the CPU allocator's record of real steps, and the harness' own passes.
"""

from dataclasses import replace

import pytest

import cases
import oracle
import tracing
import truth
from agreement import exact_totals, totals
from lora_profiler.analytic import predict
from lora_profiler.attribution import LOGITS
from lora_profiler.catalog import find_model, model_from_config
from lora_profiler.compiled.profile import profile_key, setup_key
from lora_profiler.compiled.regime import regime_of
from lora_profiler.harness.memory_pass import MemoryResult, memory_pass, one_step_peak
from lora_profiler.harness.training import Training, TrainingBatches
from lora_profiler.modeling import build_model, make_optimizer
from lora_profiler.planning.engine import peak_bytes
from lora_profiler.planning.memory_savings import levers
from lora_profiler.records.record import Conditions
from lora_profiler.traced.single_size import predict_once
from lora_profiler.workload import LoraConfig, Quantization, TrainSetup, Workload

BASE = TrainSetup(batch_size=2, seq_len=40, hold_outputs=True)
LORA = LoraConfig(r=4)
CHECKPOINTED = replace(BASE, lora=LORA, checkpointing=True)
AMP = replace(BASE, lora=LORA, dtype="float32", precision="amp")


def workload(name: str, setup: TrainSetup, **changes: object) -> Workload:
    config = tracing.config_of(name, **changes)
    return Workload(model=model_from_config(config, id=name, source="test"), setup=setup)


@pytest.mark.grid
@pytest.mark.parametrize(
    ("name", "setup"),
    [
        ("llama", BASE),
        ("llama", replace(BASE, lora=LORA, batch_size=1)),
        ("qwen2", CHECKPOINTED),
        ("qwen2", replace(AMP, checkpointing=True)),
        ("gemma2", replace(BASE, attention="eager")),
        ("gpt2", AMP),
        ("phi3", replace(CHECKPOINTED, quantization=Quantization())),
        ("mixtral", BASE),
        ("opt", replace(CHECKPOINTED, dtype="float32", loss="chunked")),
        ("llama", replace(BASE, world_size=2, sharding="fsdp", lora=LORA, checkpointing=True)),
        ("llama", replace(BASE, world_size=2, sharding="ddp")),
    ],
    ids=lambda value: value if isinstance(value, str) else value.method,
)
def test_moments_are_those_of_the_trace(name: str, setup: TrainSetup) -> None:
    """In the first step too, in which nothing is held until backward."""
    if setup.lora is not None:
        setup = replace(setup, lora=cases.methods(name)["all"] or LORA)
    held, bare = workload(name, setup), workload(name, replace(setup, hold_outputs=False))
    mine, real = predict(held), predict_once(held)
    for step in (1, "steady"):
        assert exact_totals(mine, step) == exact_totals(real, step)
    assert totals(mine)["setup"] > totals(predict(bare))["setup"]


@pytest.mark.parametrize("setup", [CHECKPOINTED, replace(AMP, accumulation=3)])
def test_inside_layers_rules_differ_from_the_trace_as_when_nothing_is_held(
    setup: TrainSetup,
) -> None:
    """With accumulation each micro-batch holds its own output, and the loss before it is
    divided."""
    differences = []
    for each in (setup, replace(setup, hold_outputs=False)):
        asked = workload("llama", each)
        for step in (1, "steady"):
            mine, real = totals(predict(asked), step), totals(predict_once(asked), step)
            differences.append({moment: mine[moment] - size for moment, size in real.items()})
    assert differences[:2] == differences[2:]


@pytest.mark.parametrize(
    ("name", "setup"),
    [
        ("llama", BASE),
        ("qwen2", CHECKPOINTED),
        ("gpt2", replace(BASE, lora=LORA)),
        ("llama", replace(CHECKPOINTED, loss="fused")),
    ],
)
def test_real_steps(name: str, setup: TrainSetup) -> None:
    setup = replace(setup, device="cpu", dtype="float32", optimizer_impl="fused", seq_len=100)
    config = tracing.config_of(name, vocab_size=4001)
    prediction = predict(workload(name, setup, vocab_size=4001))
    real = truth.peaks_without_onednn(config, setup)

    assert real[2, "optimizer"] == totals(prediction)["optimizer_step"]
    assert prediction.peak.total_bytes == pytest.approx(real[2, "step"], rel=1e-3)


def test_the_harness_holds_it_too() -> None:
    """Allocator's record, storage tracker and one step more agree with each other and with the
    rules; the logits are the loss's in what the peak is made of."""
    setup = replace(BASE, device="cpu", dtype="float32", seq_len=64, optimizer_impl="fused")
    asked = workload("llama", setup, vocab_size=8000)
    model = build_model(asked)
    batches = TrainingBatches(setup, Conditions(), 8000)
    training = Training(model, make_optimizer(model, setup), setup, batches)
    result = MemoryResult()
    memory_pass(training, Conditions(), result, lambda step, phase: None)
    prediction = predict(asked)
    assert result.peak is not None
    assert result.peak[1] == pytest.approx(prediction.peak.total_bytes, rel=1e-3)
    assert result.tracked["optimizer"] == pytest.approx(result.steady["optimizer"], rel=1e-3)
    assert result.attribution["logits_and_loss"] == pytest.approx(
        prediction.peak.bytes["logits_and_loss"], rel=1e-3
    )
    assert one_step_peak(training) == pytest.approx(result.peak[1], rel=1e-3)


def test_a_trace_names_the_logits_as_the_loss_s() -> None:
    found = tracing.traced_of(tracing.config_of("llama"), BASE)
    position = next(
        m.position for m in found.trace.marks if m.note == LOGITS and m.step == 2 and m.micro == 0
    )
    dead = {~event for event in found.trace.events[:position] if event < 0}
    born = {event for event in found.trace.events[:position] if event >= 0}
    sizes = [
        birth.size_bytes
        for number, birth in enumerate(found.trace.births)
        if number in born - dead and birth.category == "logits_and_loss"
    ]
    assert sorted(sizes)[-2:] == [2 * 40 * 2 * tracing.VOCABULARY] * 2


def test_a_profile_is_of_one_of_both() -> None:
    """The key of the loop that drops its outputs is the one that it always was."""
    held = workload("llama", BASE)
    keys = [
        profile_key(held.model, setup, regime_of(replace(held, setup=setup)))
        for setup in (BASE, replace(BASE, hold_outputs=False), TrainSetup(batch_size=2, seq_len=40))
    ]
    assert keys[0] != keys[1] == keys[2]
    assert setup_key(BASE)["hold_outputs"] is True


def test_what_it_costs_by_hand() -> None:
    """Llama 3.1 8B: two bytes for each of the logits, from one step to the next one's loss."""
    model = find_model("meta-llama/Llama-3.1-8B", offline=True)
    setup = TrainSetup(lora=LoraConfig(), seq_len=2048)
    bare, held = (
        Workload(model=model, setup=replace(setup, hold_outputs=h)) for h in (False, True)
    )
    logits = 2 * 2048 * 128_256
    mine, plain = totals(predict(held)), totals(predict(bare))
    assert mine["loss_backward"] - plain["loss_backward"] == logits
    assert mine["optimizer_step"] - plain["optimizer_step"] == logits
    assert mine["end_of_forward"] - plain["end_of_forward"] == logits + 4
    assert mine["setup"] - plain["setup"] == logits + 4
    lever = next(lever for lever in levers(held) if lever.option == "--no-hold-outputs")
    assert lever.peak_bytes == peak_bytes(bare)


def test_oracle_s_own_loop_keeps_the_output() -> None:
    """What the real steps above are compared with holds something at all."""
    setup = replace(BASE, device="cpu", dtype="float32")
    config = tracing.config_of("llama")
    held, bare = (
        oracle.step_peaks(oracle.build(config, s), s, source="dispatch")
        for s in (setup, replace(setup, hold_outputs=False))
    )
    assert held[2, "optimizer"] - bare[2, "optimizer"] == 4 * 2 * 40 * tracing.VOCABULARY
