"""A loop that holds the model's output until the next one is there: predicted to the byte.

The truth is a fresh trace, the CPU allocator's record of real steps, and the harness' own passes.
"""

from dataclasses import replace

import pytest

import cases
import families
import oracle
import tracing
import truth
from agreement import exact_totals, totals
from lora_profiler.facts.catalog import find_gpu, find_model, model_from_config
from lora_profiler.measuring.harness.memory_pass import MemoryResult, memory_pass, one_step_peak
from lora_profiler.measuring.harness.training import Training, TrainingBatches
from lora_profiler.measuring.records.record import Conditions
from lora_profiler.memory.analytic import predict
from lora_profiler.memory.attribution import LOGITS
from lora_profiler.memory.compiled.allocator import AllocatorPeak, replay
from lora_profiler.memory.compiled.evaluation import Evaluation, tape_of
from lora_profiler.memory.compiled.held import held_tape
from lora_profiler.memory.compiled.profile import profile_key, setup_key
from lora_profiler.memory.compiled.regime import regime_of
from lora_profiler.memory.compiled.requests import requests_for, requests_of
from lora_profiler.memory.compiled.tape import FlatEvent
from lora_profiler.planning.engine import peak_bytes
from lora_profiler.planning.memory_savings import levers
from lora_profiler.planning.reserve import Judged, usable_bytes
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.trace.compiler import compile_profile
from lora_profiler.trace.flat import flat
from lora_profiler.trace.fold import unfolded
from lora_profiler.trace.modeling import build_model, make_optimizer
from lora_profiler.trace.run import trace
from lora_profiler.trace.single_size import predict_once, profile_of

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


# --- the tape of a loop that holds its outputs, made of one that drops them ------------------------

ENCODER_DECODERS = ("t5", "bart", "whisper")
DECODERS = [name for name in (*families.TINY, *tracing.OTHERS) if name not in ENCODER_DECODERS]
FEW = [
    ("llama", "half"), ("gemma2", "lora checkpointed"), ("granite", "full"),
    ("gpt2", "lora dropout accumulated"), ("cohere", "amp checkpointed"),
]  # fmt: skip
KINDS = ("full", "half lora checkpointed")


def in_order(events: list[FlatEvent]) -> list[object]:
    """What is made, and between that what is given back, whose order makes no difference."""
    ordered: list[object] = [[]]
    for event in events:
        if event.birth is not None:
            ordered += [(event.birth.size, event.birth.op, event.birth.module), []]
        elif event.mark is not None:
            ordered += [event.mark, []]
        else:
            ordered[-1] = sorted([*ordered[-1], event.dies])  # type: ignore[misc]
    return ordered


def assert_the_tape_is_the_traced_one(name: str, setup: TrainSetup) -> None:
    setup = replace(setup, device="cuda", seq_len=40)
    if setup.lora is not None and name in tracing.ATTENTION_ALONE:
        setup = replace(setup, lora=cases.methods(name)["all"])
    config = tracing.config_of(name)
    dropped, held = (
        flat(tracing.traced_of(config, replace(setup, hold_outputs=holds))).events
        for holds in (False, True)
    )
    made = held_tape(unfolded(dropped))
    assert made is not None
    assert in_order(made.expand(0)) == in_order(held) != in_order(dropped)


@pytest.mark.parametrize(("name", "kind"), FEW)
def test_its_tape_is_the_traced_one(name: str, kind: str) -> None:
    assert_the_tape_is_the_traced_one(name, tracing.SETUPS[kind])


@pytest.mark.parametrize("reentrant", [False, True])
def test_the_leaf_of_checkpoints_is_held_from_micro_batch_to_micro_batch(reentrant: bool) -> None:
    setup = replace(tracing.SETUPS["half lora checkpointed"], accumulation=2)
    assert_the_tape_is_the_traced_one("llama", replace(setup, use_reentrant=reentrant))


@pytest.mark.grid
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", DECODERS)
def test_its_tape_is_the_traced_one_for_every_decoder(name: str, kind: str) -> None:
    assert_the_tape_is_the_traced_one(name, tracing.SETUPS[kind])


@pytest.mark.parametrize("accumulation", [1, 2])
def test_at_every_depth_and_size_the_allocator_is_asked_for_the_same(accumulation: int) -> None:
    """The loss dies in a block of the stack where adapters of the first layer end backward."""
    setup = replace(AMP, accumulation=accumulation, checkpointing=accumulation == 1)
    held = workload("gpt2", setup, n_layer=7)
    bare = replace(held, setup=replace(setup, hold_outputs=False))
    dropped, traced = compile_profile(bare), compile_profile(held)
    tape = held_tape(dropped.tape)
    assert tape is not None
    for layers in (4, 9):
        made, real = (
            Evaluation(profile, profile.units(layers) or 0, setup)
            for profile in (replace(dropped, tape_source=tape), traced)
        )
        asked = workload("gpt2", replace(setup, batch_size=5, seq_len=333), n_layer=layers)
        assert asking(made, asked) == asking(real, asked)


def asking(evaluation: Evaluation, asked: Workload) -> tuple[object, ...]:
    sizes, events, again = requests_of(evaluation, asked)
    return sizes, again, replay(sizes, events).reserved_bytes


@pytest.mark.grid
@pytest.mark.usefixtures("the_bundle")
@pytest.mark.parametrize("name", ["gpt2", "HuggingFaceTB/SmolLM2-135M"])
def test_real_models_reserve_what_their_traces_reserve(name: str) -> None:
    setup = TrainSetup(batch_size=4, seq_len=768, lora=LoraConfig(), hold_outputs=True)
    asked = Workload(model=find_model(name, offline=True), setup=setup)
    made = requests_for(asked)
    traced = profile_of(asked, trace(asked, lambda w: build_model(w, device="meta")))
    assert made is not None
    sizes, events, _ = requests_of(Evaluation(traced, 0, setup), asked)
    real, found = replay(sizes, events), replay(made.sizes, made.events)
    assert found.reserved_bytes == real.reserved_bytes
    assert found.allocated_bytes == real.allocated_bytes


@pytest.mark.usefixtures("the_bundle")
def test_peft_s_own_loop_has_its_fragmentation_simulated() -> None:
    """A bound of 3.84 GiB stood for it, where a traced tape needs 1.82."""
    model, gpu = find_model("meta-llama/Llama-3.2-3B", offline=True), find_gpu("l40s")
    lora = LoraConfig(r=64, target_modules=("q_proj", "v_proj"))
    setup = TrainSetup(batch_size=4, seq_len=768, lora=lora, hold_outputs=True)
    asked = Workload(model=model, setup=setup)
    judged = Judged(asked, peak_bytes(asked), usable_bytes(gpu), gpu)
    assert judged.reserve.is_simulated
    assert judged.reserve.fragmentation_bytes < judged.bound.fragmentation_bytes / 2


@pytest.mark.usefixtures("the_bundle")
def test_the_allocator_comes_to_what_a_rehearsal_came_to() -> None:
    """Requested, allocated and reserved by torch 2.15's CUDA build on a pretended A100: `bench
    --rehearse --hold-outputs` of 4 x 512 tokens, LoRA of rank 16."""
    setup = TrainSetup(batch_size=4, seq_len=512, lora=LoraConfig(), hold_outputs=True)
    model = find_model("HuggingFaceTB/SmolLM2-135M", offline=True)
    platform = Platform(capability=80, torch=(2, 15))
    requests = requests_for(Workload(model=model, setup=setup, platform=platform))
    assert requests is not None
    found = replay(requests.sizes, requests.events)
    assert found == AllocatorPeak(
        requested_bytes=4_032_231_000, allocated_bytes=4_048_145_920, reserved_bytes=4_783_603_712
    )


def test_a_tape_without_logits_or_with_an_encoder_is_not_made() -> None:
    encoder = workload("t5", BASE)
    assert tape_of(encoder) is None
    found = flat(tracing.traced_of(tracing.config_of("llama"), replace(BASE, hold_outputs=False)))
    without = [event for event in found.events if event.mark is None or event.mark.note != LOGITS]
    assert held_tape(unfolded(without)) is None
