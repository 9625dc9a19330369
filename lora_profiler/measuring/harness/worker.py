"""The measured process: `python -m lora_profiler.measuring.harness.entry CASE RESULT` trains one
case and leaves one record; `... --environment DEVICE` only tells in which environment it would;
`... --losses CASE RESULT` leaves a list of losses.

CASE is the JSON that `runner` writes; RESULT is written whole or not at all. Standard output
carries one JSON line a heartbeat, so that a hang has a phase, and last the record; whatever
libraries print goes to standard error. One of several ranks leaves its record beside CASE and fails
if its run did, so that torchrun ends the others.
"""

import json
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise, takewhile
from pathlib import Path
from typing import IO, Any, NoReturn

import torch

from lora_profiler.measuring.harness.case import Case, read_case
from lora_profiler.measuring.harness.counters import Counters, driver_bytes, empty_cache
from lora_profiler.measuring.harness.driver_view import DeviceView
from lora_profiler.measuring.harness.environment import environment
from lora_profiler.measuring.harness.failures import failure_of, status_of
from lora_profiler.measuring.harness.gather import rank_result
from lora_profiler.measuring.harness.machine import (
    cgroup_peak_bytes,
    peak_resident_bytes,
    resident_bytes,
)
from lora_profiler.measuring.harness.memory_pass import MemoryResult, memory_pass, one_step_peak
from lora_profiler.measuring.harness.pretended import is_pretended, without_times
from lora_profiler.measuring.harness.process import SPIN_VARIABLE
from lora_profiler.measuring.harness.process_group import Ranks, joined, own_rank, spread
from lora_profiler.measuring.harness.timing_pass import TimingResult, timing_pass
from lora_profiler.measuring.harness.training import Training, TrainingBatches, token_counts
from lora_profiler.measuring.records.checks import (
    cross_check_peaks,
    half_width_limit,
    relative_half_width,
    timing_flags,
)
from lora_profiler.measuring.records.locks import write_durably
from lora_profiler.measuring.records.record import (
    BUSY_SHARE,
    UNATTRIBUTED_SHARE,
    Failure,
    Flag,
    Measurement,
    Readings,
    Record,
    Status,
    now,
    readings_dict,
)
from lora_profiler.measuring.records.serialize import record_dict
from lora_profiler.memory.prediction import Phase
from lora_profiler.trace import modeling


@dataclass(slots=True)
class CaseRun:
    """One case as it goes: where it stands, and all that is known so far."""

    case: Case
    heartbeats: IO[str]
    rank: int | None = None
    where: str = "import"
    step: int | None = None
    memory: MemoryResult = field(default_factory=MemoryResult)
    timing: TimingResult = field(default_factory=TimingResult)
    counts: tuple[int, int] | None = None
    tokens: tuple[int, int, int] | None = None
    stage_seconds: dict[str, float] = field(default_factory=dict)
    stage_peak_bytes: dict[str, int] = field(default_factory=dict)
    resident: dict[str, int] = field(default_factory=dict)
    timed_peak_bytes: int | None = None
    other_cpu_share: float | None = None
    _sent: Readings = field(default_factory=Readings)
    _stage: str = "import"
    _entered: float = field(default_factory=time.perf_counter)
    _began: dict[int, float] = field(default_factory=dict)

    def stage(self, name: str) -> None:
        """Leaves the stage before, and keeps what it took."""
        now = time.perf_counter()
        left = self._stage
        self.stage_seconds[left] = self.stage_seconds.get(left, 0.0) + now - self._entered
        resident = resident_bytes()
        if resident is not None:
            self.resident[left] = resident
        peak = self._peak_of(left)
        if peak is not None:
            self.stage_peak_bytes[left] = max(peak, self.stage_peak_bytes.get(left, 0))
        Counters(self.case.workload.setup.device).reset_peaks()
        self._stage = self.where = name
        self.step, self._entered = None, now
        self.beat()

    def _peak_of(self, stage: str) -> int | None:
        """How far the allocator went in the stage that ends. The memory pass resets its peaks at
        every phase and keeps them."""
        counters = Counters(self.case.workload.setup.device)
        if not counters.available:
            return driver_bytes(self.case.workload.setup.device)
        if stage == "memory":
            peaks = (s.allocated_peak_bytes for s in self.memory.samples)
            return max((peak for peak in peaks if peak is not None), default=None)
        return counters.read()["allocated_peak_bytes"]

    def enter(self, step: int, phase: Phase) -> None:
        if step != self.step:
            self._began[step] = time.perf_counter()
        self.where, self.step = phase, step
        self.beat()

    def step_seconds(self) -> float:
        """Of the quickest step of the memory pass; 0 where it took none whole."""
        return min((b - a for a, b in pairwise(self._began.values())), default=0.0)

    def beat(self, done: int | None = None) -> None:
        """Tells the parent where the run stands, and what was read since; one that is gone ends
        this process, since nobody waits for its result."""
        read = Readings(
            phases=tuple(self.memory.samples),
            warmup_seconds=tuple(self.timing.warmup_seconds),
            step_seconds=tuple(self.timing.step_seconds),
        )
        news, self._sent = read.since(self._sent), read
        self.emit(
            {"phase": self.where, "step": self.step, "done": done, "read": readings_dict(news)}
            | ({} if self.rank is None else {"rank": self.rank})
        )

    def emit(self, what: dict[str, Any]) -> None:
        try:
            print(json.dumps(what), file=self.heartbeats, flush=True)
        except OSError:
            os._exit(1)


def train(run: CaseRun, view: DeviceView) -> None:
    """The whole case. Raises what the training raises; `run` then holds what was found before."""
    run.stage("context")
    run.memory.workspace_bytes = view.make_context()
    with joined(run.case.workload.setup) as ranks:
        _train(run, view, ranks)


def _train(run: CaseRun, view: DeviceView, ranks: Ranks) -> None:
    case, setup = run.case, run.case.workload.setup
    if not ranks.rank:
        run.emit({"environment": asdict(environment(setup.device, command=case.command))})
    view.limit(case.conditions.budget_bytes)
    batches = _batches(case, ranks.rank)
    training = (_by_trainer if case.conditions.trained_by else _by_own_loop)(run, batches)
    alike = TrainingBatches(setup, case.conditions, 2, model=case.workload.model)
    padded, real, supervised = token_counts(alike.next())
    run.tokens = (
        padded * setup.accumulation,
        real * setup.accumulation,
        supervised * setup.accumulation,
    )
    # of what building left there, such as 16-bit weights beside their 4-bit form
    empty_cache(setup.device)
    run.stage("memory")
    memory_pass(training, case.conditions, run.memory, run.enter)
    view.sample("first_step")
    run.stage("timing")
    if case.conditions.min_timed_steps and not is_pretended():
        counters = Counters(setup.device)
        counters.reset_peaks()
        with view.timing(case.conditions.max_timing_seconds) as begin:

            def progress(what: str, done: int) -> None:
                if what == "timing" and not done:
                    begin()
                    run.memory.health.begin(counters)
                run.beat(done)

            try:
                timing_pass(
                    training, case.conditions, run.timing, progress, ranks.agree, run.step_seconds()
                )
            finally:
                run.memory.health.end(counters)
        run.other_cpu_share = view.other_cpu_share
        if counters.available:
            run.timed_peak_bytes = counters.read()["requested_peak_bytes"]
        elif not run.timing.is_cut:
            run.timed_peak_bytes = one_step_peak(training)
    run.stage("end")
    view.sample("end")
    training.close()


def _by_own_loop(run: CaseRun, batches: TrainingBatches) -> Training:
    case, setup = run.case, run.case.workload.setup
    model = modeling.build_model(case.workload, weights=case.weights, on_stage=run.stage)
    run.counts = modeling.count_parameters(model)
    if setup.world_size > 1:
        run.stage("shard")
    shared = spread(model, setup)
    run.stage("optimizer_build")
    optimizer = modeling.make_optimizer(model, setup)
    torch.manual_seed(case.conditions.seed)
    return Training(model, optimizer, setup, batches, case.conditions.ballast_bytes, shared)


def _by_trainer(run: CaseRun, batches: TrainingBatches) -> Training:
    from lora_profiler.measuring.harness.trainers import trained_by

    training = trained_by(run.case, batches, run.stage)
    run.counts = modeling.count_parameters(training.model)
    return training


def _batches(case: Case, rank: int = 0) -> TrainingBatches:
    spec = case.workload.model
    weights = spec.id if case.weights in (None, "hub") else case.weights
    text = modeling.text_tokens(case.text, weights) if case.text else None
    vocabulary = spec.config["vocab_size"]
    return TrainingBatches(case.workload.setup, case.conditions, vocabulary, text, rank, spec)


def losses_alone(case: Case) -> list[float]:
    """The losses of `memory_steps` optimizer steps of one process, and nothing else measured: what
    ranks are held against."""
    setup = case.workload.setup
    model = modeling.build_model(case.workload, weights=case.weights)
    optimizer = modeling.make_optimizer(model, setup)
    training = Training(model, optimizer, setup, _batches(case))
    return [
        float(training.step(lambda step, phase: None)) for _ in range(case.conditions.memory_steps)
    ]


def measurement(
    run: CaseRun, view: DeviceView, status: Status, failure: Failure | None
) -> Measurement:
    memory, timing, peak = run.memory, run.timing, run.memory.peak
    steady = [s for s in memory.samples if s.step > 1]
    on_cpu = run.case.workload.setup.device == "cpu"
    allocated = [s.allocated_peak_bytes for s in steady if s.allocated_peak_bytes is not None]
    reserved = [s.reserved_peak_bytes for s in steady if s.reserved_peak_bytes is not None]
    highest = {"peak": peak_resident_bytes(), "cgroup_peak": cgroup_peak_bytes()}
    return Measurement(
        status=status,
        failure=failure,
        flags=flags(run, view),
        num_parameters=run.counts[0] if run.counts else None,
        num_trainable_parameters=run.counts[1] if run.counts else None,
        attention_kernel=" and ".join(memory.kernels) or None,
        tokens_per_step=run.tokens[0] if run.tokens else None,
        nonpad_tokens_per_step=run.tokens[1] if run.tokens else None,
        supervised_tokens_per_step=run.tokens[2] if run.tokens else None,
        step_seconds=tuple(timing.step_seconds),
        warmup_seconds=tuple(timing.warmup_seconds),
        phase_seconds={phase: tuple(seconds) for phase, seconds in timing.phase_seconds.items()},
        block_seconds=timing.block_seconds or None,
        stage_seconds=dict(run.stage_seconds),
        other_cpu_share=run.other_cpu_share,
        loss=tuple(takewhile(math.isfinite, [*memory.losses, *timing.losses])),
        peak_requested_bytes=peak[1] if peak else None,
        peak_allocated_bytes=peak[1] if peak and on_cpu else max(allocated, default=None),
        peak_reserved_bytes=max(reserved, default=None),
        device_used_bytes=view.used_beyond_idle(),
        peak_phase=peak[0] if peak else None,
        phase_peak_bytes=memory.steady,
        step1_phase_peak_bytes=memory.step1,
        tracked_phase_peak_bytes=memory.tracked,
        timed_peak_bytes=run.timed_peak_bytes,
        phases=tuple(memory.samples),
        attribution_bytes=memory.attribution,
        persistent_bytes=memory.persistent,
        saved_activation_bytes=memory.saved_activation_bytes,
        workspace_bytes=memory.workspace_bytes,
        context_bytes=view.context_bytes(),
        stage_peak_bytes=dict(run.stage_peak_bytes),
        resident_bytes=run.resident
        | {name: size for name, size in highest.items() if size is not None},
        device_samples=tuple(view.samples),
        process_vram_method=view.process_vram_method,
        exclusive=view.exclusive,
        health=dict(memory.health.found),
        telemetry=view.telemetry,
        energy=view.energy(len(timing.step_seconds)),
    )


def flags(run: CaseRun, view: DeviceView) -> tuple[Flag, ...]:
    memory, timing = run.memory, run.timing
    size = memory.peak[1] if memory.peak else None
    raised: list[Flag] = []
    if run.other_cpu_share is not None and run.other_cpu_share > BUSY_SHARE:
        raised.append("busy_machine")
    if timing.is_cut:
        raised.append("timing_cut")
    if os.environ.get(SPIN_VARIABLE) == "0" and run.case.workload.setup.device == "cpu":
        raised.append("passive_waits")
    if timing.step_seconds and timing.block_seconds > 1.02 * sum(timing.step_seconds):
        raised.append("host_bound")
    if any(
        cross_check_peaks(
            memory.steady, memory.tracked, memory.workspace_bytes, size, run.timed_peak_bytes
        )
    ):
        raised.append("instrumentation_perturbed_memory")
    if memory.health.found.get("num_alloc_retries"):
        raised.append("memory_pressure")
    if view.exclusive is False:
        raised.append("shared_device")
    if view.clock_flag is not None:
        raised.append(view.clock_flag)
    if size and abs(memory.attribution.get("unattributed", 0)) > UNATTRIBUTED_SHARE * size:
        raised.append("unattributed_over_1_percent")
    return tuple(raised)


def judged(run: CaseRun, view: DeviceView) -> tuple[Status, Failure | None]:
    """invalid where the loss is no number: then nothing was trained; else ok, or noisy with a
    timing below the protocol."""
    losses = [*run.memory.losses, *run.timing.losses]
    bad = next((i for i, loss in enumerate(losses) if not math.isfinite(loss)), None)
    if bad is not None:
        return "invalid", Failure(
            reason=f"the loss is {losses[bad]} at step {bad + 1}", phase="loss", step=bad + 1
        )
    return quality(run, view), None


def quality(run: CaseRun, view: DeviceView) -> Status:
    """ok, or noisy: the timing is not as good as the protocol asks; memory is exact in either
    case."""
    seconds = run.timing.step_seconds
    if not seconds:
        return "noisy" if run.timing.is_cut else "ok"
    kind = run.case.workload.setup.device
    spoilt = timing_flags(flags(run, view), kind)
    wide = relative_half_width(seconds) > half_width_limit(kind)
    return "noisy" if spoilt or run.timing.is_cut or wide else "ok"


def measured(case: Case, heartbeats: IO[str]) -> Record:
    """Trains the case and returns its record, whatever happens to it."""
    run = CaseRun(case=case, heartbeats=heartbeats, rank=own_rank())
    started = now()
    view = DeviceView(case.workload.setup.device)
    status: Status
    failure = None
    try:
        train(run, view)
        status, failure = judged(run, view)
    except BaseException as error:
        status = status_of(error)
        failure = failure_of(error, run.where, run.step, **view.failure_counters())
    view.note_others()
    result = measurement(run, view, status, failure)
    view.close()
    if is_pretended():
        result = without_times(result)
    return Record(
        workload=case.workload,
        conditions=case.conditions,
        environment=environment(case.workload.setup.device, command=case.command),
        measurement=result,
        repeat=case.repeat,
        started_at=started,
        ended_at=now(),
    )


def _leave_at_once(code: int) -> NoReturn:
    """Ends this process without its destructors: that of NCCL's process group may wait for ranks
    that wait for this one, and some of a pretended card's abort."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def main(arguments: Sequence[str]) -> int:
    if arguments[0] == "--environment":
        print(json.dumps(asdict(environment(arguments[1], command=None))))
        return 0
    if arguments[0] == "--losses":
        losses = losses_alone(read_case(Path(arguments[1])))
        write_durably(Path(arguments[2]), json.dumps(losses))
        return 0
    case_path, result_path = map(Path, arguments)
    heartbeats = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print may not spoil the line to the parent
    record, rank = measured(read_case(case_path), heartbeats), own_rank()
    text = json.dumps(record_dict(record))
    if rank is not None:
        write_durably(rank_result(case_path, rank), text)
        if not record.measurement.went_through:
            _leave_at_once(1)
    else:
        write_durably(result_path, text)
        print(text, file=heartbeats, flush=True)
    if is_pretended():
        _leave_at_once(0)
    return 0
