"""Public measurements of step time that the package's constants answer to, and the one nearest to a question.

`data/evidence.json` is written by `python -m benchmarks.step_time --write`. No error in it is of a row that was fitted.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import log
from typing import Literal

from lora_profiler.workload import Method


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One measured step: `tokens` of all its micro-batches, `parameters` of the model, `card` by its key.

    `error` is (predicted - measured) / measured by constants that were fitted without every row of the same model or card, as
    `left_out` says; "all" for a row of a card that none were fitted to.
    """

    id: str
    model: str
    method: Method
    card: str
    parameters: int
    tokens: int
    measured_seconds: float
    error: float
    left_out: Literal["model", "card", "all"]


@cache
def evidence() -> tuple[Evidence, ...]:
    rows = json.loads(files("lora_profiler.steptime").joinpath("data/evidence.json").read_text(encoding="utf-8"))["rows"]
    return tuple(Evidence(**row) for row in rows)


def nearest(method: Method, card: str, parameters: int, tokens: int) -> Evidence:
    """Of the same method and card where there is such a row, the one whose model and tokens are the fewest times larger or
    smaller."""

    def distance(row: Evidence) -> tuple[bool, bool, float]:
        apart = abs(log(row.parameters / parameters)) + abs(log(row.tokens / tokens))
        return row.method != method, row.card != card, apart

    return min(evidence(), key=distance)
