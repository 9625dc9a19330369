"""Training steps that leave marks on a timeline, and notice who owns what at each boundary."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

import torch

from lora_profiler.attribution import EVALUATED_LOGITS, LOGITS, LOGITS_GRADIENT
from lora_profiler.harness import ownership
from lora_profiler.harness.timeline import AllocationClaims, Timeline
from lora_profiler.harness.tracker import resizing_observed
from lora_profiler.harness.training import Training
from lora_profiler.modeling import output_head
from lora_profiler.prediction import Category, Phase

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
