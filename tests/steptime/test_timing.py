"""Step time where it is asked: which kernels and constants answer, what is refused in words, and
why LoRA gains what it gains."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

import lora_profiler
from lora_profiler._common import packages
from lora_profiler.errors import UnbuildableError, UsageError
from lora_profiler.facts.catalog import Gpu, find_gpu, find_model
from lora_profiler.facts.evidence import measured_steps, nearest_step
from lora_profiler.memory.kernels import Gemm, Kernel, StepKernels
from lora_profiler.planning import timing
from lora_profiler.planning.answers import answers
from lora_profiler.planning.engine import predict
from lora_profiler.planning.timing import Cause, SpeedGap, TimedStep, Timing, speed_gap, step_time
from lora_profiler.question.workload import Dtype, LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.report import labels
from lora_profiler.report.answer.timing import gap_line, time_lines, time_table
from lora_profiler.steptime import (
    PARTS,
    Constants,
    Fixed,
    Part,
    Rates,
    StepTime,
    rates_of,
    step_time_at,
)
from lora_profiler.steptime.constants import bundled

GPT2 = find_model("gpt2")
A100 = find_gpu("a100_sxm_80gb")
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "step_time.json"
WIDE, RANK = 768, 32


def ask(lora: LoraConfig | None = None, **setup: Any) -> Workload:
    return Workload(model=GPT2, setup=TrainSetup(lora=lora, **{"seq_len": 512, **setup}))


def product(m: int, n: int, k: int, dtype: Any = "bfloat16", count: int = 1) -> Kernel:
    gemm, size = Gemm(m=m, n=n, k=k), 4 if dtype == "float32" else 2
    made = copies(0, count, "gemm")
    moved = {"read_bytes": size * (m + n) * k, "written_bytes": size * m * n}
    return made._replace(op="mm", dtype=dtype, gemm=gemm, flops=gemm.flops, **moved)


def copies(moved: int, count: int = 1, kind: Any = "memory") -> Kernel:
    whose: dict[str, Any] = {"op": "", "phase": "forward", "module": ""}
    return Kernel(kind=kind, read_bytes=moved, written_bytes=moved, count=count, **whose)


def made_up(workload: Workload) -> StepKernels:
    """Twelve square layers by hand: their products, a copy each, and what adapters and a 4-bit base
    bring."""
    setup = workload.setup
    tokens = setup.batch_size * setup.seq_len
    kernels = [product(tokens, WIDE, WIDE, count=24), copies(4 * tokens * WIDE, count=60)]
    if setup.lora is None:
        kernels.append(product(WIDE, WIDE, tokens, count=12))
        return StepKernels(kernels=tuple(kernels), tokens=tokens, trainable={2: 12 * WIDE**2})
    dtype = setup.lora.adapter_dtype
    pair = (product(tokens, RANK, WIDE, dtype, 24), product(tokens, WIDE, RANK, dtype, 24))
    kernels += [*pair, copies(8 * tokens * WIDE, 50)]
    if setup.quantization is not None:
        kernels.append(copies(2 * WIDE**2, count=24, kind="dequantise"))
    return StepKernels(kernels=tuple(kernels), tokens=tokens, trainable={4: 24 * RANK * WIDE})


Count = Callable[[Workload], StepKernels]


def counting(
    monkeypatch: pytest.MonkeyPatch, count: Count = made_up, name: str = "memory.analytic"
) -> None:
    """Has `count` stand for the rules' count of kernels, or for the trace's."""
    module = ModuleType(f"lora_profiler.{name}.kernels")
    setattr(module, "step_kernels" if name == "trace" else "counted_kernels", count)
    monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture(autouse=True)
def made_up_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    counting(monkeypatch)
    yield


def timed(workload: Workload, gpu: Gpu | None = A100, engine: str = "auto") -> TimedStep:
    found = step_time(workload, gpu, engine)
    assert found.step is not None and found.refusal is None, found.refusal
    return found.step


def refusal(workload: Workload, gpu: Gpu | None = A100, engine: str = "auto") -> str:
    found = step_time(workload, gpu, engine)
    assert found.step is None and found.refusal is not None
    return found.refusal


def by_hand(kernels: StepKernels, rates: Rates, constants: Constants, passes: int) -> float:
    """Seconds of a step of one micro-batch, written out once more: no cache, no tiles, `passes`
    over what trains."""
    fixed, device = constants.fixed, 0.0
    for kernel in kernels.kernels:
        copy = kernel.moved_bytes / rates.bandwidth / constants.beta
        wide = kernel.dtype == "float32"
        peak = rates.fp32_flops * fixed.fp32_product if wide else rates.tensor_flops * constants.eta
        work = kernel.flops / peak if kernel.kind == "gemm" else 0.0
        if kernel.gemm is not None and not wide:  # three stages of 32 before the first product
            work *= 1 + min(1, 96 / kernel.gemm.k)
        if kernel.kind == "dequantise":
            copy = kernel.moved_bytes / rates.bandwidth / fixed.dequantisation
        device += kernel.count * max(copy, work)
    host = sum(k.count for k in kernels.kernels) * fixed.launch_seconds
    updated = sum(passes * size * count for size, count in kernels.trainable.items())
    update = updated / rates.bandwidth / constants.beta
    return float((device**2 + host**2) ** 0.5 + update + fixed.step_seconds)


PLAIN = Rates(bandwidth=1e12, tensor_flops=1e14, fp32_flops=1e13, l2_bytes=0, processors=0)
FIXED = Fixed(launch_seconds=1e-6, step_seconds=0.001)
OWN = Constants(family="here", eta=0.8, beta=0.7, fixed=FIXED)


def measured_here(
    monkeypatch: pytest.MonkeyPatch, rates: Rates = PLAIN, half_width: float = 0.07
) -> None:
    """This machine's processor, and every card, as if calibrated here."""
    local = SimpleNamespace(rates=rates, constants=OWN, half_width=half_width, provenance={})
    monkeypatch.setattr("lora_profiler.steptime.fit.local_constants", lambda key: local)
    monkeypatch.setattr("lora_profiler.steptime.fit.local_cpu", lambda: local)


# --- which kernels and constants answer -----------------------------------------------------------


@pytest.mark.parametrize("lora", [None, LoraConfig(r=RANK)])
def test_a_step_is_what_its_kernels_take(
    lora: LoraConfig | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiles are whole here: 512 tokens, 768 wide, a rank of 32."""
    measured_here(monkeypatch)
    workload = ask(lora)
    found = timed(workload).time
    assert found.seconds == pytest.approx(by_hand(made_up(workload), PLAIN, OWN, 20))
    assert found.tokens_per_second == pytest.approx(512 / found.seconds)
    flops, four = predict(workload).flops, replace(workload.setup, accumulation=4)
    assert flops is not None and timed(replace(workload, setup=four)).flops == 4 * flops.total


def test_what_was_measured_on_this_machine_comes_before_the_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    usual = timed(ask())
    assert (usual.time.likeness, usual.time.constants.family) == ("fitted", "a100")
    measured_here(monkeypatch)
    own = timed(ask())
    assert (own.time.likeness, own.time.constants, own.time.rates) == ("this machine", OWN, PLAIN)
    assert own.time.calibrated and own.evidence is None
    ends = (own.time.seconds / 1.07, own.time.seconds / 0.93)
    assert (own.time.low, own.time.high) == pytest.approx(ends)


def test_a_processor_is_timed_only_where_it_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    on_cpu = ask(device="cpu", dtype="float32")
    monkeypatch.setattr("lora_profiler.steptime.fit.local_cpu", lambda: None)
    assert "lora-profile calibrate" in refusal(on_cpu, None)
    assert answers([on_cpu])[0].timing is None
    measured_here(monkeypatch)
    assert timed(on_cpu, None).time.likeness == "this machine"
    found = answers([on_cpu])[0]
    assert found.timing is not None and found.timing.step is not None and found.gpu is None
    assert "this machine's processor" in (time_table([found]) or pytest.fail()).title
    assert "needs a GPU" in refusal(ask(), None)
    assert answers([ask()])[0].timing is None


def test_rules_count_and_the_trace_answers_where_it_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    counting(monkeypatch, lambda workload: asked.append("traced") or made_up(workload), "trace")  # type: ignore[func-returns-value]
    monkeypatch.setattr(timing, "predict", lambda workload, engine: SimpleNamespace(flops=None))
    timed(ask())
    assert not asked
    timed(ask(), engine="traced")
    assert asked == ["traced"]
    monkeypatch.setattr(packages, "missing", lambda _: ["torch"])
    assert "pip install 'lora-profiler[measure]'" in refusal(ask(), engine="traced")


def test_kernels_that_nobody_knows_are_a_refusal_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def knows_nothing(workload: Workload) -> StepKernels:
        raise UnbuildableError("the kernels of gpt2 are not counted.")

    counting(monkeypatch, knows_nothing)
    said = refusal(ask())
    assert "the kernels of gpt2 are not counted" in said and "--engine traced" in said


@pytest.mark.parametrize(
    ("gpu", "setup", "words"),
    [
        ("custom:24GiB", {}, ["custom:24GiB", "bandwidth", "FLOP/s"]),
        ("a100_sxm_80gb", {"optimizer": "adafactor"}, ["adafactor", "adamw_8bit"]),
    ],
)
def test_what_cannot_be_timed_is_said(gpu: str, setup: dict[str, Any], words: list[str]) -> None:
    said = refusal(ask(**setup), find_gpu(gpu))
    assert all(word in said for word in words)
    (answer,) = answers([ask(**setup)], find_gpu(gpu))
    assert answer.timing == Timing(step=None, refusal=said) and answer.fit is not None
    assert time_table([answer]) is None
    assert any(said in line for line in time_lines([answer]))


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(UsageError, match="analytic"):
        step_time(ask(), A100, "analitic")


def test_it_is_a_public_name() -> None:
    assert lora_profiler.step_time is step_time


# --- what must be true of any step ----------------------------------------------------------------

LORAS = st.none() | st.builds(
    LoraConfig, r=st.just(RANK), adapter_dtype=st.sampled_from(["float32", "bfloat16"])
)
SETUPS = st.builds(
    lambda lora, batch, length, accumulation, nf4: TrainSetup(
        lora=lora,
        quantization=Quantization() if nf4 and lora else None,
        batch_size=batch,
        seq_len=64 * length,
        accumulation=accumulation,
    ),
    LORAS,
    st.integers(1, 16),
    st.integers(1, 32),
    st.integers(1, 4),
    st.booleans(),
)
KEYS = ["a100_sxm_80gb", "h100_sxm_80gb", "rtx_4090", "rtx_3060", "l4", "mi300x_192gb"]
CARDS = st.sampled_from(KEYS).map(find_gpu)


@given(SETUPS, CARDS)
def test_the_interval_holds_the_time_and_the_parts_are_all_of_it(
    setup: TrainSetup, card: Gpu
) -> None:
    time = timed(Workload(model=GPT2, setup=setup), card).time
    assert 0 < time.low < time.seconds < time.high
    assert set(time.parts) <= set(PARTS) and min(time.parts.values()) >= 0
    assert sum(time.parts.values()) == pytest.approx(time.seconds)
    assert time.mfu is not None and time.mfu > 0


@given(SETUPS, CARDS, st.floats(1.0, 4.0), st.floats(1.0, 4.0))
def test_more_bandwidth_or_a_higher_peak_is_never_slower(
    setup: TrainSetup, card: Gpu, wider: float, faster: float
) -> None:
    rates = rates_of(card)
    assert rates is not None and card.bandwidth_gb_s is not None and card.fp32_tflops is not None
    better = replace(
        card,
        bandwidth_gb_s=wider * card.bandwidth_gb_s,
        bf16_dense_tflops=faster * (card.bf16_dense_tflops or 0.0),
        fp32_tflops=faster * card.fp32_tflops,
    )
    workload = Workload(model=GPT2, setup=setup)
    assert timed(workload, better).time.seconds <= timed(workload, card).time.seconds * (1 + 1e-12)


# --- LoRA beside full -----------------------------------------------------------------------------


def gap_of(setup: TrainSetup, card: Gpu = A100) -> tuple[SpeedGap, TimedStep, TimedStep]:
    full = timed(Workload(model=GPT2, setup=replace(setup, lora=None, quantization=None)), card)
    lora = timed(Workload(model=GPT2, setup=setup), card)
    return speed_gap(full, lora), full, lora


@given(SETUPS.filter(lambda setup: setup.lora is not None), CARDS)
def test_causes_add_up_to_what_flops_do_not_explain(setup: TrainSetup, card: Gpu) -> None:
    gap, full, lora = gap_of(setup, card)
    assert set(gap.causes) == set(get_args(Cause)) == set(labels.CAUSE_LABELS)
    assert gap.seconds == lora.time.seconds
    by_flops = full.time.seconds * lora.flops / full.flops
    assert gap.gap_seconds == pytest.approx(lora.time.seconds - by_flops)
    assert sum(gap.causes.values()) == pytest.approx(gap.gap_seconds, abs=1e-9 * lora.time.seconds)
    assert gap.causes["adapter_products"] > 0
    assert (gap.causes["dequantise"] > 0) == (setup.quantization is not None)


def test_each_cause_is_what_the_kernels_of_its_kind_take() -> None:
    long: dict[str, Any] = {"seq_len": 2048, "accumulation": 3}
    setup = TrainSetup(lora=LoraConfig(r=RANK), quantization=Quantization(), **long)
    gap, full, lora = gap_of(setup)
    without: dict[Part, float] = {part: lora.time.parts.get(part, 0.0) for part in PARTS}
    spent = full.time.parts
    assert gap.causes["adapter_memory"] == pytest.approx(without["memory"] - spent["memory"])
    assert gap.causes["memory"] == pytest.approx((1 - gap.flops_ratio) * spent["memory"])
    assert gap.causes["dequantise"] == pytest.approx(without["dequantise"])
    every, own = lora.kernels.kernels, lora.time
    bare = tuple(k for k in every if k.gemm is None or RANK not in (k.gemm.n, k.gemm.k))
    assert len(bare) == len(every) - 2
    rest = lora.kernels._replace(kernels=bare)
    time = step_time_at(rest, setup, own.rates, own.constants, "fitted")
    assert gap.causes["adapter_products"] == pytest.approx(without["gemm"] - time.parts["gemm"])
    assert gap.causes["update"] < 0  # 0.3 million weights to update instead of 7


def test_products_of_adapters_in_float32_cost_more_than_in_bfloat16() -> None:
    """At a rank where they are bound by products: a card's float32 units are slower than its tensor
    cores."""
    dtypes: tuple[Dtype, ...] = ("float32", "bfloat16")
    loras = (LoraConfig(r=RANK, adapter_dtype=dtype) for dtype in dtypes)
    wide, narrow = (gap_of(TrainSetup(lora=lora, seq_len=2048))[0] for lora in loras)
    assert wide.causes["adapter_products"] > narrow.causes["adapter_products"]


def test_answers_hold_the_gap_against_full_wherever_full_stands() -> None:
    full, lora = ask(), ask(LoraConfig(r=RANK))
    (a, b), (c, d) = answers([full, lora], A100), answers([lora, full], A100)
    (alone,) = answers([lora], A100)
    assert a.speed_gap is None and d.speed_gap is None and alone.speed_gap is None
    assert b.speed_gap is not None and b.speed_gap == c.speed_gap
    assert [x.speed_gap for x in answers([full, lora])] == [None, None]


def test_the_sentence_is_made_of_the_numbers() -> None:
    causes: dict[Cause, float] = dict.fromkeys(get_args(Cause), 0.0)
    causes |= {"adapter_memory": 0.3, "update": -0.1, "adapter_products": 0.15, "launches": 0.004}
    ratios = {"flops_ratio": 0.7, "seconds_ratio": 0.85}
    gap = SpeedGap(seconds=2.0, **ratios, gap_seconds=0.354, causes=causes)
    assert gap_line("LoRA r32", gap) == (
        "LoRA r32 makes 70.00 % of full's FLOPs in 85.00 % of its time, 354.00 ms more than its"
        " FLOPs suggest: it loses 300.00 ms to casts, copies and sums of the adapters, 150.00 ms"
        " to products of the adapters, and gains 100.00 ms in the optimizer's update; all else"
        " +4.00 ms."
    )
    nothing = gap._replace(gap_seconds=-0.01, causes=dict.fromkeys(causes, 0.0) | {"update": -0.01})
    said = "of its time, 10.00 ms less than its FLOPs suggest: in all -10.00 ms."
    assert gap_line("LoRA r32", nothing).endswith(said)


# --- words ----------------------------------------------------------------------------------------


def test_the_table_adds_up_and_the_share_is_that_of_the_times() -> None:
    card = find_gpu("h200_sxm_141gb")
    found = answers([ask(), ask(LoraConfig(r=RANK))], card)
    table = time_table(found)
    assert table is not None
    assert table.columns == ("", "full", "LoRA r32", "LoRA / full")
    assert table.title == f"One step on {card.name}, estimated from similar GPUs"
    cells = {row.cells[0]: row.cells[1:] for row in table.rows}
    full, lora = (a.timing.step.time for a in found if a.timing and a.timing.step)
    assert cells["time"][2] == f"{100 * lora.seconds / full.seconds:.2f} %"
    assert set(labels.PART_LABELS) == set(PARTS)
    every = ("gemm", "memory", "launches", "update")
    assert {labels.PART_LABELS[part] for part in every} <= set(cells)
    lines = time_lines(found)
    assert any(line.startswith("LoRA r32 makes ") for line in lines)
    (basis,) = (
        line for line in lines if line.startswith("Step times, estimated from similar GPUs: ")
    )
    assert "a100_sxm_80gb" in basis


def test_a_step_that_does_not_fit_is_timed_with_that_said() -> None:
    found = answers([ask(batch_size=512)], find_gpu("rtx_4090"))
    assert found[0].fit is not None and found[0].fit.verdict == "does_not_fit"
    assert any("speed if it fitted" in line for line in time_lines(found))


@pytest.mark.parametrize("likeness", labels.BASIS_LABELS)
def test_every_basis_has_words(likeness: Any) -> None:
    (answer,) = answers([ask()], A100)
    assert answer.timing is not None and answer.timing.step is not None
    time: StepTime = answer.timing.step.time._replace(likeness=likeness)
    step = answer.timing.step._replace(time=time)
    times: Any = SimpleNamespace(found=[(answer.timing._replace(step=step), None)])
    changed = replace(answer, times=times)
    table = time_table([changed])
    assert table is not None and table.title.endswith(labels.BASIS_LABELS[likeness])
    assert any(labels.BASIS_DEFINITIONS[likeness] in line for line in time_lines([changed]))


# --- evidence -------------------------------------------------------------------------------------


def test_evidence_is_of_rows_that_were_not_fitted_where_it_says_so() -> None:
    fitted = {row for family in bundled().families for row in family.rows}
    assert fitted == {row.id for row in measured_steps() if row.left_out != "all"}
    cards = {card for family in bundled().families for card in family.cards}
    assert all((row.card in cards) == (row.left_out != "all") for row in measured_steps())
    assert {row.left_out for row in measured_steps()} == set(labels.LEFT_OUT_LABELS)


def test_the_package_s_evidence_is_that_of_the_committed_results() -> None:
    rows = json.loads(RESULTS.read_text("utf-8"))["rows"]
    names = {k: f"error_{k}_left_out" for k in ("model", "card")}
    names |= {"all": "error_by_nearest_constants"}
    assert [row["id"] for row in rows] == [found.id for found in measured_steps()]
    for row, found in zip(rows, measured_steps(), strict=True):
        for name in ("model", "method", "card", "measured_seconds"):
            assert getattr(found, name) == row[name]
        assert found.error == row[names[found.left_out]]


def test_the_nearest_row_is_of_the_method_first_and_then_of_the_card() -> None:
    mistral = nearest_step("lora", "a100_sxm_80gb", 7_241_732_096, 16384)
    assert (mistral.model, mistral.tokens) == ("mistralai/Mistral-7B-v0.1", 16384)
    assert nearest_step("qlora", "rtx_4090", 8_000_000_000, 2048).card == "rtx_4090"
    assert nearest_step("lora", "mi300x_192gb", 1, 1).method == "lora"
    assert {row.method for row in measured_steps() if row.card == "rtx_4090"} == {"lora", "qlora"}
    assert nearest_step("full", "rtx_4090", 7_000_000_000, 8192).method == "full"
    for row in measured_steps():
        key = row.method, row.card, row.parameters, row.tokens
        found = nearest_step(*key)
        assert (found.method, found.card, found.parameters, found.tokens) == key
