"""Speed worked out from samples made by hand: every number here was found on paper or is a table
value, not by this program."""

import random
from dataclasses import replace
from typing import Any

import numpy
import pytest

import records
from golden_files import Golden
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import find_gpu
from lora_profiler.measuring.records.record import Conditions, Energy, Record
from lora_profiler.memory.prediction import FlopCount
from lora_profiler.question.workload import LoraConfig
from lora_profiler.runs.comparison.throughput import (
    MOST_POINTS,
    card_of,
    full_against_lora,
    peak_flops,
    share_of_peak,
    slope,
    spread,
    throughput,
    utilisation,
)
from record_checks import impossible

MIB = 2**20


def test_a_spread_by_hand() -> None:
    """1 to 10 in disorder. The binomial(10, 1/2) count lies in 2..8 with 1 - 2 x 11/1024 = 97.9 %,
    in 3..7 with 89.1 %: the 95 % interval of the median runs from the 2nd to the 9th. Deviations
    from 5.5 are .5 to 4.5, each twice: their median is 2.5.
    """
    found = spread([3.0, 1.0, 2.0, 10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0])
    assert (found.n, found.median, found.low, found.high) == (10, 5.5, 2.0, 9.0)
    assert (found.mean, found.smallest, found.largest, found.mad) == (5.5, 1.0, 10.0, 2.5)
    assert (found.p10, found.p20, found.p80, found.p90) == pytest.approx((1.9, 2.8, 8.2, 9.1))
    assert found.sd == pytest.approx((82.5 / 9) ** 0.5)
    assert found.relative_half_width == pytest.approx(3.5 / 5.5)


@pytest.mark.parametrize(
    ("n", "rank"), [(6, 1), (8, 1), (9, 2), (11, 2), (12, 3), (20, 6), (25, 8), (50, 18)]
)
def test_the_interval_s_ranks_are_those_of_the_published_tables(n: int, rank: int) -> None:
    """One more than the critical value of the two-sided sign test at 5 %, as its tables print them:
    0, 0, 1, 1, 2, 5, 7, 17."""
    found = spread([float(i) for i in range(1, n + 1)])
    assert (found.low, found.high) == (rank, n + 1 - rank)


def test_quantiles_are_numpys() -> None:
    draw = random.Random(3)
    for n in (1, 2, 3, 7, 40):
        samples = [draw.lognormvariate(0, 0.3) for _ in range(n)]
        found = spread(samples)
        expected = numpy.quantile(samples, [0.1, 0.2, 0.5, 0.8, 0.9])
        points = (found.p10, found.p20, found.median, found.p80, found.p90)
        assert points == pytest.approx(tuple(expected))


def test_one_sample_has_no_deviation_and_no_drift() -> None:
    found = spread([0.3])
    assert (found.median, found.low, found.high) == (0.3, 0.3, 0.3)
    assert (found.sd, found.drift, found.mad) == (None, None, 0.0)


def test_drift_is_the_median_slope_and_an_outlier_does_not_move_it() -> None:
    """Pairs of 10, 11, 12, 13, 99: slopes 1 six times, then 86, 43.5, 29.3, 22.25; the median of
    ten is 1."""
    assert slope([10.0, 11.0, 12.0, 13.0, 99.0]) == 1.0
    assert spread([10.0, 11.0, 12.0, 13.0, 99.0]).drift == pytest.approx(1 / 12)
    assert slope([2.0, 1.0]) == -1.0


def test_the_slope_of_many_samples_is_that_of_all() -> None:
    n = 5 * MOST_POINTS + 3
    assert slope([1 + 0.001 * i for i in range(n)]) == pytest.approx(0.001)


def test_rates_are_counts_over_the_median_step() -> None:
    """2 x 8 tokens x 3 micro-batches in 0.1 s, half of them padding."""
    workload = replace(records.WORKLOAD, setup=replace(records.WORKLOAD.setup, accumulation=3))
    counts = {"nonpad_tokens_per_step": 24, "supervised_tokens_per_step": 21}
    found = throughput(records.make_record(workload, **counts))
    assert found is not None and found.steps.median == 0.1
    rates = {"tokens": 480, "nonpad_tokens": 240, "supervised_tokens": 210}
    for name, rate in (rates | {"samples": 60, "steps": 10}).items():
        assert getattr(found, f"{name}_per_second") == pytest.approx(rate)
    assert found.tokens_per_second * found.steps.median == 48


def test_what_was_not_measured_is_none() -> None:
    assert throughput(records.make_record(step_seconds=None)) is None
    assert throughput(records.make_record(status="oom")) is None
    assert throughput(records.make_record(step_seconds=(0.1, 0.0))) is None
    found = throughput(records.make_record(nonpad_tokens_per_step=None, tokens_per_step=None))
    assert found is not None
    assert found.tokens_per_second is found.nonpad_tokens_per_second is found.energy is None


def warnings(*seconds: float, **fields: object) -> str:
    found = throughput(records.make_record(step_seconds=seconds, **fields))
    assert found is not None
    return "; ".join(found.warnings)


STEADY = (0.1, 0.101) * 6


def test_steady_steps_warn_of_nothing() -> None:
    assert warnings(*STEADY) == ""


def test_warnings_name_what_is_wrong() -> None:
    assert warnings(*STEADY[:9]) == "only 9 of at least 10 steps were timed"
    assert "the longest step is 6" in warnings(*STEADY, 0.17)
    assert "the shortest step is 5" in warnings(*STEADY, 0.04, 0.04)
    apart = warnings(*([0.1, 0.13] * 6))
    assert "the standard deviation is 14 % of the mean" in apart  # 0.015 sqrt(12 / 11) / 0.115
    assert "the median's interval is +-13.0 % wide, where 5 % is the aim" in apart
    rising = warnings(*(0.1 + 0.002 * i for i in range(12)))
    assert "step times rise by 1.8 % a step" in rising
    assert "step times fall by 1.8 % a step" in warnings(*(0.122 - 0.002 * i for i in range(12)))


def test_a_gpu_s_interval_has_to_be_narrower() -> None:
    seconds = (0.1, 0.103) * 6
    assert "where 1 % is the aim" in warnings(*seconds, device=records.H100)
    assert warnings(*seconds) == ""


@pytest.mark.parametrize(
    ("block", "bound"), [(1.2, False), (1.23, True), (1.17, True), (None, None)]
)
def test_host_bound_is_two_clocks_that_disagree(block: float | None, bound: bool | None) -> None:
    """Twelve steps of 0.1 s: 1.2 s by the device's events."""
    times = {"step_seconds": (0.1,) * 12, "block_seconds": block}
    found = throughput(records.make_record(device=records.H100, **times))
    assert found is not None and found.host_bound is bound
    on_cpu = throughput(records.make_record(**times))
    assert on_cpu is not None and on_cpu.host_bound is None


def test_energy_per_token_by_hand() -> None:
    """6,000 J in 20 s for 100 steps of 16 tokens: 3.75 J a token; idling at 50 W takes 1,000 J of
    it: 3.125 J."""
    energy = Energy(joules=6_000.0, seconds=20.0, steps=100, idle_joules=250.0, idle_seconds=5.0)
    found = throughput(records.make_record(device=records.H100, energy=energy))
    assert found is not None and found.energy is not None
    assert found.energy.gross_joules_per_token == pytest.approx(3.75)
    assert found.energy.net_joules_per_token == pytest.approx(3.125)
    without = replace(energy, idle_joules=0.0, idle_seconds=0.0)
    no_idle = throughput(records.make_record(energy=without))
    assert no_idle is not None and no_idle.energy is not None
    assert no_idle.energy.net_joules_per_token is None
    short = throughput(records.make_record(energy=replace(energy, seconds=9.9)))
    assert short is not None and short.energy is None


# --- utilisation ----------------------------------------------------------------------------------


def h100_record(
    seconds: float, dtype: str = "bfloat16", accumulation: int = 1, **setup: object
) -> Record:
    fields: Any = {"dtype": dtype, "accumulation": accumulation, "device": "cuda", **setup}
    workload = replace(records.WORKLOAD, setup=replace(records.WORKLOAD.setup, **fields))
    return records.make_record(workload, device=records.H100, step_seconds=(seconds,) * 10)


def test_mfu_by_hand() -> None:
    """Llama-like: N = 6.6e9 matrix weights, 4,096 tokens, attention left out. Full: 6 N T =
    1.622e14 FLOP; in 0.41 s at the 989.4 TFLOP/s of an H100 that is 1.622e14 / (0.41 x 9.894e14) =
    0.39985. Checkpointing adds 2 N T: 0.53313.
    """
    n, tokens = 6_600_000_000, 4_096
    flops = FlopCount(
        forward=2 * n * tokens, backward=4 * n * tokens, recompute=2 * n * tokens, tokens=tokens
    )
    found = utilisation(h100_record(0.41), flops)
    assert found is not None
    assert found.card.key == "h100_sxm_80gb"
    assert found.peak_flops == 989.4e12
    assert found.mfu == pytest.approx(0.39985, abs=1e-4)
    assert found.hfu == pytest.approx(0.53313, abs=1e-4)
    assert found.mfu_full_equivalent is None
    assert share_of_peak(989_400_000_000_000, 1.0, 989.4e12) == 1.0


def test_lora_s_mfu_counts_what_lora_needs_and_full_s_stands_beside() -> None:
    """LoRA needs 4 N T where full needs 6 N T: at the same time 2/3 of the utilisation. Two
    micro-batches fill the step."""
    lora = FlopCount(forward=2 * 10**13, backward=2 * 10**13, recompute=0, tokens=4_096)
    full = FlopCount(forward=2 * 10**13, backward=4 * 10**13, recompute=0, tokens=4_096)
    found = utilisation(h100_record(0.2, accumulation=2, lora=LoraConfig()), lora, full)
    assert found is not None
    assert found.mfu == found.hfu == pytest.approx(4e13 / (0.1 * 989.4e12))
    assert found.mfu / found.mfu_full_equivalent == pytest.approx(2 / 3)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("dtype", "precision", "tflops"),
    [
        ("bfloat16", "pure", 165.2),
        ("float32", "amp", 165.2),
        ("float16", "pure", 165.2),
        ("float32", "pure", 82.6),
    ],
)
def test_the_peak_is_that_of_the_dtype_that_is_multiplied(
    dtype: str, precision: str, tflops: float
) -> None:
    setup = replace(records.WORKLOAD.setup, dtype=dtype, precision=precision)  # type: ignore[arg-type]
    assert peak_flops(find_gpu("rtx_4090"), setup) == pytest.approx(tflops * 1e12)


def test_no_peak_no_utilisation() -> None:
    flops = FlopCount(forward=1, backward=2, recompute=0, tokens=1)
    assert peak_flops(find_gpu("t4"), replace(records.WORKLOAD.setup, dtype="bfloat16")) is None
    assert utilisation(records.make_record(), flops) is None
    assert utilisation(replace_device(name="NVIDIA H200 NVL"), flops) is None
    assert utilisation(replace_device(mig="on"), flops) is None
    assert utilisation(replace_device(total_bytes=9_984 * MIB), flops) is None
    assert utilisation(replace_device(mig="off"), flops) is not None
    assert utilisation(h100_record(0.1), None) is None
    assert card_of(records.CPU) is None


def replace_device(**changes: object) -> Record:
    record = h100_record(0.1)
    device = replace(record.environment.device, **changes)  # type: ignore[arg-type]
    return replace(record, environment=replace(record.environment, device=device))


def test_more_than_the_peak_is_impossible() -> None:
    flops = FlopCount(forward=30 * 10**12, backward=60 * 10**12, recompute=9 * 10**12, tokens=1)
    assert impossible(h100_record(0.11), flops) == []
    (said,) = impossible(h100_record(0.0999), flops)
    assert "100 % of the peak of NVIDIA H100 SXM5 80GB (989.4 TFLOP/s)" in said
    assert impossible(records.make_record(), flops) == []


# --- one against the other ------------------------------------------------------------------------


def timed(
    seconds: tuple[float, ...], lora: bool = False, repeat: int = 0, **fields: object
) -> Record:
    workload = records.LORA_WORKLOAD if lora else records.WORKLOAD
    return records.make_record(workload, repeat=repeat, step_seconds=seconds, **fields)


def noisy(center: float, seed: int, n: int = 30) -> tuple[float, ...]:
    draw = random.Random(seed)
    return tuple(center * draw.lognormvariate(0, 0.02) for _ in range(n))


def test_the_ratio_of_equal_steps_is_certain() -> None:
    found = full_against_lora([timed((0.2,) * 10)], [timed((0.15,) * 10, lora=True)])
    assert (found.ratio, found.low, found.high) == (pytest.approx(0.75),) * 3
    assert found.processes == (1, 1)
    assert "-full-" in found.case_a and "-lora-" in found.case_b


def test_the_interval_of_the_ratio_covers_what_is_true_and_nothing_far() -> None:
    """2 % noise on 30 steps: the median's standard error is 1.25 x 0.02 / sqrt(30) = 0.46 %, the
    ratio's 0.65 %."""
    covered = 0
    for seed in range(20):
        lora = timed(noisy(0.15, 100 + seed), lora=True)
        found = full_against_lora([timed(noisy(0.2, seed))], [lora])
        covered += found.low <= 0.75 <= found.high
        assert 0.008 < (found.high - found.low) / found.ratio < 0.05
    assert covered >= 17


def test_the_interval_is_the_same_each_time_and_widens_with_unlike_processes() -> None:
    a = [timed(noisy(0.2, i), repeat=i) for i in range(3)]
    alike = [timed(noisy(0.15, 10 + i), lora=True, repeat=i) for i in range(3)]
    factors = enumerate((0.9, 1.0, 1.1))
    unlike = [timed(noisy(0.15 * f, 10 + i), lora=True, repeat=i) for i, f in factors]
    first, again, wide = (full_against_lora(a, b) for b in (alike, alike, unlike))
    assert first == again
    assert first.processes == (3, 3)
    assert wide.high - wide.low > 3 * (first.high - first.low)


def test_long_runs_are_thinned_to_a_second_s_work() -> None:
    long = noisy(0.2, 1, n=20_000)
    found = full_against_lora([timed(long)], [timed(tuple(x / 2 for x in long), lora=True)])
    assert found.ratio == pytest.approx(0.5)
    assert found.low < 0.5 < found.high


NOT_COMPARED: tuple[tuple[list[Record], list[Record]], ...] = (
    ([], [timed((0.1,) * 9)]),
    ([timed((0.1,) * 9)], [timed((0.1,) * 9, status="oom")]),
    ([timed((0.1,) * 9), timed((0.1,) * 9, lora=True)], [timed((0.1,) * 9)]),
    ([timed((0.1,) * 9)], [timed((0.1,) * 9, device=records.H100)]),
    ([timed((0.1,) * 9)], [timed((0.1,) * 9, environment={"threads": 3})]),
    ([timed((0.1,) * 9)], [timed((0.1,) * 9, lora=True, tokens_per_step=32)]),
    ([timed((0.1,) * 9)], [timed((0.1,) * 9, conditions=Conditions(seed=1)), timed((0.1,) * 9)]),
)


def test_what_cannot_be_compared_is_refused(golden_file: Golden) -> None:
    said = []
    for a, b in NOT_COMPARED:
        with pytest.raises(UsageError) as refusal:
            full_against_lora(a, b)
        said.append(str(refusal.value))
    golden_file.compare("not-compared", "\n".join(said) + "\n")


def test_two_cards_of_one_model_are_two_devices() -> None:
    other = replace(records.H100, uuid_hash="bbbb")
    a, b = timed((0.1,) * 9, device=records.H100), timed((0.1,) * 9, lora=True, device=other)
    with pytest.raises(UsageError, match="different devices"):
        full_against_lora([a], [b])
