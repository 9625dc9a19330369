"""The memory pass: a few whole steps whose peaks are read at every phase boundary, then one more to
tell what a peak is made of.

Never timed. Three sources, one result: the counters of a caching allocator (CUDA, ROCm, XPU),
torch's record of its CPU allocator, and the storage tracker, which is the second opinion everywhere
and the only one on MPS.

What follows the steps only explains them. It needs more memory than they do, so a case that just
fits may have none of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from lora_profiler.measuring.harness import ownership
from lora_profiler.measuring.harness.counters import AllocatorRecord, Counters, Health, empty_cache
from lora_profiler.measuring.harness.failures import is_out_of_memory
from lora_profiler.measuring.harness.process_group import reshard
from lora_profiler.measuring.harness.timeline import (
    AllocationClaims,
    Peak,
    Timeline,
    completed,
    composition,
    steady,
)
from lora_profiler.measuring.harness.timing_pass import MarkedSteps, Progress, loss_phase
from lora_profiler.measuring.harness.tracker import BudgetExceededError, StorageTracker
from lora_profiler.measuring.harness.training import Training
from lora_profiler.measuring.records.record import Conditions, PhaseSample
from lora_profiler.memory.prediction import Category, Phase
from lora_profiler.trace.modeling import attention_context


@dataclass(slots=True)
class MemoryResult:
    """What the pass found so far; after a failure the peaks are lower bounds. `health` is that of
    the steps alone."""

    samples: list[PhaseSample] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    tracked: dict[Phase, int] = field(default_factory=dict)
    attribution: dict[Category, int] = field(default_factory=dict)
    persistent: dict[Category, int] = field(default_factory=dict)
    saved_activation_bytes: int | None = None
    workspace_bytes: int | None = None
    kernels: tuple[str, ...] = ()
    health: Health = field(default_factory=Health)

    def peaks(self) -> dict[tuple[int, Phase], int]:
        """Requested bytes by step and phase."""
        peaks: dict[tuple[int, Phase], int] = {}
        for s in self.samples:
            if s.requested_peak_bytes is not None:
                peaks[s.step, s.phase] = max(
                    s.requested_peak_bytes, peaks.get((s.step, s.phase), 0)
                )
        return peaks

    @property
    def steady(self) -> dict[Phase, int]:
        return steady(self.peaks())

    @property
    def step1(self) -> dict[Phase, int]:
        return {phase: size for (step, phase), size in self.peaks().items() if step == 1}

    @property
    def peak(self) -> tuple[Phase, int] | None:
        """The steady phase with the largest peak, and its bytes."""
        phases = self.steady
        return max(phases.items(), key=lambda item: item[1]) if phases else None


def memory_pass(
    training: Training, conditions: Conditions, result: MemoryResult, progress: Progress
) -> None:
    """Fills `result` as it goes, so that a run that fails keeps what it has. Raises what the
    training raises.

    Once the steps went through, running out of memory while explaining them is no failure: what it
    would have told stays out.
    """
    kind = training.setup.device
    counters = Counters(kind)
    training.held = None  # what no record saw being born
    if counters.available:
        _with_counters(training, conditions, counters, result, progress)
    elif kind == "cpu":
        _with_allocator_record(training, conditions, result, progress)
    with _as_memory_allows(training) if result.samples else nullcontext():
        tracked, claims = _tracked(training, conditions, result, progress)
        _attribute(result, tracked, claims)
    with _as_memory_allows(training):
        result.saved_activation_bytes = saved_activation_bytes(training)


@contextmanager
def _as_memory_allows(training: Training) -> Iterator[None]:
    """Ends the block where it runs out of memory, and lets go of what it left; not of several
    ranks: the others would wait."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error) or training.setup.world_size > 1:
            raise
    else:
        return
    training.optimizer.zero_grad(set_to_none=True)
    empty_cache(training.setup.device)


def _with_counters(
    training: Training,
    conditions: Conditions,
    counters: Counters,
    result: MemoryResult,
    progress: Progress,
) -> None:
    current: list[tuple[int, Phase]] = []

    def enter(step: int, phase: Phase) -> None:
        counters.synchronize()
        if current:
            before_step, before_phase = current.pop()
            result.samples.append(
                PhaseSample(step=before_step, phase=before_phase, **counters.read())
            )
            result.health.observe(counters)
        counters.reset_peaks()
        if phase == "optimizer":
            result.persistent |= ownership.sizes(ownership.owned(training), training.setup.device)
        current.append((step, phase))
        progress(step, phase)

    result.health.begin(counters)
    counters.reset_peaks()
    try:
        with loss_phase(training, enter):
            for _ in range(conditions.memory_steps):
                result.losses.append(float(training.step(enter)))
                training.evaluate(enter)
    finally:
        if current:
            step, phase = current.pop()
            result.samples.append(PhaseSample(step=step, phase=phase, **counters.read()))
        result.health.end(counters)
    result.persistent |= ownership.sizes(ownership.owned(training), training.setup.device)


def _with_allocator_record(
    training: Training, conditions: Conditions, result: MemoryResult, progress: Progress
) -> None:
    """The CPU's allocator record over all steps. A budget is watched by a tracker that runs inside
    it."""
    tensors = ownership.existing(training)
    claims = ownership.claims_of(tensors, ownership.by_address)
    claims.take_buckets(training.spread.buckets)
    record = AllocatorRecord(_bytes_by_address(tensors) | training.spread.buckets)
    budget = conditions.budget_bytes
    buckets = training.spread.buckets
    guard: Any = (
        StorageTracker("cpu", [t for _, t in tensors], budget, None, buckets)
        if budget is not None
        else nullcontext()
    )
    del tensors
    steps = MarkedSteps(training, record, claims, ownership.by_address, progress)
    failed = True
    record.start()
    try:
        with guard:
            steps.run(conditions.memory_steps, result.losses)
        failed = False
    finally:
        timeline = record.stop()
        training.spread.settle()
        steps.bury(timeline)
        peaks = timeline.peaks()
        result.samples += _samples(timeline, peaks)
        if not failed:
            _compose(result, timeline, steps.claims(timeline), peaks)
    if budget is not None:
        worst = max(peaks.items(), key=lambda item: item[1].size_bytes)[1].size_bytes
        if worst > budget:
            raise BudgetExceededError(budget, worst, 0)


def _tracked(
    training: Training, conditions: Conditions, result: MemoryResult, progress: Progress
) -> tuple[Timeline, AllocationClaims]:
    """Up to one steady step (with neither counters nor record: all steps) under the storage
    tracker."""
    kind = training.setup.device
    training.held = None
    alone = not result.samples
    tensors = ownership.existing(training)
    claims = ownership.claims_of(tensors, ownership.by_storage)
    claims.take_buckets(training.spread.buckets)
    counters = Counters(kind)
    budget = conditions.budget_bytes if alone else None
    scratch = counters if counters.available else None
    tracker = StorageTracker(
        kind, [t for _, t in tensors], budget, scratch, training.spread.buckets
    )
    del tensors
    steps = MarkedSteps(training, tracker, claims, ownership.by_storage, progress)
    try:
        with tracker:
            count = conditions.memory_steps if alone else training.steps_to_steady
            steps.run(count, result.losses if alone else [])
    finally:
        peaks = tracker.timeline.peaks()
        if alone:
            result.samples += _samples(tracker.timeline, peaks)
    last = training.steps_done
    result.tracked = {
        phase: peak.size_bytes for (step, phase), peak in peaks.items() if step == last
    }
    result.kernels = tuple(sorted(tracker.attention_kernels))
    result.persistent |= steps.persistent
    return tracker.timeline, steps.claims(tracker.timeline)


def _bytes_by_address(tensors: list[tuple[Category, torch.Tensor]]) -> dict[int, int]:
    return {
        ownership.by_address(s): s.nbytes() for s in (ownership.storage_of(t) for _, t in tensors)
    }


def _attribute(result: MemoryResult, tracked: Timeline, claims: AllocationClaims) -> None:
    """Where nothing better said what the peak is made of, the tracker does; the rest is
    unattributed."""
    if result.peak is None or result.attribution:
        return
    phase, size = result.peak
    at = max(
        (p for (_, name), p in tracked.peaks().items() if name == phase),
        key=lambda p: p.size_bytes,
        default=None,
    )
    if at is not None:
        alive = composition(tracked, at.position, claims)
        workspace: dict[Category, int] = (
            {"workspace": result.workspace_bytes} if result.workspace_bytes else {}
        )
        result.attribution = completed(alive | workspace, size)


def _compose(
    result: MemoryResult,
    timeline: Timeline,
    claims: AllocationClaims,
    peaks: dict[tuple[int, Phase], Peak],
) -> None:
    peak = max((p for (step, _), p in peaks.items() if step > 1), key=lambda p: p.size_bytes)
    result.attribution = completed(composition(timeline, peak.position, claims), peak.size_bytes)


def _samples(timeline: Timeline, peaks: dict[tuple[int, Phase], Peak]) -> list[PhaseSample]:
    live = timeline.live_bytes()
    ends = {
        (span.step, span.phase): live[max(span.stop - 1, span.start)] for span in timeline.spans()
    }
    return [
        PhaseSample(
            step=step,
            phase=phase,
            requested_bytes=ends[step, phase],
            requested_peak_bytes=peak.size_bytes,
        )
        for (step, phase), peak in peaks.items()
    ]


def saved_activation_bytes(training: Training) -> int:
    """Bytes that autograd keeps at the end of one forward pass, each storage once, the model's own,
    gathered or not, left out."""

    def known() -> set[int]:
        return {
            ownership.by_storage(ownership.storage_of(t))
            for _, t in ownership.model_tensors(training.model)
        }

    model = known()
    kept: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        # the tensor itself would hold its own node: a cycle that nobody collects
        alias = tensor.detach()
        # held, else its key could be used again
        kept.setdefault(ownership.by_storage(ownership.storage_of(tensor)), alias)
        return alias

    with (
        attention_context(training.setup),
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
    ):
        loss = training.loss()
    del loss
    model |= known()
    size = sum(ownership.storage_of(t).nbytes() for key, t in kept.items() if key not in model)
    reshard(training.model)
    return size


def one_step_peak(training: Training) -> int | None:
    """Peak of one more step on the CPU, to see whether the passes before left the memory as it was;
    None on other devices."""
    if training.setup.device != "cpu":
        return None
    training.held = None
    tensors = ownership.existing(training)
    record = AllocatorRecord(_bytes_by_address(tensors) | training.spread.buckets)
    del tensors
    record.start()
    for _ in range(training.steps_to_steady):
        training.step(record.mark)
        training.evaluate(record.mark)
    record.mark(training.steps_done + 1, "setup")
    return max(record.stop().live_bytes())
