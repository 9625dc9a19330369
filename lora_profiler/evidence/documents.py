"""The files that hold the evidence, `data/memory.json` and its like, written by the benchmarks that
predict the rows."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

Kind = Literal["memory", "command", "steps", "rehearsed", "recorded"]
DATA = Path(__file__).parent / "data"


@cache
def document(kind: Kind) -> dict[str, Any]:
    """What `python -m benchmarks.public_accuracy`, `.public_command`, `.step_time`,
    `.rehearsed_rules` and `.records` wrote of their rows."""
    found: dict[str, Any] = json.loads((DATA / f"{kind}.json").read_text("utf-8"))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Unexpressed:
    """As many `rows` are left out for one `reason`; `example` is the id of the first."""

    reason: str
    rows: int
    example: str


def unexpressed(kind: Kind) -> tuple[Unexpressed, ...]:
    return tuple(Unexpressed(**each) for each in document(kind)["left_out"])
