"""Step time: the roofline worked by hand, constants found again in times made of them, intervals,
and the committed results."""

import json
from dataclasses import replace
from math import hypot
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_profiler.errors import LoraProfilerError, UsageError
from lora_profiler.facts.catalog import find_gpu, find_model
from lora_profiler.measuring.records.serialize import setup_from_dict
from lora_profiler.memory.analytic import knows
from lora_profiler.memory.analytic.kernels import counted_kernels
from lora_profiler.memory.kernels import Gemm, Kernel, StepKernels
from lora_profiler.memory.prediction import FlopCount
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.workload import TrainSetup, Workload
from lora_profiler.steptime import (
    Constants,
    Fixed,
    Rates,
    constants_for,
    predict_step_time,
    rates_of,
)
from lora_profiler.steptime.constants import bundled, half_width
from lora_profiler.steptime.fit import Fitted, Measured, fit, leave_out
from lora_profiler.steptime.roofline import (
    CLIPPING_PASSES,
    Load,
    Step,
    StepLoad,
    copy_seconds,
    loaded,
    passes_bytes,
    step_of,
    tiled_flops,
    update_bytes,
    update_launches,
    weights,
)

MB = 2**20
PEAKS = {"bandwidth": 1e12, "tensor_flops": 100e12, "fp32_flops": 10e12}
CARD = Rates(**PEAKS, l2_bytes=40 * MB, processors=100)
FIXED = Fixed()
RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "step_time.json"
REHEARSED = RESULTS.with_name("rehearsed.jsonl")


def kernel_of(kind: Any, op: str, read: int, written: int, **more: Any) -> Kernel:
    moved = {"read_bytes": read, "written_bytes": written}
    return Kernel(kind=kind, op=op, phase="forward", module="", **moved, **more)


def memory(moved: int, count: int = 1) -> Kernel:
    return kernel_of("memory", "add", moved, 0, count=count)


def product(m: int, n: int, k: int, **more: Any) -> Kernel:
    gemm = Gemm(m=m, n=n, k=k)
    more = {"dtype": "bfloat16", "gemm": gemm, "flops": gemm.flops} | more
    return kernel_of("gemm", "mm", 2 * (m + n) * k, 2 * m * n, **more)


# --- the roofline ---------------------------------------------------------------------------------


def test_bytes_far_beyond_the_cache_take_the_bandwidth() -> None:
    for moved in (40 * MB, 4000 * MB):
        assert copy_seconds(moved, CARD, FIXED) == pytest.approx(moved / 1e12)


def test_between_half_the_cache_and_all_of_it_less_and_less_is_found_there() -> None:
    """30 of 40 MB: half of what 20 save. A CPU keeps 20 of 30 MB."""
    assert copy_seconds(30 * MB, CARD, FIXED) == pytest.approx(30 * MB / 1e12 * (1 - 0.6 / 2))
    host = replace(CARD, is_host=True)
    assert copy_seconds(30 * MB, host, FIXED) == pytest.approx(30 * MB / 1e12 * (1 - 0.6 * 2 / 3))


@pytest.mark.parametrize("moved", [1, 5 * MB, 20 * MB])
def test_bytes_within_half_the_cache_run_two_and_a_half_times_faster(moved: int) -> None:
    assert copy_seconds(moved, CARD, FIXED) == pytest.approx(moved / 1e12 / 2.5)


def test_nothing_moved_takes_no_time_and_an_unknown_cache_saves_none() -> None:
    assert copy_seconds(0, CARD, FIXED) == 0
    assert copy_seconds(MB, replace(CARD, l2_bytes=0), FIXED) == MB / 1e12


@pytest.mark.parametrize(
    ("n", "columns"), [(128, 128), (100, 128), (129, 256), (64, 64), (40, 64), (32, 32), (1, 32)]
)
def test_short_sides_are_padded_to_tiles(n: int, columns: int) -> None:
    m = 25600
    assert tiled_flops(Gemm(m=m, n=n, k=10), 0) == 2 * m * columns * 10
    assert tiled_flops(Gemm(m=n, n=m, k=10), 0) == 2 * m * columns * 10


def test_long_sides_are_padded_to_256() -> None:
    assert tiled_flops(Gemm(m=257, n=128, k=3), 0) == 2 * 512 * 128 * 3


def test_tiles_run_in_whole_waves() -> None:
    """The example of PyTorch's matmul shapes on an A100's 108 multiprocessors: 1792 squared is 98
    tiles, one column more 120."""
    fits, spills = Gemm(m=1792, n=1792, k=64), Gemm(m=1793, n=1793, k=64)
    assert tiled_flops(fits, 108) == fits.flops
    assert tiled_flops(spills, 108) == pytest.approx(2 * 2048 * 1920 * 64 * 216 / 120)
    exact = Gemm(batches=1, m=256 * 12, n=128 * 9, k=64)
    assert tiled_flops(exact, 108) == exact.flops


def test_a_product_takes_the_longer_of_flops_and_bytes() -> None:
    big, small = product(25600, 12800, 4096), product(25600, 128, 16)
    for kernel in (big, small):
        assert kernel.gemm is not None
        flops, copy, rest = weights(kernel, CARD, FIXED)
        filled = 1 + min(96 / kernel.gemm.k, 1)
        assert flops == tiled_flops(kernel.gemm, 100) * filled / 100e12
        assert (copy, rest) == (copy_seconds(kernel.moved_bytes, CARD, FIXED), 0)
    assert weights(big, CARD, FIXED)[0] > weights(big, CARD, FIXED)[1]
    assert weights(small, CARD, FIXED)[0] < weights(small, CARD, FIXED)[1]
    assert Load("gemm", 3.0, 2.0, 0.0, 2).seconds(0.5, 0.25) == 2 * 8.0
    assert Load("gemm", 3.0, 2.0, 9.0, 2).seconds(0.5, 0.25) == 2 * 9.0


def test_float32_products_reach_seven_tenths_of_their_own_peak() -> None:
    kernel = product(25600, 128, 4096, dtype="float32")
    copied = copy_seconds(kernel.moved_bytes, CARD, FIXED)
    assert weights(kernel, CARD, FIXED) == (0.0, pytest.approx(copied), kernel.flops / 7e12)


def attention(kind: Any, seq: int) -> Kernel:
    """Causal, of 4 heads of 128 in 16 bit: forward reads q, k and v and writes the result, backward
    reads its gradient too and writes three."""
    elements = 4 * seq * 128
    read, written = (3, 1) if kind == "attention_forward" else (5, 3)
    flops = (4 if kind == "attention_forward" else 10) * elements * seq // 2
    moved = (2 * read * elements, 2 * written * elements)
    return kernel_of(kind, "", *moved, flops=flops, dtype="bfloat16")


@pytest.mark.parametrize(
    ("kind", "share", "products"), [("attention_forward", 0.85, 2), ("attention_backward", 0.68, 5)]
)
@pytest.mark.parametrize("seq", [128, 512, 8192])
def test_attention_reaches_a_share_of_eta_in_whole_tiles(
    kind: Any, share: float, products: int, seq: int
) -> None:
    """Blocks of 128 queries and the keys up to their last one: 1, 2, ... blocks of 128 keys."""
    blocks = seq // 128
    tiles = 4 * sum(range(1, blocks + 1)) * 128 * 128
    flops = products * 2 * tiles * 128
    assert weights(attention(kind, seq), CARD, FIXED)[0] == pytest.approx(flops / (100e12 * share))
    host = replace(CARD, is_host=True)
    alone = attention(kind, seq).flops / (100e12 * share)
    assert weights(attention(kind, seq), host, FIXED)[0] == pytest.approx(alone)


def test_attention_s_backward_has_passes_before_and_after_its_products() -> None:
    """Two of 2 bytes read and 4 cleared; 4 read and 2 written: 14 an element of the queries."""
    seq = 65_536
    kernel = attention("attention_backward", seq)
    assert passes_bytes(kernel, CARD) == 14 * 4 * seq * 128
    assert passes_bytes(attention("attention_forward", seq), CARD) == 0
    assert passes_bytes(kernel, replace(CARD, is_host=True)) == 0
    micro = StepKernels(kernels=(kernel,), tokens=1, trainable={})
    step = Step(micro=micro, accumulation=1, update_bytes=0)
    products = weights(kernel, CARD, FIXED)[0]
    found = loaded(step, CARD, FIXED).device_seconds(0.8, 0.5)
    assert found == pytest.approx(products / 0.8 + 14 * 4 * seq * 128 / 1e12 / 0.5)


def test_dequantising_takes_a_quarter_of_the_bandwidth() -> None:
    kernel = kernel_of("dequantise", "", 10, 15, parameters=10)
    assert weights(kernel, CARD, FIXED) == (0.0, 0.0, 25 / 0.25e12)


def test_a_step_by_hand() -> None:
    micro = StepKernels(kernels=(memory(4000 * MB, count=3),), tokens=7, trainable={})
    step = Step(micro=micro, accumulation=4, update_bytes=500 * 10**6)
    load = loaded(step, CARD, FIXED)
    device = 3 * copy_seconds(4000 * MB, CARD, FIXED) / 0.5
    assert load.device_seconds(0.8, 0.5) == pytest.approx(device)
    assert load.micro_seconds(0.8, 0.5) == pytest.approx(hypot(device, 3 * 15e-6))
    assert load.seconds(0.8, 0.5) == pytest.approx(4 * hypot(device, 45e-6) + 1e-3 + 0.030)
    assert step.tokens == 28


def test_the_first_micro_batch_adds_its_gradients_to_none() -> None:
    """Two gradients of 1,000 MB, each added to the one before by a kernel that moves thrice that,
    in each of three micro-batches but the first."""
    added = memory(3000 * MB, count=2)
    trains = {"trainable": {2: 1000 * MB}, "trained_tensors": 2}
    micro = StepKernels(kernels=(memory(4000 * MB), added), tokens=7, **trains)
    step = Step(micro=micro, accumulation=3, update_bytes=0)
    load = loaded(step, CARD, FIXED)
    first, more = copy_seconds(4000 * MB, CARD, FIXED), copy_seconds(3000 * MB, CARD, FIXED)
    host = [launches * 15e-6 for launches in (1, 3)]
    micro_batches = hypot(first / 0.5, host[0]) + 2 * hypot((first + 2 * more) / 0.5, host[1])
    assert load.seconds(0.8, 0.5) == pytest.approx(micro_batches + 0.030)
    assert load.by_part(0.8, 0.5)["memory"] == pytest.approx((3 * first + 4 * more) / 0.5)


def test_the_update_by_optimizer() -> None:
    trainable = {2: 100, 4: 10}
    assert update_bytes(TrainSetup(optimizer_impl="fused"), trainable) == 7 * 240
    assert update_bytes(TrainSetup(), trainable, clipping=CLIPPING_PASSES) == 23 * 240
    assert update_bytes(TrainSetup(optimizer="adamw_8bit"), trainable) == 100 * 10 + 10 * 16
    assert update_bytes(TrainSetup(optimizer="adafactor"), trainable) is None


def test_a_trainer_clips_by_norm_and_the_own_loop_does_not() -> None:
    """One list of two tensors: norms in 3 kernels, one that scales, and 8 of the norm of norms."""
    kernels = StepKernels(kernels=(), tokens=1, trainable={4: 100}, trained_tensors=2)
    loops: Any = ("none", "transformers")
    own, trainer = (step_of(kernels, TrainSetup(loop_state=loop)) for loop in loops)
    assert trainer.update_bytes - own.update_bytes == 3 * 400
    assert trainer.update_launches - own.update_launches == 12


# --- the fit --------------------------------------------------------------------------------------

LOADS = st.lists(
    st.builds(
        lambda product, ratio: Load("gemm", product, product * ratio, 0.0, 1),
        st.floats(0.01, 1.0),
        st.floats(0.02, 50.0),
    ),
    min_size=1,
    max_size=6,
)
_PRODUCTS, _COPIES = Load("gemm", 1.0, 0.01, 0.0, 1), Load("memory", 0.0, 1.0, 0.0, 1)
ANCHORS = (
    StepLoad((_PRODUCTS,), host=0.01, update=0.0, accumulation=1, besides=0.03),
    StepLoad((_COPIES,), host=0.01, update=0.1, accumulation=2, besides=0.03),
)
"""A step of products alone and one of copies alone: with them neither constant is open."""


@given(
    eta=st.floats(0.3, 1.2), beta=st.floats(0.3, 1.0), more=st.lists(LOADS, min_size=0, max_size=8)
)
def test_a_fit_finds_the_constants_that_made_the_times(
    eta: float, beta: float, more: list[list[Load]]
) -> None:
    rest: Any = {"host": 0.02, "update": 0.0, "accumulation": 1, "besides": 0.0}
    steps = [*ANCHORS, *(StepLoad(tuple(loads), **rest) for loads in more)]
    found = fit([Measured(str(i), step, step.seconds(eta, beta)) for i, step in enumerate(steps)])
    assert found.eta == pytest.approx(eta, rel=1e-5)
    assert found.beta == pytest.approx(beta, rel=1e-5)


def test_one_wrong_row_hardly_moves_a_fit() -> None:
    steps = [replace(step, besides=0.01 * i) for i in range(10) for step in ANCHORS]
    rows = [Measured(f"{n}", step, step.seconds(0.8, 0.6)) for n, step in enumerate(steps)]
    rows[3] = rows[3]._replace(seconds=3 * rows[3].seconds)
    found = fit(rows)
    assert found.eta == pytest.approx(0.8, rel=0.01)
    assert found.beta == pytest.approx(0.6, rel=0.01)


def test_no_memory_delivers_more_than_its_bandwidth() -> None:
    """Where copies seem faster than the memory, beta is 1, and eta what the other rows say."""
    rows = [Measured(str(i), step, step.seconds(0.8, 1.3)) for i, step in enumerate(ANCHORS)]
    found = fit(rows)
    assert found.beta == pytest.approx(1.0)
    assert found.eta == pytest.approx(0.8, rel=0.02)


def test_a_fit_needs_rows_that_tell_both_constants() -> None:
    rows = [Measured(str(i), ANCHORS[1], 1.0 + i) for i in range(4)]
    with pytest.raises(UsageError, match="leave one constant open"):
        fit(rows)
    with pytest.raises(UsageError, match="at least two"):
        fit(rows[:1])


def test_a_fitted_row_is_no_test() -> None:
    rows = [Measured(str(i), step, step.seconds(0.8, 0.6)) for i, step in enumerate(ANCHORS)]
    found = fit(rows)
    with pytest.raises(UsageError, match="cannot test the fit"):
        found.error(rows[0])
    assert found.error(Measured("new", rows[0].load, rows[0].seconds / 1.25)) == pytest.approx(0.25)


def test_left_out_groups_are_predicted_by_the_others() -> None:
    rows = [
        Measured(f"{group}{i}", step, times * step.seconds(0.8, 0.6))
        for group, times in (("a", 1), ("b", 1), ("c", 2))
        for i, step in enumerate(ANCHORS)
    ]
    errors = leave_out(rows, {row.id: row.id[0] for row in rows})
    assert set(errors) == {row.id for row in rows}
    assert [errors[f"c{i}"] for i in (0, 1)] == pytest.approx([-0.5, -0.5], abs=1e-3)


# --- predicting -----------------------------------------------------------------------------------

STEP = StepKernels(
    kernels=(product(16384, 4096, 4096), memory(400 * MB, count=5)),
    tokens=16384,
    trainable={4: 10**6},
)


def test_a_prediction_adds_up() -> None:
    setup = TrainSetup(accumulation=3)
    flops = FlopCount(forward=10**12, backward=2 * 10**12, recompute=0, tokens=1)
    found = predict_step_time(STEP, find_gpu("a100_sxm_80gb"), setup, flops)
    assert found is not None
    assert found.calibrated and found.likeness == "fitted" and found.constants.family == "a100"
    device = sum(s for kind, s in found.by_kind.items() if kind not in ("update", "besides")) / 3
    micro = hypot(device, 6 * 15e-6)
    once = found.by_kind["update"] + found.by_kind["besides"]
    assert found.seconds == pytest.approx(3 * micro + once)
    assert found.share_of_host == pytest.approx(6 * 15e-6 / micro)
    assert found.tokens_per_second == pytest.approx(3 * 16384 / found.seconds)
    assert found.mfu == pytest.approx(3 * 3e12 / (found.seconds * 312e12))
    width, besides = half_width("fitted"), found.seconds - 3 * micro
    quick, slow = (3 * hypot(device, 6 * 15e-6 * times) + besides for times in (0.5**0.5, 2**0.5))
    assert (found.low, found.high) == pytest.approx((quick / (1 + width), slow / (1 - width)))
    assert found.low < found.seconds < found.high


def test_without_flops_no_mfu_and_without_a_peak_no_time() -> None:
    found = predict_step_time(STEP, find_gpu("a100_sxm_80gb"), TrainSetup())
    assert found is not None and found.mfu is None
    assert predict_step_time(STEP, find_gpu("custom:24GiB"), TrainSetup()) is None
    with pytest.raises(UsageError, match="adafactor"):
        predict_step_time(STEP, find_gpu("a100_sxm_80gb"), TrainSetup(optimizer="adafactor"))


def test_constants_of_the_card_itself_count_as_calibrated() -> None:
    own = Constants(family="here", eta=0.5, beta=0.5)
    found = predict_step_time(STEP, find_gpu("l40s"), TrainSetup(), constants=own)
    usual = predict_step_time(STEP, find_gpu("l40s"), TrainSetup())
    assert found is not None and usual is not None
    assert found.calibrated and found.constants is own
    assert not usual.calibrated
    assert usual.seconds < found.seconds


@pytest.mark.parametrize(
    ("card", "family", "likeness"),
    [
        ("a100_pcie_40gb", "a100", "fitted"),
        ("h100_sxm_80gb", "a100", "same class"),
        ("h200_sxm_141gb", "a100", "same class"),
        ("rtx_6000_ada", "a100", "other class"),
        ("l40s", "a100", "other class"),
        ("l40", "geforce", "same class"),
        ("a10g", "geforce", "same class"),
        ("a10", "a100", "other class"),
        ("rtx_4090", "geforce", "fitted"),
        ("rtx_5070", "geforce", "same class"),
        ("t4", "a100", "other class"),
        ("v100_sxm2_16gb", "a100", "other class"),
        ("mi300x_192gb", "a100", "other class"),
    ],
)
def test_which_constants_a_card_takes(card: str, family: str, likeness: str) -> None:
    constants, found = constants_for(find_gpu(card))
    assert (constants.family, found) == (family, likeness)


def test_intervals_widen_with_what_is_not_known() -> None:
    own, like = half_width("fitted"), half_width("same class")
    assert like == pytest.approx(hypot(own, 0.15))
    unstated = half_width("same class", stated_kernels=False)
    assert unstated == pytest.approx(hypot(own, 0.15, 0.1))
    assert half_width("other class") == 0.40


def test_the_more_the_host_bounds_a_step_the_wider_its_interval() -> None:
    """Up to the range of hosts, which a step that waits for nothing else has whole."""
    card, ratios = find_gpu("a100_sxm_80gb"), []
    for launched in (0, 10**3, 10**5):
        kernels = (product(16384, 4096, 4096), memory(0, count=launched))
        step = StepKernels(kernels=kernels, tokens=16384, trainable={4: 10**6})
        found = predict_step_time(step, card, TrainSetup())
        assert found is not None
        ratios.append(found.high / found.low)
    width = half_width("fitted")
    least = (1 + width) / (1 - width)
    assert ratios == sorted(ratios)
    assert ratios[0] == pytest.approx(least, rel=0.01)
    assert ratios[-1] == pytest.approx(2 * least, rel=0.05)


def test_known_figures_of_cards() -> None:
    a100, h100 = rates_of(find_gpu("a100_sxm_80gb")), rates_of(find_gpu("h100_pcie_80gb"))
    peaks = {"bandwidth": 2039e9, "tensor_flops": 312e12, "fp32_flops": 19.5e12}
    assert a100 == Rates(**peaks, l2_bytes=40 * MB, processors=108)
    assert h100 is not None and (h100.processors, h100.l2_bytes) == (114, 50 * MB)
    unknown = rates_of(find_gpu("mi300x_192gb"))
    assert unknown is not None and (unknown.processors, unknown.l2_bytes) == (0, 0)


# --- launches of the update -----------------------------------------------------------------------


def test_launches_of_an_update_by_hand() -> None:
    """AdamW has eight operators a tensor. Lists of 770 to 252 tensors, or 2,240 blocks of 65,536
    elements, go at once: 1,000 small tensors are 2 launches of 770, 3 of 448 and 3 of 336; 2,240 x
    65,536 elements and one more are 2 each."""

    def launches(tensors: int, elements: int, **options: Any) -> int:
        return update_launches(TrainSetup(**options), tensors, elements)

    assert launches(1000, 1000, optimizer_impl="forloop") == 8000
    assert launches(1000, 1000, optimizer_impl="foreach") == 4 * 2 + 2 * 3 + 2 * 3
    assert launches(10, 2240 * 65_536 + 1, optimizer_impl="foreach") == 8 * 2
    assert launches(1000, 1000, optimizer_impl="fused") == 4  # lists of 252
    assert launches(100, 1000, optimizer="sgd", optimizer_impl="forloop") == 100
    assert launches(100, 1000, optimizer="adamw_8bit") == 100
    assert launches(0, 0) == 0


def test_the_update_s_launches_are_those_of_rehearsed_steps() -> None:
    """Kernels and calls of BLAS that the stub libraries counted, of AdamW tensor by tensor."""
    off: list[tuple[float, float]] = []
    rows = [json.loads(line) for line in REHEARSED.read_text().splitlines()]
    for row in rows:
        setup = row["setup"]
        tensor_by_tensor = (setup["optimizer"], setup["optimizer_impl"]) == ("adamw", "forloop")
        if not tensor_by_tensor or setup["world_size"] > 1 or "launches" not in row:
            continue
        platform = Platform(capability=find_gpu(row["card"]).capability)
        model = find_model(row["model"], offline=True)
        workload = Workload(model=model, setup=setup_from_dict(setup), platform=platform)
        if not knows(workload):
            continue
        try:
            kernels = counted_kernels(workload)
        except LoraProfilerError:
            continue
        step = step_of(kernels, workload.setup)
        counted = kernels.launches * step.accumulation
        true = sum(row["launches"].values())
        off.append((abs(counted + step.update_launches - true) / true, (true - counted) / true))
    assert len(off) > 30
    assert median(whole for whole, _ in off) < 0.02 and max(whole for whole, _ in off) < 0.1
    assert median(alone for _, alone in off) > 0.15


# --- the committed results ------------------------------------------------------------------------


def errors_of(name: str) -> list[float]:
    errors = (row[name] for row in json.loads(RESULTS.read_text())["rows"])
    return sorted(abs(error) for error in errors if error is not None)


@pytest.mark.parametrize(
    ("name", "middle"), [("error_model_left_out", 0.03), ("error_source_left_out", 0.04)]
)
def test_public_rows_reach_their_marks(name: str, middle: float) -> None:
    found = errors_of(name)
    assert len(found) == 106
    assert median(found) <= middle
    assert found[int(0.9 * len(found))] <= 0.13


def test_the_package_s_constants_are_those_of_the_results() -> None:
    results = json.loads(RESULTS.read_text())
    assert bundled().half_width == results["half_width"]
    a100, geforce = bundled().families
    for family, left_out in ((a100, "model"), (geforce, "card")):
        fitted = [r for r in results["rows"] if r[f"error_{left_out}_left_out"] is not None]
        assert set(family.rows) == {row["id"] for row in fitted}
    assert Fitted(a100.eta, a100.beta, frozenset(a100.rows)).rows.isdisjoint(geforce.rows)
