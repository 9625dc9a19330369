"""What the schemas of all printed JSON share."""

import re
from collections.abc import Mapping
from typing import Any

from lora_profiler.records.json_schema import SIZES, json_schema
from lora_profiler.workload import STORED_OPTIONS

_AMOUNT = re.compile(
    r"(^|_)(bytes|seconds|parameters|per_step|per_second|per_token|states?|tokens)$"
    r"|^num_|_(batch_size|seq_len|rank|features)$"
    r"|^(base|adapters?|total|trainable|forward|backward|recompute|gradients|flops|mfu|eta|beta"
    r"|launches|count|half_width|rows|inside|repeat|upper|predicted_bytes|cards|tier)$"
)
_SIGNED = frozenset(
    {"attribution_bytes", "headroom_bytes", "gap_seconds", "cause_seconds", "part_seconds"}
)
_LIMITS: Mapping[str, Mapping[str, Any]] = {
    "step_seconds": {"exclusiveMinimum": 0},
    "warmup_seconds": {"exclusiveMinimum": 0},
    "share_of_host": {"minimum": 0, "maximum": 1},
    "share_within_1_percent": {"minimum": 0, "maximum": 1},
    "rank": {"minimum": 0},
    "n": {"minimum": 1},
}


def payload_schema(kind: type, *, title: str) -> dict[str, Any]:
    """Of a document that a command prints. Memory, time and counts are never negative, which their
    names tell; a later version may add fields."""
    later = {stored.name for stored in STORED_OPTIONS if stored.declared.added}
    optional = frozenset({*later, *_OF_SOME_RECORDS})
    return json_schema(kind, title=title, limits=_limits, optional=optional)


_OF_SOME_RECORDS = ("limits", "trained_by")
"""Written of rehearsed records, and of those that a trainer itself trained."""


def _limits(name: str) -> Mapping[str, Any]:
    if name in _LIMITS:
        return _LIMITS[name]
    if name in SIZES:
        return {"minimum": 1}
    return {"minimum": 0} if _AMOUNT.search(name) and name not in _SIGNED else {}
