"""The timing pass: whole steps with no probe in them, in blocks between which the device is
waited for; and the steps of the memory pass, with marks between their phases.

CUDA steps are timed by events, so that the host never waits inside a block; elsewhere by the clock.
The garbage collector is off inside a block. A step's time is that of forward, backward, optimizer
and zero_grad; making the batch is a phase apart. Protocol: warm up until the steps no longer drift,
then measure until the median is known well enough. Of several ranks the first decides when that is,
between blocks: each step waits for all. A step that would end long after the time given is not
begun.
"""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import torch

from lora_profiler.measuring.harness import ownership
from lora_profiler.measuring.harness.counters import Counters
from lora_profiler.measuring.harness.timeline import AllocationClaims, Timeline
from lora_profiler.measuring.harness.tracker import resizing_observed
from lora_profiler.measuring.harness.training import Training
from lora_profiler.measuring.records.checks import half_width_limit, relative_half_width
from lora_profiler.measuring.records.record import Conditions
from lora_profiler.memory.attribution import EVALUATED_LOGITS, LOGITS, LOGITS_GRADIENT
from lora_profiler.memory.prediction import Category, Phase
from lora_profiler.trace.modeling import output_head

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


# --- marked steps ---------------------------------------------------------------------------------


Progress = Callable[[int, Phase], None]
_PLACES: dict[bool, tuple[Phase, str]] = {
    True: ("forward", LOGITS),
    False: ("evaluation", EVALUATED_LOGITS),
}
"""The phase in which logits are made, and the note of it, while the model trains or not."""


class Recorder(Protocol):
    """What writes marks: an allocator record or a tracker."""

    def mark(self, step: int, phase: Phase, note: str = "") -> None: ...

    def resized(self, storage: torch.UntypedStorage) -> None: ...


class MarkedSteps:
    """Steps that leave marks and notice who owns what at each boundary."""

    def __init__(
        self,
        training: Training,
        recorder: Recorder,
        claims: AllocationClaims,
        key: ownership.Key,
        progress: Progress,
    ) -> None:
        self._training, self._recorder, self._claims = training, recorder, claims
        self._key, self._progress = key, progress
        self._seen: list[tuple[int, str, list[int], Category]] = []
        self._instants: list[tuple[int, str, int, Category]] = []
        self._now: tuple[int, Phase] = (training.steps_done + 1, "setup")
        self.persistent: dict[Category, int] = {}

    def run(self, count: int, losses: list[float]) -> None:
        with loss_phase(self._training, self._enter, self._note), resizing_observed(self._resized):
            for _ in range(count):
                losses.append(float(self._training.step(self._enter)))
                self._training.evaluate(self._enter)
        self._recorder.mark(self._training.steps_done + 1, "setup")

    def claims(self, timeline: Timeline) -> AllocationClaims:
        """Every owner seen, at the position where it was seen."""
        later = []
        places = {(m.step, m.note): m.position for m in timeline.marks}
        one = [(step, note, [key], category) for step, note, key, category in self._instants]
        for step, note, keys, category in [*self._seen, *one]:
            if (step, note) in places:
                later += [(places[step, note], key, category) for key in keys]
        return replace(self._claims, later=sorted(later))

    def bury(self, timeline: Timeline) -> None:
        """Ends what was owned before the start and is no more: torch's profiler reports no death of
        what it saw not born, and a birth at the same address may come much later."""
        keys_at: dict[int, set[int]] = {}
        for step, note, keys, _ in self._seen:
            position = timeline.position_of(step, note)
            if position is not None:
                keys_at.setdefault(position, set()).update(keys)
        for a in timeline.allocations:
            if a.born < 0 and self._claims.before.get(a.key, "unattributed") not in (
                "unattributed",
                "communication",
            ):
                gone = next(
                    (position for position, keys in sorted(keys_at.items()) if a.key not in keys),
                    None,
                )
                if gone is not None and (a.died is None or gone < a.died):
                    a.died = gone

    def _enter(self, step: int, phase: Phase) -> None:
        if phase in ("optimizer", "zero"):
            self._see_owners(step, "backward" if phase == "optimizer" else "optimizer")
        self._now = step, phase
        self._recorder.mark(step, phase)
        self._progress(step, phase)

    def _resized(self, storage: torch.UntypedStorage) -> None:
        """Weights that FSDP gathers, each in a storage of its own, are the ranks' communication
        while they are there."""
        self._recorder.resized(storage)
        if storage.nbytes():
            step, phase = self._now
            note = f"gathered {len(self._instants)}"
            self._recorder.mark(step, phase, note)
            self._instants.append((step, note, self._key(storage), "communication"))

    def _see_owners(self, step: int, phase: Phase) -> None:
        """Notes who owns what at the end of `phase`: gradients and states have come, and
        bitsandbytes may replace a bias."""
        note = f"end of {phase}"
        self._recorder.mark(step, phase, note)
        keys: dict[Category, list[int]] = {}
        for category, tensor in ownership.owned(self._training):
            keys.setdefault(category, []).append(self._key(ownership.storage_of(tensor)))
        self._seen += [(step, note, owned, category) for category, owned in keys.items()]
        self.persistent |= ownership.sizes(
            ownership.owned(self._training), self._training.setup.device
        )

    def _note(self, step: int, logits: torch.Tensor) -> None:
        """Called as soon as the logits exist; on a loss path without all of them, as soon as the
        head is reached."""
        phase, made = _PLACES[self._training.model.training]
        self._recorder.mark(step, phase, made)
        if self._training.setup.loss == "plain":
            self._instants.append(
                (step, made, self._key(ownership.storage_of(logits)), "logits_and_loss")
            )
        if logits.requires_grad:
            logits.register_hook(lambda _: self._recorder.mark(step, "backward", LOGITS_GRADIENT))  # type: ignore[no-untyped-call]


@contextmanager
def loss_phase(
    training: Training,
    enter: Callable[[int, Phase], None],
    note: Callable[[int, torch.Tensor], None] | None = None,
) -> Iterator[None]:
    """Enters phase "loss" when the output layer has made the logits, once a forward pass."""
    head = output_head(training.model)
    if head is None:
        yield
        return

    def made(_module: torch.nn.Module, _args: Any, output: Any) -> None:
        trains = training.model.training
        step = training.steps_done + trains
        if note is not None and isinstance(output, torch.Tensor):
            note(step, output)
        if trains:
            enter(step, "loss")

    handle = head.register_forward_hook(made)
    try:
        yield
    finally:
        handle.remove()
