"""The files that hold the evidence: `data/memory.json`, `data/command.json` and `data/steps.json`,
written by the benchmarks that predict the rows."""

import json
from functools import cache
from pathlib import Path
from typing import Any, Literal

Kind = Literal["memory", "command", "steps"]
DATA = Path(__file__).parent / "data"


@cache
def document(kind: Kind) -> dict[str, Any]:
    """What `python -m benchmarks.public_accuracy`, `.public_command` and `.step_time` wrote of
    their rows."""
    found: dict[str, Any] = json.loads((DATA / f"{kind}.json").read_text("utf-8"))
    return found
