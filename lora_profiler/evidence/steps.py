"""Public measurements of step time that the package's constants answer to, and the one nearest to a
question."""

from dataclasses import dataclass
from functools import cache
from math import log
from typing import Literal

from lora_profiler.evidence.documents import document
from lora_profiler.workload import Method

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
