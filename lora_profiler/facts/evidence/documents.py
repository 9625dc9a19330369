"""The files that hold the evidence, `data/memory.json` and its like, written by the benchmarks that
predict the rows; and, of those, what this project itself held predictions to: training steps
rehearsed over torch's CUDA build on cards that were only pretended, and steps that were measured on
a machine at hand. Neither was measured on a card. A rehearsal counts bytes exactly and measures
nothing.
"""

import json
from dataclasses import dataclass
from functools import cache
from math import log
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lora_profiler.question.workload import Method

Kind = Literal["memory", "command", "steps", "rehearsed", "recorded"]
DATA = Path(__file__).parent / "data"


@cache
def document(kind: Kind) -> dict[str, Any]:
    """What `python -m benchmarks.public.accuracy`, `.public_command`, `.step_time`,
    `.rehearsed_rules` and `.records` wrote of their rows."""
    content: dict[str, Any] = json.loads((DATA / f"{kind}.json").read_text("utf-8"))
    return content


class Unexpressed(NamedTuple):
    """As many `rows` are left out for one `reason`; `example` is the id of the first."""

    reason: str
    rows: int
    example: str


def unexpressed(kind: Kind) -> tuple[Unexpressed, ...]:
    return tuple(Unexpressed(**each) for each in document(kind)["left_out"])


# --- what this project itself held predictions to -------------------------------------------------


OwnKind = Literal["rehearsed", "recorded"]


class OwnRow(NamedTuple):
    """The steady peak of one configuration in bytes that tensors ask for: `counted_bytes`, as it
    was rehearsed or measured, beside `predicted_bytes`.

    `setup` says sizes and options in words, `where` the card by its key or the machine,
    `says_exact` whether the prediction called itself exact.
    """

    model: str
    method: Method
    setup: str
    where: str
    counted_bytes: int
    predicted_bytes: int
    says_exact: bool

    @property
    def error(self) -> float:
        """(predicted - counted) / counted."""
        return (self.predicted_bytes - self.counted_bytes) / self.counted_bytes


@cache
def own_rows(kind: OwnKind) -> tuple[OwnRow, ...]:
    """All that could be held against a prediction."""
    table = document(kind)
    return tuple(OwnRow(**dict(zip(table["columns"], row, strict=True))) for row in table["rows"])


@cache
def not_rehearsed() -> tuple[str, ...]:
    """Configurations that were to be rehearsed and did not run to their end, with the reason."""
    return tuple(document("rehearsed")["not_run"])


# --- step times -----------------------------------------------------------------------------------


LeftOut = Literal["model", "card", "all"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredStep:
    """One measured step: `tokens` of all its micro-batches, `parameters` of the model, `card` by
    its key.

    `error` is (predicted - measured) / measured by constants that were fitted without every row of
    the same model or card, as `left_out` says; "all" for a row of a card that none were fitted to:
    no error is of a row that was fitted. `source` is the first part of the id, `url` where it was
    published, `why` what is known of an error among the largest, else "".
    """

    id: str
    source: str
    model: str
    method: Method
    card: str
    parameters: int
    tokens: int
    measured_seconds: float
    error: float
    left_out: LeftOut
    why: str
    url: str


@cache
def measured_steps() -> tuple[MeasuredStep, ...]:
    return tuple(MeasuredStep(**row) for row in document("steps")["rows"])


def nearest_step(method: Method, card: str, parameters: int, tokens: int) -> MeasuredStep:
    """Of the same method and card where there is such a row, the one whose model and tokens are the
    fewest times larger or smaller."""

    def distance(row: MeasuredStep) -> tuple[bool, bool, float]:
        apart = abs(log(row.parameters / parameters)) + abs(log(row.tokens / tokens))
        return row.method != method, row.card != card, apart

    return min(measured_steps(), key=distance)
