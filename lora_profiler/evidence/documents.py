"""The files that hold the evidence, `data/memory.json` and its like, written by the benchmarks that
predict the rows."""

import json
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
