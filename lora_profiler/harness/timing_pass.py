"""The timing pass: whole steps with no probe in them, in blocks between which the device is waited
for.

CUDA steps are timed by events, so that the host never waits inside a block; elsewhere by the clock.
The garbage collector is off inside a block. A step's time is that of forward, backward, optimizer
and zero_grad; making the batch is a phase apart. Protocol: warm up until the steps no longer drift,
then measure until the median is known well enough. Of several ranks the first decides when that is,
between blocks: each step waits for all. A step that would end long after the time given is not
begun.
"""

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TypeVar

import torch

from lora_profiler.harness.counters import Counters
from lora_profiler.harness.training import Training
from lora_profiler.prediction import Phase
from lora_profiler.records.checks import half_width_limit, relative_half_width
from lora_profiler.records.record import Conditions

WARMUP_MIN_STEPS, WARMUP_MIN_SECONDS = 3, 1.0
WARMUP_MAX_STEPS, WARMUP_MAX_SECONDS = 30, 60.0
DRIFT_WINDOW, DRIFT_LIMIT = 5, 0.01
"""Warm when the Theil-Sen slope of the last five steps is below 1 % of a step per step."""
BLOCK_SECONDS = 1.0
OVERRUN = 5.0
"""The first timed step is begun where it ends within so many times the seconds given, by the steps
of the memory pass, which take longer; any other where it ends within them."""

Instant = TypeVar("Instant")
Agree = Callable[[float], float]
"""What one rank would do -> what all do."""


@dataclass(slots=True)
class TimingResult:
    """Raw samples in seconds. `block_seconds` is the clock's sum over the blocks, to hold against
    the steps' own."""

    warmup_seconds: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)
    phase_seconds: dict[Phase, list[float]] = field(default_factory=dict)
    block_seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    is_cut: bool = False
    """Whether the time given was over before as many steps were timed as asked for."""


def timing_pass(
    training: Training,
    conditions: Conditions,
    result: TimingResult,
    progress: Callable[[str, int], None],
    agree: Agree = lambda value: value,
    expected_seconds: float = 0.0,
) -> None:
    """Fills `result`. `progress` is told "warmup" or "timing" and how many steps of it are done,
    between blocks only; "timing" with 0 steps tells that the warm-up is over. `expected_seconds` a
    step takes, as far as is known before any is timed."""
    if not conditions.min_timed_steps:
        return
    gc.collect()
    gc.freeze()  # what is there by now stays: collecting between blocks then takes no time
    began = time.perf_counter()
    try:
        while not agree(_warm(result.warmup_seconds, conditions, expected_seconds)):
            _block(training, 1, result.warmup_seconds, None, result.losses)
            progress("warmup", len(result.warmup_seconds))
        progress("timing", 0)
        limit = half_width_limit(training.setup.device)
        steps, most = result.step_seconds, conditions.max_timing_seconds
        typical = max((result.warmup_seconds or [expected_seconds])[-1], 1e-6)

        def elapsed() -> float:
            return time.perf_counter() - began

        while not agree(_enough(steps, conditions, limit, elapsed(), typical)):
            left = min(BLOCK_SECONDS, most - elapsed())
            size = min(max(1, int(left / typical)), conditions.min_timed_steps)
            result.block_seconds += _block(
                training, int(agree(size)), steps, result.phase_seconds, result.losses
            )
            progress("timing", len(steps))
            typical = max(steps[-1], 1e-6)
        result.is_cut = len(steps) < conditions.min_timed_steps
    finally:
        gc.unfreeze()


def _enough(
    samples: list[float], conditions: Conditions, limit: float, elapsed: float, expected: float
) -> bool:
    most = conditions.max_timing_seconds
    if not samples:
        return elapsed + expected > OVERRUN * most
    if elapsed + samples[-1] > most:
        return True
    return len(samples) >= conditions.min_timed_steps and relative_half_width(samples) <= limit


def _warm(samples: list[float], conditions: Conditions, expected: float) -> bool:
    elapsed = sum(samples)
    most = conditions.max_timing_seconds
    if elapsed + 2 * (samples[-1] if samples else expected) > most:
        return True  # one step more would leave no time for one that counts
    if len(samples) >= WARMUP_MAX_STEPS or elapsed >= min(
        WARMUP_MAX_SECONDS, conditions.max_timing_seconds / 2
    ):
        return bool(samples)
    if len(samples) < max(WARMUP_MIN_STEPS, DRIFT_WINDOW) or elapsed < WARMUP_MIN_SECONDS:
        return False
    window = samples[-DRIFT_WINDOW:]
    slopes = sorted(
        (b - a) / (j - i) for i, a in enumerate(window) for j, b in enumerate(window) if i < j
    )
    return abs(slopes[len(slopes) // 2]) < DRIFT_LIMIT * sorted(window)[len(window) // 2]


def _block(
    training: Training,
    count: int,
    into: list[float],
    phases: dict[Phase, list[float]] | None,
    losses: list[float],
) -> float:
    """Runs `count` steps and appends the seconds of each; returns what the clock says of the whole
    block, batches left out."""
    clock = (
        _EventClock()
        if training.setup.device in ("cuda", "xpu")
        else _HostClock(training.setup.device)
    )
    gc.collect()
    gc.disable()
    try:
        kept = []
        clock.synchronize()
        began = time.perf_counter()
        for _ in range(count):
            kept.append(training.step(clock.enter))
        clock.enter(training.steps_done + 1, "setup")
        clock.synchronize()
        seconds = time.perf_counter() - began
    finally:
        gc.enable()
    steps, by_phase = clock.durations()
    seconds -= sum(by_phase["setup"])
    into += steps
    if phases is not None:
        for phase, samples in by_phase.items():
            phases.setdefault(phase, []).extend(samples)
    losses += [float(loss) for loss in kept]
    return seconds


def _durations(
    marks: list[tuple[int, Phase, Instant]], between: Callable[[Instant, Instant], float]
) -> tuple[list[float], dict[Phase, list[float]]]:
    """Seconds of each step without the making of its batch, and of each phase within it (summed
    over micro-batches)."""
    steps: dict[int, float] = {}
    by_phase: dict[Phase, dict[int, float]] = {}
    for (step, phase, instant), (_, _, following) in pairwise(marks):
        seconds = between(instant, following)
        durations = by_phase.setdefault(phase, {})
        durations[step] = durations.get(step, 0.0) + seconds
        if phase != "setup":
            steps[step] = steps.get(step, 0.0) + seconds
    return list(steps.values()), {
        phase: list(durations.values()) for phase, durations in by_phase.items()
    }


class _HostClock:
    """The host's clock at each phase boundary. MPS runs behind the host, so a step there ends with
    a wait."""

    def __init__(self, kind: str) -> None:
        self._waits = kind == "mps"
        self._marks: list[tuple[int, Phase, float]] = []

    def synchronize(self) -> None:
        if self._waits:
            torch.mps.synchronize()

    def enter(self, step: int, phase: Phase) -> None:
        if phase == "setup":
            self.synchronize()
        self._marks.append((step, phase, time.perf_counter()))

    def durations(self) -> tuple[list[float], dict[Phase, list[float]]]:
        return _durations(self._marks, lambda a, b: b - a)


class _EventClock:
    """Timing events on the device's own stream: recording one costs the host microseconds and the
    device nothing."""

    def __init__(self) -> None:
        self._counters = Counters("cuda" if torch.cuda.is_available() else "xpu")
        self._marks: list[tuple[int, Phase, torch.Event]] = []

    def synchronize(self) -> None:
        self._counters.synchronize()

    def enter(self, step: int, phase: Phase) -> None:
        event = torch.Event(enable_timing=True)
        event.record()
        self._marks.append((step, phase, event))

    def durations(self) -> tuple[list[float], dict[Phase, list[float]]]:
        return _durations(self._marks, lambda a, b: a.elapsed_time(b) / 1000)
