"""The files that hold the evidence: `data/memory.json` and `data/steps.json`, written by the benchmarks that predict the rows."""

import json
from functools import cache
from importlib.resources import files
from typing import Any, Literal

Kind = Literal["memory", "steps"]


@cache
def document(kind: Kind) -> dict[str, Any]:
    """What `python -m benchmarks.public_accuracy` and `python -m benchmarks.step_time` wrote of their rows."""
    text = files("lora_profiler.evidence").joinpath(f"data/{kind}.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found
