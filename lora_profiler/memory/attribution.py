"""Which category memory belongs to: the one definition that traces and measurements share, so that
comparing them is a join.

What the model, the optimizer or a gradient owns is claimed by identity. All else is told by when it
was born and when it died: forward's memory is an activation if it lives on into backward, else a
temporary; the logits, and all that is born from then on until the gradient of the logits exists,
belong to the loss; backward's memory is a temporary unless it outlives backward (the gradient of a
leaf that is no parameter). Of evaluation, what is born from the logits on belongs to the loss.
Where DDP keeps buckets, what forward leaves behind for the next step is theirs.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from lora_profiler.memory.prediction import Category

LOGITS = "logits"
"""The note at which the output layer has made the logits."""
EVALUATED_LOGITS = "evaluated_logits"
"""The same in a batch of evaluation."""
LOGITS_GRADIENT = "logits_gradient"
"""The note at which backward has come to the logits: everything of the loss lies before."""

PhaseName = TypeVar("PhaseName", bound=str)


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseMark(Generic[PhaseName]):
    """From event `position` on, `phase` of `step` runs, micro-batch `micro`. `note` names an
    instant within a phase instead of starting one."""

    position: int
    step: int
    micro: int = 0
    phase: PhaseName
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span(Generic[PhaseName]):
    """`phase` of `step` from position `start` up to, but not at, `stop`; `logits` is where
    those of evaluation were made in it, `loss_end` where backward came to those of training; None
    where they were not."""

    step: int
    phase: PhaseName
    start: int
    stop: int
    loss_end: int | None
    logits: int | None = None


def spans_of(marks: Sequence[PhaseMark[PhaseName]], end: int) -> list[Span[PhaseName]]:
    """Every marked stretch, in order; `end` is the number of positions."""
    starts = [i for i, mark in enumerate(marks) if not mark.note]
    spans = []
    for i, following in zip(starts, [*starts[1:], len(marks)], strict=True):
        notes = {m.note: m.position for m in reversed(marks[i:following]) if m.note}
        spans.append(
            Span(
                step=marks[i].step,
                phase=marks[i].phase,
                start=marks[i].position,
                stop=marks[following].position if following < len(marks) else end,
                loss_end=notes.get(LOGITS_GRADIENT),
                logits=notes.get(EVALUATED_LOGITS),
            )
        )
    return spans


class Lifetimes(Generic[PhaseName]):
    """Categories by lifetime within the spans of some steps."""

    def __init__(self, spans: Sequence[Span[PhaseName]], *, has_buckets: bool = False) -> None:
        """`has_buckets`: DDP keeps memory that no Python object holds, and makes it anew in the
        second step's forward pass."""
        self._spans = spans
        self._starts = [span.start for span in spans]
        self._has_buckets = has_buckets

    def category(self, born: int, died: int | None) -> Category:
        """Of what nobody owns and lives from position `born` up to, but not at, `died`; None: to
        the end."""
        index = bisect_right(self._starts, born) - 1
        if index < 0:
            return "unattributed"
        span, later = self._spans[index], self._spans[index + 1 :]
        if span.phase == "setup":
            return "inputs"
        if span.phase == "loss":
            return "logits_and_loss"
        if span.phase == "forward":
            if self._has_buckets and _outlives(died, [s for s in later if s.step > span.step]):
                return "communication"
            is_kept = _outlives(died, [s for s in later if s.phase == "backward"])
            return "activations" if is_kept else "temporaries"
        if span.phase == "backward":
            if span.loss_end is not None and born < span.loss_end:
                return "logits_and_loss"
            return "activations" if died is None or died > span.stop else "temporaries"
        if span.phase == "evaluation" and span.logits is not None and born >= span.logits:
            return "logits_and_loss"
        return "temporaries"


def _outlives(died: int | None, later: Sequence[Span[PhaseName]]) -> bool:
    """Whether it is alive when the first of the `later` spans begins; without one, at the end."""
    return died is None or (bool(later) and died > later[0].start)
