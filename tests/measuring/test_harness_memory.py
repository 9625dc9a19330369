"""The memory pass against what it cannot make up: planted bytes, torch's own tracker, the oracle's
reading of the profiler."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker

import families
import oracle
from lora_profiler.facts.catalog import model_from_config
from lora_profiler.measuring.harness import memory_pass as passes
from lora_profiler.measuring.harness import ownership
from lora_profiler.measuring.harness.memory_pass import MemoryResult, memory_pass, one_step_peak
from lora_profiler.measuring.harness.timeline import Allocation, AllocationClaims, Timeline
from lora_profiler.measuring.harness.timing_pass import MarkedSteps
from lora_profiler.measuring.harness.tracker import BudgetExceededError
from lora_profiler.measuring.harness.training import Training, TrainingBatches, token_counts
from lora_profiler.measuring.records.record import Conditions
from lora_profiler.memory.attribution import PhaseMark
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.trace.modeling import build_model, make_optimizer
from lora_profiler.units import MIB

FULL = TrainSetup(device="cpu", dtype="float32", batch_size=2, seq_len=64)
LORA = replace(FULL, lora=LoraConfig(r=4))


pytestmark = pytest.mark.usefixtures("one_thread")


def training(
    setup: TrainSetup,
    family: str = "llama",
    ballast_bytes: int = 0,
    conditions: Conditions | None = None,
    **config: Any,
) -> Training:
    model = model_from_config(dict(families.TINY[family]) | config, id="tiny", source="test")
    built = build_model(Workload(model=model, setup=setup))
    batches = TrainingBatches(setup, conditions or Conditions(), model.config["vocab_size"])
    return Training(built, make_optimizer(built, setup), setup, batches, ballast_bytes)


def measured(run: Training, conditions: Conditions | None = None) -> MemoryResult:
    result = MemoryResult()
    memory_pass(run, conditions or Conditions(), result, lambda step, phase: None)
    return result


# --- 1: planted bytes -----------------------------------------------------------------------------


@pytest.mark.grid
@pytest.mark.parametrize("mebibytes", [1, 64, 512])
def test_ballast_raises_every_peak_by_exactly_its_bytes(mebibytes: int) -> None:
    ballast = mebibytes * MIB
    plain, heavy = measured(training(LORA)), measured(training(LORA, ballast_bytes=ballast))
    for less, more in ((plain.steady, heavy.steady), (plain.tracked, heavy.tracked)):
        raised = {phase: size - less[phase] for phase, size in more.items()}
        assert raised == dict.fromkeys(less, ballast)
    before = plain.attribution.get("temporaries", 0)
    assert heavy.attribution["temporaries"] - before == ballast


def test_a_short_lived_tensor_in_forward_raises_the_forward_phase_alone() -> None:
    plain, run = measured(training(LORA)), training(LORA)
    layer = run.model.get_submodule("base_model.model.model.layers.0")
    layer.register_forward_hook(lambda *_: torch.ones(8 * MIB, dtype=torch.uint8).sum() and None)
    spiked = measured(run)
    raised = {phase for phase, size in spiked.steady.items() if size > plain.steady[phase]}
    assert raised == {"forward"}
    assert spiked.steady["forward"] > 8 * MIB
    assert spiked.peak == ("forward", spiked.steady["forward"])
    assert spiked.attribution["temporaries"] >= 8 * MIB


# --- 2: several witnesses -------------------------------------------------------------------------

WIDE = {"vocab_size": 32_000}
SEEN = [
    ("llama", "full", False),
    ("gpt2", "full", True),
    ("opt", "lora", True),
    ("qwen3", "lora", False),
]


@pytest.mark.grid
@pytest.mark.parametrize(("family", "method", "checkpointing"), SEEN)
def test_allocator_tracker_and_profiler_agree(
    family: str, method: str, checkpointing: bool
) -> None:
    """Within 0.01 % of a peak of some 200 MB; the categories are its sum, and next to nothing is
    without an owner."""
    plain = FULL if method == "full" else LORA
    setup = replace(plain, checkpointing=checkpointing, batch_size=2, seq_len=256)
    result = measured(training(setup, family, **WIDE))
    assert result.peak is not None
    phase, peak = result.peak
    model = oracle.build(dict(families.TINY[family]) | WIDE, setup)
    theirs = oracle.step_peaks(model, setup)
    assert peak == pytest.approx(theirs[2, "step"], rel=1e-4)
    assert result.tracked[phase] == pytest.approx(peak, rel=1e-4)
    for ours, name in (
        (max(result.steady["forward"], result.steady["loss"]), "forward"),
        (result.steady["backward"], "backward"),
        (result.steady["optimizer"], "optimizer"),
    ):
        assert ours == pytest.approx(theirs[2, name], rel=1e-4), name
    assert max(result.step1.values()) == pytest.approx(theirs[1, "step"], rel=1e-4)
    assert sum(result.attribution.values()) == peak
    assert abs(result.attribution["unattributed"]) <= 1e-4 * peak


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_full_training_agrees_with_torchs_mem_tracker(family: str) -> None:
    """MemTracker follows modules and not owners, knows no frozen parameter, and is right from its
    second step on."""
    setup = replace(FULL, batch_size=2, seq_len=256)
    result = measured(training(setup, family, **WIDE))
    run = training(setup, family, **WIDE)
    tracker = MemTracker()
    tracker.track_external(run.model, run.optimizer)
    with tracker:
        run.step(lambda step, phase: None)
        tracker.reset_mod_stats()
        run.step(lambda step, phase: None)
    theirs = max(snapshot["Total"] for snapshot in tracker.get_tracker_snapshot("peak").values())
    assert result.peak is not None
    assert result.peak[1] == pytest.approx(theirs, rel=1e-4)


def test_the_tracker_sums_gradients_as_autograd_does_without_it() -> None:
    """OPT with LoRA and a small vocabulary: its backward peak lies where the gradients of q, k and
    v are added up."""
    setup = replace(LORA, batch_size=4, seq_len=128)
    sizes = dict.fromkeys(("hidden_size", "word_embed_proj_dim", "ffn_dim"), 256)
    sizes |= {"num_attention_heads": 8, "num_hidden_layers": 2}
    result = measured(training(setup, "opt", vocab_size=64, **sizes))
    assert result.tracked["backward"] == pytest.approx(result.steady["backward"], rel=1e-3)


def test_a_bias_that_bitsandbytes_replaces_is_not_counted_twice() -> None:
    """PEFT's k-bit preparation makes biases float32, the first forward pass makes them 16 bit
    again: the old ones are gone."""
    setup = replace(LORA, dtype="bfloat16", quantization=Quantization(recipe="kbit"))
    result = measured(training(setup, "gpt_neox"))
    assert result.attribution["parameters"] == result.persistent["parameters"]


def test_a_text_to_train_on_is_no_memory_of_the_training() -> None:
    plain = measured(training(LORA)).steady
    reading = training(LORA)
    text = torch.arange(300_000) % 50
    reading.batches = TrainingBatches(LORA, Conditions(), 101, text)
    expected = [text[:128].tolist(), text[128:256].tolist()]
    assert [reading.batches.next()["input_ids"].flatten().tolist() for _ in range(2)] == expected
    del text
    assert measured(reading).steady == plain


def test_what_was_replaced_ends_when_it_went_and_not_when_its_address_is_used_again() -> None:
    """Addresses by hand: 7 belongs to a bias that is gone at the end of backward, and is given out
    again much later."""
    old = Allocation(key=7, size_bytes=192, died=50)
    timeline = Timeline(
        allocations=[old],
        marks=[PhaseMark(position=10, step=1, phase="backward", note="end of backward")],
        end=60,
    )
    run = training(LORA)
    claims = AllocationClaims(before={7: "parameters"})
    steps = MarkedSteps(run, None, claims, ownership.by_address, lambda step, phase: None)
    steps._seen = [(1, "end of backward", [8], "parameters")]
    steps.bury(timeline)
    assert old.died == 10


def test_the_memory_pass_changes_no_peak() -> None:
    for setup in (FULL, LORA, replace(LORA, checkpointing=True)):
        run = training(setup)
        result = measured(run)
        assert result.peak is not None
        assert one_step_peak(run) == result.peak[1]


# --- 3: step 1, steady state, optimizer implementations -------------------------------------------


def test_optimizer_implementations_and_the_first_step() -> None:
    """foreach needs the trainable bytes once more, a loop two of the largest parameter, fused next
    to nothing."""
    found = {}
    for implementation in ("fused", "forloop", "foreach"):
        setup = replace(FULL, optimizer_impl=implementation)
        run = training(setup, hidden_size=96, vocab_size=2000)
        found[implementation] = measured(run)
    at_step = {name: result.steady["optimizer"] for name, result in found.items()}
    assert at_step["fused"] < at_step["forloop"] < at_step["foreach"]
    trainable = found["fused"].persistent["parameters"]
    assert at_step["foreach"] - at_step["fused"] == pytest.approx(trainable, rel=0.01)
    largest = 2000 * 96 * 4
    assert at_step["forloop"] - at_step["fused"] == pytest.approx(2 * largest, rel=0.01)
    for result in found.values():
        assert result.step1["forward"] < result.steady["forward"]
        states = result.steady["forward"] - result.step1["forward"]
        assert states == pytest.approx(2 * trainable, rel=0.01)


# --- what a peak is made of -----------------------------------------------------------------------


@pytest.mark.grid
@pytest.mark.parametrize(
    "setup",
    [
        FULL,
        LORA,
        replace(LORA, dtype="bfloat16"),
        replace(LORA, dtype="bfloat16", checkpointing=True),
        replace(LORA, dtype="bfloat16", quantization=Quantization()),
        replace(LORA, lora=LoraConfig(r=4, modules_to_save=("lm_head",))),
        replace(FULL, optimizer="adamw_8bit"),
        replace(FULL, accumulation=2),
        replace(FULL, precision="amp"),
    ],
)
def test_persistent_bytes_are_those_of_the_oracle(setup: TrainSetup) -> None:
    result = measured(training(setup))
    model = oracle.build(families.TINY["llama"], setup)
    theirs = oracle.persistent_bytes(model, setup, oracle.make_optimizer(model, setup))
    weights, gradients, states = (sum(sizes[i] for sizes in theirs.values()) for i in range(3))
    kept = result.persistent
    assert kept["parameters"] + kept.get("adapters", 0) == weights
    assert kept["gradients"] == gradients
    assert kept["optimizer_states"] == states
    assert kept.get("quantization_state", 0) == sum(oracle.quantization_state_bytes(model).values())


@pytest.mark.parametrize(
    "setup", [FULL, LORA, replace(LORA, checkpointing=True), replace(FULL, attention="eager")]
)
def test_saved_activations_are_those_of_the_oracle(setup: TrainSetup) -> None:
    theirs = oracle.saved_activation_bytes(oracle.build(families.TINY["llama"], setup), setup)
    assert measured(training(setup)).saved_activation_bytes == theirs


def test_a_tensor_that_nobody_owns_is_unattributed() -> None:
    forgotten = torch.ones(3 * MIB, dtype=torch.uint8)
    result = measured(training(LORA))
    assert result.attribution["unattributed"] >= forgotten.nbytes


# --- budgets --------------------------------------------------------------------------------------


def test_a_budget_ends_the_run_where_it_is_passed() -> None:
    whole = measured(training(LORA))
    assert whole.peak is not None
    enough = Conditions(budget_bytes=whole.peak[1])
    assert measured(training(LORA), enough).peak == whole.peak
    result = MemoryResult()
    too_little = Conditions(budget_bytes=whole.peak[1] - 4096)
    with pytest.raises(BudgetExceededError) as raised:
        memory_pass(training(LORA), too_little, result, lambda step, phase: None)
    assert raised.value.live_bytes + raised.value.tried_bytes > raised.value.budget_bytes
    assert result.samples, "what was seen before is kept"
    assert not result.attribution


# --- a case that just fits ------------------------------------------------------------------------


def out_of_memory(run: Training, after_steps: int, where: str) -> Any:
    """Plants an error in every pass from step `after_steps` + 1 on, in forward or half way through
    backward."""

    def fail(*_: Any) -> None:
        if run.steps_done >= after_steps:
            raise torch.OutOfMemoryError("planted")

    name = "model.layers.1" if where == "forward" else "model.layers.0.mlp.down_proj"
    layer = run.model.get_submodule(name)
    if where == "forward":
        return layer.register_forward_hook(fail)
    return layer.weight.register_post_accumulate_grad_hook(fail)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("where", "after_steps"), [("forward", 3), ("forward", 4), ("backward", 3)]
)
def test_running_out_of_memory_after_the_steps_takes_nothing_from_them(
    where: str, after_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After three steps come the tracked one, and a forward pass that looks at what autograd
    saves."""
    emptied: list[int] = []
    monkeypatch.setattr(
        torch.cpu, "empty_cache", lambda: emptied.append(run.steps_done), raising=False
    )
    plain, run = measured(training(FULL)), training(FULL)
    planted = out_of_memory(run, after_steps, where)
    result = measured(run)
    passes_failed = 1 if where == "backward" or after_steps == 4 else 2
    # what a failed pass left would be reserved while steps are timed
    assert emptied == [after_steps] * passes_failed
    planted.remove()
    told = (result.peak, result.steady, result.attribution)
    assert told == (plain.peak, plain.steady, plain.attribution)
    assert result.tracked == ({} if after_steps == 3 else plain.tracked)
    kept = plain.saved_activation_bytes if where == "backward" else None
    assert result.saved_activation_bytes == kept
    assert result.peak is not None
    assert all(p.grad is None for p in run.model.parameters())
    # only now autograd lets go of the gradients that waited in its queue when backward failed
    run.step(lambda *_: None)
    # what the failed passes left would lie below every later peak
    assert one_step_peak(run) == result.peak[1]


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_running_out_of_memory_in_a_step_is_what_the_run_shows(where: str) -> None:
    run = training(FULL)
    out_of_memory(run, 2, where)
    with pytest.raises(torch.OutOfMemoryError, match="planted"):
        measured(run)


def test_another_error_after_the_steps_is_raised() -> None:
    run = training(FULL)
    layer = run.model.get_submodule("model.layers.1")
    layer.register_forward_hook(lambda *_: 1 / 0 if run.steps_done >= 3 else None)
    with pytest.raises(ZeroDivisionError):
        measured(run)


class FakeCounters:
    """A caching allocator that met five retries while the model was loaded, and meets more as `run`
    goes."""

    available = True
    run: Training
    retries: int
    segments: int

    def __init__(self, kind: str) -> None:
        assert kind == "cpu"

    def read(self) -> dict[str, int | None]:
        requested = {"requested_bytes": 1000, "requested_peak_bytes": 2000}
        return {**requested, "allocated_bytes": 1024, "allocated_peak_bytes": 2048}

    def reset_peaks(self) -> None:
        type(self).segments = 1

    def counts(self) -> dict[str, int]:
        return {"num_alloc_retries": self.retries}

    def highest(self) -> dict[str, int]:
        return {"segments_peak": self.segments}

    def synchronize(self) -> None:
        pass


@pytest.mark.parametrize("fails", [False, True])
def test_the_allocator_s_health_is_that_of_the_steps_alone(
    fails: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    retries = {0: 2, 1: 1, 2: 0, 3: 70, 4: 70}
    segments = {0: 4, 1: 9, 2: 4, 3: 50, 4: 50}
    monkeypatch.setattr(passes, "Counters", FakeCounters)
    FakeCounters.retries, FakeCounters.segments = 5, 30
    run = training(FULL)

    def count(*_: Any) -> None:
        FakeCounters.retries += retries[run.steps_done]
        FakeCounters.segments = segments[run.steps_done]

    run.model.get_submodule("model.layers.1").register_forward_hook(count)
    if fails:
        out_of_memory(run, 3, "forward")
    result = measured(run)
    assert result.health.found == {"num_alloc_retries": 3, "segments_peak": 9}
    assert result.peak is not None and result.peak[1] == 2000
    assert (result.attribution == {}, result.tracked == {}) == (fails, fails)


# --- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "padding"), [("cuda", 0.0), ("cuda", 0.5), ("cpu", 0.0), ("xpu", 0.5)]
)
def test_batches_reach_cuda_without_a_wait(
    device: Any, padding: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a copy from pinned memory that is asked not to block lets the host go on (CUDA's guide,
    page-locked memory)."""
    pinned: list[torch.Tensor] = []
    moved: list[tuple[bool, Any, bool]] = []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(tensor.clone())
        return pinned[-1]

    def to(tensor: torch.Tensor, where: Any, non_blocking: bool = False) -> torch.Tensor:
        moved.append((any(tensor is each for each in pinned), where, non_blocking))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    monkeypatch.setattr(torch.Tensor, "to", to)
    setup, conditions = replace(FULL, padding=padding), Conditions()
    batch = TrainingBatches(replace(setup, device=device), conditions, 101).next()
    fast = device == "cuda"
    assert moved == [(fast, device, fast)] * len({id(t) for t in batch.values()})
    monkeypatch.undo()
    expected = TrainingBatches(setup, conditions, 101).next()
    assert all(torch.equal(batch[name], expected[name]) for name in expected)


# --- 10: padding and accumulation -----------------------------------------------------------------


def test_padding_takes_real_tokens_away_and_leaves_the_padded_ones() -> None:
    plain = token_counts(TrainingBatches(FULL, Conditions(), 101).next())
    half = TrainingBatches(replace(FULL, padding=0.5), Conditions(), 101).next()
    assert plain == (128, 128, 128)
    assert token_counts(half) == (128, 64, 64)
    assert int((half["labels"] != -100).sum()) == 64
    assert half["attention_mask"].sum(1).tolist() == [32, 32]


def test_accumulation_costs_the_gradients_and_no_more() -> None:
    """Four micro-batches of one sequence: the memory of one, and from the second on the gradients
    stay meanwhile."""
    one = measured(training(replace(FULL, batch_size=1)))
    four = measured(training(replace(FULL, batch_size=1, accumulation=4)))
    more = four.steady["forward"] - one.steady["forward"]
    assert more == pytest.approx(one.persistent["gradients"], rel=0.01)
    assert four.steady["optimizer"] == pytest.approx(one.steady["optimizer"], abs=256)


# --- the timeline itself --------------------------------------------------------------------------


def test_a_timeline_worked_by_hand() -> None:
    """Base 10; forward takes 5 and 7 and lets the 7 go; backward takes 4 while the 5 is there, and
    lets all go."""
    marks = [
        PhaseMark(position=0, step=1, phase="forward"),
        PhaseMark(position=4, step=1, phase="backward"),
        PhaseMark(position=8, step=2, phase="setup"),
    ]
    allocations = [
        Allocation(key=1, size_bytes=10),
        Allocation(key=2, size_bytes=5, born=1, died=6),
        Allocation(key=3, size_bytes=7, born=2, died=3),
        Allocation(key=4, size_bytes=4, born=5, died=7),
    ]
    timeline = Timeline(allocations=allocations, marks=marks, end=9)
    assert timeline.live_bytes() == [10, 15, 22, 15, 15, 19, 14, 10, 10, 10]
    peaks = {key: (peak.position, peak.size_bytes) for key, peak in timeline.peaks().items()}
    assert peaks == {(1, "forward"): (2, 22), (1, "backward"): (5, 19), (2, "setup"): (8, 10)}
