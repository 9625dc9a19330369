"""What only an NVIDIA GPU can show, on a small model: the counters agree with each other, with the
driver and with the clock.

pytest -m gpu tests/gpu
"""

import subprocess
import sys
from dataclasses import replace
from functools import cache

import pytest
import torch

from lora_profiler.facts.catalog import find_model
from lora_profiler.measuring.harness import Case, make_case, measure_case
from lora_profiler.measuring.records.record import Conditions, Record
from lora_profiler.planning.engine import predict
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.runs.comparison.throughput import card_of
from lora_profiler.units import GIB, MIB
from record_checks import problems

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
    pytest.mark.timeout(600),
]

BASE = TrainSetup(device="cuda", batch_size=4, seq_len=1024, optimizer_impl="fused")
SETUPS = {
    "full": BASE,
    "lora": replace(BASE, lora=LoraConfig()),
    "checkpointed": replace(BASE, lora=LoraConfig(), checkpointing=True),
    "qlora": replace(BASE, lora=LoraConfig(), quantization=Quantization(), checkpointing=True),
}


def case(setup: TrainSetup, conditions: Conditions | None = None, repeat: int = 0) -> Case:
    workload = Workload(model=find_model("HuggingFaceTB/SmolLM2-135M", offline=True), setup=setup)
    return make_case(workload, conditions or Conditions(max_timing_seconds=30.0), repeat=repeat)


@cache
def measured(name: str, repeat: int = 0) -> Record:
    return measure_case(case(SETUPS[name], repeat=repeat))


@pytest.mark.parametrize("name", SETUPS)
def test_a_record_holds_together(name: str) -> None:
    record = measured(name)
    assert record.measurement.went_through, record.measurement.failure
    assert problems(record) == []


@pytest.mark.parametrize("name", SETUPS)
def test_requested_bytes_are_the_predicted_ones(name: str) -> None:
    """Within 1 %, once what no prediction speaks of is taken away: BLAS's workspace, and what has
    no owner, 1 % at most."""
    record = measured(name)
    m = record.measurement
    assert m.peak_requested_bytes is not None and m.workspace_bytes is not None
    unattributed = m.attribution_bytes["unattributed"]
    assert abs(unattributed) <= 0.01 * m.peak_requested_bytes
    foretold = predict(record.workload).peak.total_bytes
    assert m.peak_requested_bytes - m.workspace_bytes - unattributed == pytest.approx(
        foretold, rel=0.01
    )


@pytest.mark.parametrize("name", SETUPS)
def test_rounding_adds_little(name: str) -> None:
    m = measured(name).measurement
    assert m.peak_requested_bytes is not None and m.peak_allocated_bytes is not None
    assert m.peak_requested_bytes <= m.peak_allocated_bytes <= 1.01 * m.peak_requested_bytes


@pytest.mark.parametrize("name", SETUPS)
def test_driver_and_allocator_agree(name: str) -> None:
    """At the end, reserved bytes and what lies outside torch are what the driver sees, within 2 %,
    on a card of one's own."""
    m = measured(name).measurement
    end = next((s for s in m.device_samples if s.when == "end"), None)
    if not m.exclusive or m.context_bytes is None or end is None or end.reserved_bytes is None:
        pytest.skip("the driver shows no figure of this process alone")
    assert end.reserved_bytes + m.context_bytes == pytest.approx(m.device_used_bytes, rel=0.02)


@pytest.mark.parametrize("name", SETUPS)
def test_events_and_clock_agree(name: str) -> None:
    m = measured(name).measurement
    assert m.block_seconds is not None
    assert (
        sum(m.step_seconds) == pytest.approx(m.block_seconds, rel=0.02) or "host_bound" in m.flags
    )


def test_three_processes_see_the_same_bytes() -> None:
    runs = [measured("lora", repeat=i).measurement for i in range(3)]
    assert len({r.peak_requested_bytes for r in runs}) == 1
    medians = [sorted(r.step_seconds)[len(r.step_seconds) // 2] for r in runs]
    assert max(medians) / min(medians) <= 1.015


def test_a_product_reaches_most_of_the_cards_peak() -> None:
    """0.6 to 0.9 of the catalogue's dense figure: a sparse one in its place would give half of
    that."""
    record = measured("lora")
    card = card_of(record.environment.device)
    if card is None or card.bf16_dense_tflops is None:
        pytest.skip("the catalogue does not know this card")
    program = (
        "import torch; a, b = (torch.randn(8192, 8192, device='cuda', dtype=torch.bfloat16) for _"
        " in 'ab');s, e = (torch.cuda.Event(enable_timing=True) for _ in 'se'); [a @ b for _ in"
        " range(20)]; s.record();[a @ b for _ in range(50)]; e.record(); torch.cuda.synchronize();"
        " print(50 * 2 * 8192**3 / s.elapsed_time(e) / 1e9)"
    )
    reached = float(
        subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        ).stdout
    )
    assert 0.55 <= reached / card.bf16_dense_tflops <= 0.95


def test_a_budget_is_kept() -> None:
    record = measure_case(
        case(
            replace(BASE, batch_size=64, seq_len=2048),
            Conditions(budget_bytes=4 * GIB, min_timed_steps=0),
        )
    )
    assert record.measurement.status == "oom"
    assert record.measurement.failure is not None
    assert record.measurement.failure.phase in ("forward", "loss", "backward", "optimizer")


def test_ballast_raises_the_peak_by_its_bytes() -> None:
    quick = Conditions(min_timed_steps=0)
    plain = measure_case(case(SETUPS["lora"], quick)).measurement.peak_allocated_bytes
    heavy = measure_case(
        case(SETUPS["lora"], replace(quick, ballast_bytes=512 * MIB))
    ).measurement.peak_allocated_bytes
    assert plain is not None and heavy is not None
    assert 512 * MIB <= heavy - plain <= 514 * MIB


def test_the_parent_has_made_no_context() -> None:
    measured("lora")
    assert not torch.cuda.is_initialized()
