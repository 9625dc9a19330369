"""Whole cases in processes of their own: what ends badly is a record, nothing outlives its case,
none disturbs the next."""

import io
import json
import math
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import families
import time_limit
from commands import in_python
from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import model_from_config
from lora_profiler.measuring.harness import (
    Case,
    Heartbeat,
    MeasurementError,
    make_case,
    measure_case,
    runner,
)
from lora_profiler.measuring.harness import worker as measured_process
from lora_profiler.measuring.harness.case import case_dict
from lora_profiler.measuring.harness.driver_view import DeviceView
from lora_profiler.measuring.harness.machine import cgroup_peak_bytes
from lora_profiler.measuring.harness.memory_pass import MemoryResult
from lora_profiler.measuring.harness.preflight import refuse
from lora_profiler.measuring.harness.process import SPIN_VARIABLE
from lora_profiler.measuring.harness.timing_pass import TimingResult, timing_pass
from lora_profiler.measuring.harness.training import Training
from lora_profiler.measuring.harness.worker import CaseRun, flags, measurement, quality, train
from lora_profiler.measuring.records.record import (
    Conditions,
    Failure,
    PhaseSample,
    Record,
    Telemetry,
    readings_from_dict,
)
from lora_profiler.measuring.records.serialize import record_dict, record_from_dict
from lora_profiler.measuring.records.store import Store
from lora_profiler.planning.engine import predict
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.trace import modeling
from lora_profiler.units import GIB, MIB
from record_checks import problems
from records import ENVIRONMENT
from waiting import alive, wait_for_the_end_of, wait_until

MODEL = model_from_config(
    dict(families.TINY["llama"]) | {"vocab_size": 4000}, id="tiny", source="test"
)
SETUP = TrainSetup(device="cpu", dtype="float32", batch_size=2, seq_len=64, lora=LoraConfig(r=4))
QUICK = Conditions(min_timed_steps=0, memory_steps=2)
TIMED = Conditions(min_timed_steps=6, max_timing_seconds=5.0)


def case(setup: TrainSetup = SETUP, conditions: Conditions = QUICK) -> Case:
    return make_case(Workload(model=MODEL, setup=setup), conditions)


def failure_of(record: Record, status: str) -> Failure:
    """Of a record that must have ended so."""
    assert record.measurement.status == status, record.measurement
    assert record.measurement.failure is not None
    return record.measurement.failure


def measured(asked: Case) -> Record:
    """As the child measures it, in this process."""
    return measured_process.measured(asked, io.StringIO())


@pytest.mark.usefixtures("one_thread")
def test_what_is_told_while_it_runs_adds_up_to_the_record() -> None:
    """Each phase and each step once, in order, before the run is over."""
    heartbeats = io.StringIO()
    conditions = replace(TIMED, max_timing_seconds=20.0)  # enough on a busy machine
    record = measured_process.measured(case(conditions=conditions), heartbeats)
    lines = [json.loads(line) for line in heartbeats.getvalue().splitlines()]
    told = [readings_from_dict(line["read"]) for line in lines if "read" in line]
    m = record.measurement
    assert [p for read in told for p in read.phases] == list(m.phases) != []
    assert [s for read in told for s in read.warmup_seconds] == list(m.warmup_seconds)
    assert [s for read in told for s in read.step_seconds] == list(m.step_seconds) != []
    assert sum(bool(read.warmup_seconds or read.step_seconds) for read in told) > 2


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True)
def known_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not asked of a process that imports torch for it, as `driver` does once."""
    monkeypatch.setattr(
        "lora_profiler.measuring.harness.runner.environment_of", lambda *_, **__: ENVIRONMENT
    )


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A process that measures one case, timed, one with a budget that is a MiB too small, and one
    whose child crashes: the records, the phases that were heard of the first, and the heavy modules
    that it has imported itself."""
    program = textwrap.dedent("""
        import json, sys
        from dataclasses import replace
        from lora_profiler.measuring.harness import measure_case
        from lora_profiler.measuring.harness.case import case_from_dict
        from lora_profiler.measuring.records.serialize import record_dict
        case, phases = case_from_dict(json.load(open(sys.argv[1]))), []
        good = measure_case(case, progress=lambda heartbeat: phases.append(heartbeat.phase))
        tight = replace(case.conditions, budget_bytes=good.measurement.peak_requested_bytes - 2**20)
        oom = measure_case(replace(case, conditions=tight))
        crash = measure_case(case, child=(sys.executable, "-c", "raise SystemExit(3)"))
        heavy = sorted({"torch", "transformers", "numpy"} & set(sys.modules))
        records = {name: record_dict(r) for name, r in dict(good=good, oom=oom, crash=crash).items()}
        print(json.dumps(records | dict(phases=phases, heavy=heavy)))
    """)
    path = tmp_path_factory.mktemp("driver") / "case.json"
    path.write_text(json.dumps(case_dict(case(conditions=TIMED))))
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    told = in_python(program, str(path), env=os.environ | environment, timeout=280)
    answer: dict[str, Any] = json.loads(told)
    return answer


@pytest.fixture(scope="module")
def good(driver: dict[str, Any]) -> Record:
    """One case that goes through, timed."""
    return record_from_dict(driver["good"])


def test_every_stage_and_phase_is_heard_of(driver: dict[str, Any]) -> None:
    order = list(dict.fromkeys(driver["phases"]))
    assert order[:3] == ["context", "load", "adapter_inject"]
    assert {"forward", "loss", "backward", "optimizer", "timing"} <= set(order)


def test_a_record_holds_together(good: Record) -> None:
    m = good.measurement
    assert m.status in ("ok", "noisy"), m.failure
    assert problems(good) == []
    assert len(m.step_seconds) >= 6
    assert m.tokens_per_step == 128
    assert sum(m.attribution_bytes.values()) == m.peak_requested_bytes
    stages = {"import", "context", "load", "adapter_inject", "optimizer_build", "memory", "timing"}
    assert set(m.stage_seconds) >= stages
    assert m.timed_peak_bytes == m.peak_requested_bytes


def test_the_group_s_peak_is_kept_where_the_system_tells_it(good: Record) -> None:
    now, kept = cgroup_peak_bytes(), good.measurement.resident_bytes.get("cgroup_peak")
    assert (now is None) == (kept is None)
    if now is not None and kept is not None:
        # the group shares pages with others, and counts others
        assert good.measurement.resident_bytes["peak"] / 4 < kept <= now


def test_a_measurement_equals_its_prediction(good: Record) -> None:
    predicted = predict(good.workload).peak.total_bytes
    assert good.measurement.peak_requested_bytes == pytest.approx(predicted, rel=1e-4)


def test_the_parent_imports_no_torch_and_makes_no_context(
    driver: dict[str, Any], good: Record
) -> None:
    crash = record_from_dict(driver["crash"])
    assert (good.measurement.went_through, crash.measurement.status) == (True, "crash")
    assert crash.environment.key == good.environment.key
    assert driver["heavy"] == []


# --- 6: what ends badly is a row ------------------------------------------------------------------


def test_a_budget_gives_oom_with_its_phase_and_bytes(driver: dict[str, Any], good: Record) -> None:
    peak = good.measurement.peak_requested_bytes
    assert peak is not None
    record = record_from_dict(driver["oom"])
    m = record.measurement
    assert m.status == "oom"
    assert m.failure is not None and m.failure.phase in ("loss", "backward") and m.failure.step == 1
    assert m.failure.tried_bytes and m.failure.allocated_bytes
    assert m.failure.allocated_bytes + m.failure.tried_bytes > peak - MIB
    assert m.step1_phase_peak_bytes["forward"] > 0, "peaks before the failure are kept"
    assert problems(record) == []


def test_a_case_measured_again_is_as_ever(good: Record) -> None:
    """In other conditions, which do not time it."""
    again = measure_case(case()).measurement
    names = ("phase_peak", "step1_phase_peak", "attribution", "persistent", "saved_activation")
    for name in (f"{each}_bytes" for each in names):
        assert getattr(again, name) == getattr(good.measurement, name), name


def test_the_system_refusing_memory_is_oom() -> None:
    limited = textwrap.dedent("""
        import resource, runpy, sys
        import torch, transformers, peft
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 600 * 2**20, resource.RLIM_INFINITY))
        runpy.run_module("lora_profiler.measuring.harness.entry", run_name="__main__", alter_sys=True)
    """)
    huge = case(replace(SETUP, batch_size=64, seq_len=512))
    record = measure_case(huge, child=(sys.executable, "-c", limited))
    failure = failure_of(record, "oom")
    assert failure.phase in ("forward", "loss", "backward")
    assert failure.tried_bytes and failure.tried_bytes > MIB


def _sleeper(phase: str, marker: Path, stubborn: bool = False) -> tuple[str, ...]:
    """A child that says where it is, starts a child of its own and hangs."""
    program = textwrap.dedent(f"""
        import json, os, signal, subprocess, sys, time
        if {stubborn}:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        open({str(marker)!r}, "w").write(f"{{os.getpid()}} {{grandchild.pid}}")
        print(json.dumps(dict(phase={phase!r}, step=2, done=None)), flush=True)
        time.sleep(600)
    """)
    return (sys.executable, "-c", program)


def test_a_hang_is_a_timeout_with_its_phase_and_leaves_nothing_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "pids"
    progress = time_limit.passes(lambda h: h.phase == "backward", monkeypatch)
    record = measure_case(case(), progress=progress, child=_sleeper("backward", marker))
    failure = failure_of(record, "timeout")
    assert (failure.phase, failure.step) == ("backward", 2)
    wait_for_the_end_of(*map(int, marker.read_text().split()))


def test_a_child_that_ignores_the_request_is_ended_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lora_profiler.measuring.harness.runner.TERMINATE_SECONDS", 0.5)
    marker = tmp_path / "pids"
    progress = time_limit.passes(lambda h: h.phase == "load", monkeypatch)
    record = measure_case(case(), progress=progress, child=_sleeper("load", marker, stubborn=True))
    assert record.measurement.status == "timeout"
    wait_for_the_end_of(*map(int, marker.read_text().split()))


@pytest.mark.parametrize(("kills", "status"), [([0, 0], "crash"), ([0, 1], "host_oom")])
def test_a_killed_child_is_a_crash_or_the_machine_out_of_memory(
    kills: list[int], status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = iter(kills)
    monkeypatch.setattr("lora_profiler.measuring.harness.runner.oom_kills", lambda: next(counts))
    killed = (sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    record = measure_case(case(), child=killed)
    assert failure_of(record, status).exit_code == -9


@pytest.mark.parametrize("result", ["{", '{"schema_version": "9.0", "path": "/home/someone/x"}'])
def test_a_result_that_cannot_be_read_is_told_of_and_stays(result: str, tmp_path: Path) -> None:
    """The process itself ended well; what it found may be read by hand, or by the version that
    understands it."""
    store = Store(tmp_path / "records.jsonl")
    pending = store.pending_path("a-case.0")
    writer = (sys.executable, "-c", f"import sys; open(sys.argv[2], 'w').write({result!r})")
    record = measure_case(case(), result_path=pending, child=writer)
    failure = failure_of(record, "crash")
    said = "the measured process left a result that cannot be read: "
    assert failure.reason.startswith(said) and failure.exit_code == 0
    pending.unlink(missing_ok=True)  # as a run does once the record is stored
    (left,) = store.pending_folder.glob("*.json")
    assert left.read_text() == result
    assert store.recover() == []
    assert str(left) in "".join(store.unreadable)


def test_a_crash_keeps_the_end_of_its_log_without_paths() -> None:
    code = "raise ValueError('no such thing in /home/someone/secret.txt')"
    log = failure_of(measure_case(case(), child=(sys.executable, "-c", code)), "crash").log
    assert log is not None and "no such thing in secret.txt" in log
    assert "/home" not in json.dumps(log)


@pytest.mark.skipif(
    torch.accelerator.is_available(), reason="a machine with an accelerator can run this"
)
@pytest.mark.parametrize("device", ["cuda", "mps", "xpu"])
def test_a_device_that_is_not_there_is_unsupported(device: str) -> None:
    record = measured(case(replace(SETUP, device=device)))  # type: ignore[arg-type]
    said = f"sees no {device} device on this machine; try --device cpu"
    assert said in failure_of(record, "unsupported").reason


def test_an_interruption_is_a_record_and_ends_the_child(tmp_path: Path) -> None:
    from lora_profiler.measuring.harness import MeasurementInterrupted

    marker = tmp_path / "pids"

    def interrupt(heartbeat: Heartbeat) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(MeasurementInterrupted) as raised:
        measure_case(case(), progress=interrupt, child=_sleeper("forward", marker))
    assert failure_of(raised.value.record, "interrupted").phase == "forward"
    wait_for_the_end_of(*map(int, marker.read_text().split()))


def test_a_child_dies_with_its_parent(tmp_path: Path) -> None:
    """kill -9 of the driver leaves no process that trains on."""
    program = textwrap.dedent("""
        import sys
        from pathlib import Path
        import families
        from test_harness import case, measure_case
        from lora_profiler.measuring.records.record import Conditions
        measure_case(case(conditions=Conditions(max_timing_seconds=60.0, min_timed_steps=10**6)),
                     progress=lambda h: Path(sys.argv[1]).write_text(h.phase))
    """)
    said = tmp_path / "phase"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    driver = subprocess.Popen([sys.executable, "-c", program, str(said)], env=env)
    trains = ("forward", "loss", "backward", "timing")
    wait_until(lambda: said.exists() and said.read_text() in trains, seconds=100)
    below = Path(f"/proc/{driver.pid}/task/{driver.pid}/children")
    children = [*map(int, below.read_text().split())]
    assert children and all(map(alive, children))
    driver.kill()
    driver.wait()
    wait_for_the_end_of(*children)


def test_a_loss_that_is_no_number_is_invalid(monkeypatch: pytest.MonkeyPatch) -> None:
    build = modeling.build_model

    def broken(*arguments: Any, **options: Any) -> Any:
        model = build(*arguments, **options)
        with torch.no_grad():
            next(p for p in model.parameters() if p.requires_grad).fill_(float("nan"))
        return model

    monkeypatch.setattr(modeling, "build_model", broken)
    record = measured(case())
    assert failure_of(record, "invalid").reason == "the loss is nan at step 1"
    assert record.measurement.loss == ()
    assert problems(record) == []


def test_a_busy_machine_is_flagged() -> None:
    """Another process takes a core while steps are timed."""
    hogs: list[subprocess.Popen[bytes]] = []

    def listen(heartbeat: Heartbeat) -> None:
        if heartbeat.phase == "memory" and not hogs:
            hogs.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))

    try:
        short = replace(TIMED, max_timing_seconds=3.0)
        record = measure_case(case(conditions=short), progress=listen)
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()
    assert "busy_machine" in record.measurement.flags
    assert record.measurement.status == "noisy"


# --- what the child makes of what it saw ----------------------------------------------------------


def run_of(device: str, **found: Any) -> CaseRun:
    return CaseRun(
        case=case(replace(SETUP, device=device), TIMED), heartbeats=io.StringIO(), **found
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("device", "block_seconds", "status"),
    [("cpu", 1.0, "noisy"), ("cuda", 1.0, "ok"), ("cuda", 1.03, "noisy")],
)
def test_a_busy_host_spoils_the_times_of_a_card_only_if_it_was_waited_for(
    device: str, block_seconds: float, status: str
) -> None:
    timing = TimingResult(step_seconds=[0.1] * 10, block_seconds=block_seconds)
    run = run_of(device, timing=timing, other_cpu_share=0.5)
    view = DeviceView("cpu")
    assert "busy_machine" in flags(run, view)
    assert quality(run, view) == status


@pytest.mark.parametrize(
    ("reasons", "flag", "status"),
    [(0x04, "low_clock", "ok"), (0x40, "thermal_throttling", "noisy")],
)
def test_a_low_clock_spoils_times_only_where_heat_is_the_reason(
    reasons: int, flag: str, status: str
) -> None:
    run = run_of("cuda", timing=TimingResult(step_seconds=[0.1] * 10))
    view = DeviceView("cpu")
    clocks: Any = {"sm_clock_mhz": (1200,), "default_sm_clock_mhz": 1980}
    view.telemetry = Telemetry(**clocks, throttle_reasons=reasons)
    assert flags(run, view) == (flag,)
    assert quality(run, view) == status


def test_flags_are_those_that_the_checker_asks_for(good: Record) -> None:
    """Tracker, allocator and timing pass a little or much apart, in phases with kernels or without,
    with a workspace or not."""
    draw = random.Random(1)
    seen = set()
    for _ in range(300):
        phases: Any = ("setup", "forward", "backward", "zero")
        peaks = {phase: draw.choice((10_000, 20_000)) for phase in phases}
        apart = (-900, -51, -50, 0, 50, 101)
        memory = MemoryResult(
            samples=[
                PhaseSample(step=2, phase=p, requested_peak_bytes=n) for p, n in peaks.items()
            ],
            tracked={phase: size + draw.choice(apart) for phase, size in peaks.items()},
            workspace_bytes=draw.choice((None, 0, 850)),
        )
        timed = max(peaks.values()) + draw.choice((-101, 0, 50, 101))
        run, view = run_of("cpu", memory=memory, timed_peak_bytes=timed), DeviceView("cpu")
        found = measurement(run, view, "ok", None)
        flagged = "instrumentation_perturbed_memory" in found.flags
        bare = problems(replace(good, measurement=replace(found, flags=())))
        assert flagged == any("not flagged" in problem for problem in bare)
        told = problems(replace(good, measurement=found))
        assert not any("not flagged" in problem for problem in told)
        seen.add(flagged)
    assert seen == {True, False}


class FakeCounters:
    """A caching allocator whose peak is low since its last reset, and that meets retries as the
    test says."""

    available = True
    retries = 0

    def __init__(self, kind: str) -> None: ...

    def read(self) -> dict[str, int | None]:
        return {"allocated_peak_bytes": 7, "requested_peak_bytes": 7}

    def counts(self) -> dict[str, int]:
        return {"num_alloc_retries": FakeCounters.retries}

    def highest(self) -> dict[str, int]:
        return {}

    def reset_peaks(self) -> None: ...


def test_the_peak_of_the_memory_stage_is_that_of_its_phases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measured_process, "Counters", FakeCounters)
    run = run_of("cuda")
    run.stage("memory")
    sizes = (60, 100, None, 80)
    of_forward: Any = {"step": 1, "phase": "forward"}
    run.memory.samples = [PhaseSample(**of_forward, allocated_peak_bytes=size) for size in sizes]
    for stage in ("timing", "end"):
        run.stage(stage)
    assert run.stage_peak_bytes == {"import": 7, "memory": 100, "timing": 7}


def test_the_cache_is_emptied_between_building_and_the_first_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the reserved peak of the steps is that of building: 16.88 GiB for 7.37 of an 8B
    QLoRA."""
    order: list[str] = []

    class Told(CaseRun):
        def beat(self, done: int | None = None) -> None:
            order.append(self.where)

    monkeypatch.setattr(torch.cpu, "empty_cache", lambda: order.append("emptied"), raising=False)
    quantised = replace(SETUP, dtype="bfloat16", quantization=Quantization())
    train(Told(case=case(quantised), heartbeats=io.StringIO()), DeviceView("cpu"))
    assert order.count("emptied") == 1
    at = order.index("emptied")
    assert order[at - 1 : at + 3] == ["optimizer_build", "emptied", "memory", "setup"]


def test_retries_while_steps_are_timed_count_and_those_of_the_warm_up_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def timing_pass(
        training: Any,
        conditions: Any,
        result: TimingResult,
        progress: Callable[[str, int], None],
        agree: Any,
        expected_seconds: float,
    ) -> None:
        for what, done, retries in (("warmup", 1, 40), ("timing", 0, 500), ("timing", 1, 2)):
            FakeCounters.retries += retries
            progress(what, done)

    FakeCounters.retries = 5
    monkeypatch.setattr(measured_process, "Counters", FakeCounters)
    monkeypatch.setattr(measured_process, "timing_pass", timing_pass)
    run, view = run_of("cpu"), DeviceView("cpu")
    train(run, view)
    assert run.memory.health.found == {"num_alloc_retries": 2}
    assert "memory_pressure" in flags(run, view)
    assert measurement(run, view, "noisy", None).health == {"num_alloc_retries": 2}


class SlowTraining:
    """Takes `seconds` a step, and counts them."""

    setup = SETUP

    def __init__(self, seconds: float) -> None:
        self.seconds, self.steps_done = seconds, 0

    def step(self, enter: Callable[[int, str], None]) -> float:
        enter(self.steps_done + 1, "setup")
        enter(self.steps_done + 1, "forward")
        time.sleep(self.seconds)
        self.steps_done += 1
        return 1.0


@pytest.mark.parametrize(
    ("seconds", "given", "expected", "steps"),
    [
        (0.4, 0.3, 0.4, (0, 1)),  # no time to warm up: that is for the step that counts
        (0.4, 0.2, 0.4, (0, 1)),  # longer than the time given, and within five times of it
        (0.4, 1.1, 0.4, (1, 1)),
        (5.0, 1.0, 5.0, (0, 0)),  # would end long after it
        (0.001, 0.05, 0.0, None),
    ],
)
def test_a_slow_step_is_not_begun_where_it_would_end_after_the_time_given(
    seconds: float, given: float, expected: float, steps: tuple[int, int] | None
) -> None:
    conditions = Conditions(min_timed_steps=10, max_timing_seconds=given)
    training, result = SlowTraining(seconds), TimingResult()
    began = time.perf_counter()
    timing_pass(training, conditions, result, lambda *_: None, expected_seconds=expected)  # type: ignore[arg-type]
    taken = time.perf_counter() - began
    warmed, timed = len(result.warmup_seconds), len(result.step_seconds)
    assert training.steps_done == warmed + timed
    assert result.is_cut == (timed < 10)
    if steps is None:
        assert timed >= 10 or taken > given / 2
        return
    most_warmed, most_timed = steps
    assert warmed <= most_warmed and timed == most_timed
    assert training.steps_done * seconds <= 5 * given


@pytest.mark.usefixtures("one_thread")
def test_a_step_that_nobody_has_the_time_for_leaves_a_record_without_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = Training.step

    def slow(self: Training, enter: Any) -> Any:
        time.sleep(0.6)
        return whole(self, enter)

    monkeypatch.setattr(Training, "step", slow)
    given = Conditions(memory_steps=2, min_timed_steps=10, max_timing_seconds=0.1)
    record = measured(case(conditions=given))
    done = record.measurement
    assert (done.status, done.step_seconds, done.warmup_seconds) == ("noisy", (), ())
    assert "timing_cut" in done.flags and done.peak_requested_bytes
    assert record_dict(record_from_dict(record_dict(record))) == record_dict(record)


@pytest.mark.parametrize(("load", "spins"), [(1.0, None), (9.0, "0")])
def test_threads_sleep_on_a_machine_that_others_keep_busy(
    load: float, spins: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SPIN_VARIABLE, raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, load, load))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert runner.child_environment(None).get(SPIN_VARIABLE) == spins
    monkeypatch.setenv(SPIN_VARIABLE, "7")
    assert runner.child_environment(None)[SPIN_VARIABLE] == "7"


# --- refusals -------------------------------------------------------------------------------------


def _installed(*missing: str) -> Callable[[str], object]:
    return lambda name: None if name in missing else name


def asking(**changes: Any) -> Workload:
    return Workload(model=MODEL, setup=replace(SETUP, **changes))


def test_what_cannot_run_here_is_refused_before_a_process_starts() -> None:
    qlora = asking(dtype="bfloat16", quantization=Quantization())
    on_cuda = asking(device="cuda", dtype="bfloat16")
    with pytest.raises(MeasurementError, match=r"needs torch, peft.*lora-profiler\[measure\]"):
        refuse(qlora, QUICK, _installed("torch", "peft"))
    with pytest.raises(MeasurementError, match="4-bit base needs bitsandbytes"):
        refuse(qlora, QUICK, _installed("bitsandbytes"))
    with pytest.raises(MeasurementError, match=r"compute capability 7\.5\) has no bfloat16"):
        refuse(on_cuda, QUICK, _installed(), lambda: (7, 5))
    refuse(on_cuda, QUICK, _installed(), lambda: (8, 0))
    refuse(on_cuda, QUICK, _installed(), lambda: None)


ADAPTED = replace(SETUP, device="cuda", dtype="bfloat16")
WITHOUT_BFLOAT16 = {
    "full": (replace(ADAPTED, lora=None), "take --dtype float32 and --precision pure", "float32"),
    "full, autocast": (
        replace(ADAPTED, lora=None, dtype="float32", precision="amp"),
        "take --dtype float32",
        "float32",
    ),
    "lora": (ADAPTED, "take --dtype float16 and --precision pure, adapters in float32", "float16"),
    "qlora": (replace(ADAPTED, quantization=Quantization()), "take --dtype float16", "float16"),
    "qlora, trl": (
        replace(ADAPTED, dtype="float16", quantization=Quantization(recipe="trl")),
        "--recipe stock or kbit",
        "float16",
    ),
    "adapters": (
        replace(ADAPTED, dtype="float16", lora=LoraConfig(r=4, adapter_dtype="bfloat16")),
        "in float32",
        "float16",
    ),
}


@pytest.mark.parametrize("name", WITHOUT_BFLOAT16)
def test_what_is_advised_for_a_card_without_bfloat16_trains(name: str) -> None:
    """Three steps on the CPU, whose float16 has the same range: a wrong one shows in the second."""
    refused, advice, dtype = WITHOUT_BFLOAT16[name]
    with pytest.raises(MeasurementError, match=rf"7\.5\) has no bfloat16.*{advice}"):
        refuse(Workload(model=MODEL, setup=refused), QUICK, _installed(), lambda: (7, 5))
    advised: Any = {"dtype": dtype, "precision": "pure", "lora": refused.lora and LoraConfig(r=4)}
    advised["quantization"] = refused.quantization and Quantization()
    taken = replace(refused, **advised)
    refuse(Workload(model=MODEL, setup=taken), QUICK, _installed(), lambda: (7, 5))
    few = replace(QUICK, memory_steps=3)
    losses = measured_process.losses_alone(case(replace(taken, device="cpu", seq_len=16), few))
    assert all(map(math.isfinite, losses)) and len(losses) == 3


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_allocator_settings_that_contradict_each_other_are_refused(name: str) -> None:
    on_cuda = asking(device="cuda")
    said = r"expandable_segments and max_split_size_mb.*Leave one of them out"
    for settings, refused in [
        ("expandable_segments:True,max_split_size_mb:128", True),
        ("max_split_size_mb:128, expandable_segments:True", True),
        ("expandable_segments:False,max_split_size_mb:128", False),
        ("expandable_segments:True,garbage_collection_threshold:0.8", False),
        ("max_split_size_mb:128", False),
        ("", False),
    ]:
        if refused:
            with pytest.raises(UsageError, match=said):
                refuse(on_cuda, QUICK, _installed(), environ={name: settings})
        else:
            refuse(on_cuda, QUICK, _installed(), environ={name: settings})
        refuse(asking(), QUICK, _installed(), environ={name: settings})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"PYTORCH_ALLOC_CONF": "backend:cudaMallocAsync"}, "backend:cudaMallocAsync"),
        (
            {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True, backend: cudaMallocAsync"},
            "backend:cudaMallocAsync",
        ),
        ({"PYTORCH_NO_CUDA_MEMORY_CACHING": "0"}, "PYTORCH_NO_CUDA_MEMORY_CACHING is set"),
    ],
)
def test_allocators_that_count_no_requested_bytes_are_refused(
    settings: dict[str, str], words: str
) -> None:
    on_cuda = asking(device="cuda")
    with pytest.raises(UsageError, match=words + ".*counts no .*bytes"):
        refuse(on_cuda, QUICK, _installed(), environ=settings)
    refuse(asking(), QUICK, _installed(), environ=settings)
    refuse(on_cuda, QUICK, _installed(), environ={"PYTORCH_ALLOC_CONF": "backend:native"})


def test_what_no_machine_can_run_is_refused() -> None:
    gpt2 = model_from_config(families.TINY["gpt2"], id="tiny-gpt2", source="test")
    with pytest.raises(UsageError, match="table of 256 positions, not 512"):
        refuse(Workload(model=gpt2, setup=replace(SETUP, seq_len=512)), QUICK, _installed())
    gemma = model_from_config(families.TINY["gemma2"], id="tiny-gemma", source="test")
    with pytest.raises(UsageError, match=r"runs Gemma 2 eager.*--attention flash"):
        refuse(Workload(model=gemma, setup=replace(SETUP, attention="flash")), QUICK, _installed())
    with pytest.raises(UsageError, match=r"padding is 1\.0"):
        replace(SETUP, padding=1.0)
    with pytest.raises(UsageError, match=r"padding is 0\.99; it must leave"):
        refuse(asking(padding=0.99, seq_len=16), QUICK, _installed())
    with pytest.raises(UsageError, match="cannot be emulated on xpu"):
        refuse(asking(device="xpu"), replace(QUICK, budget_bytes=GIB), _installed())
    with pytest.raises(UsageError, match="take 2 or more"):
        refuse(asking(), replace(QUICK, memory_steps=1), _installed())


def test_an_absurd_size_ends_as_oom_and_not_in_a_swapping_machine() -> None:
    record = measured(case(replace(SETUP, seq_len=200), replace(QUICK, ballast_bytes=512 * GIB)))
    assert record.measurement.status == "oom"
    assert record.measurement.failure is not None
    assert record.measurement.failure.tried_bytes == 512 * GIB
