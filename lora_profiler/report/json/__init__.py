"""The JSON of `predict`, `bench` and `plan`, for other programs: how it is made, and its schema."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import Any, Literal, TypeVar, cast, get_args, is_typeddict

T = TypeVar("T")
_MISSING: Any = object()
SCHEMA_VERSION: Literal["1.0"] = "1.0"
"""Of every document that a command prints; new keys may be added under it."""


def picked(value: object, names: str) -> Any:
    """Those attributes of `value`, whose names are parted by spaces, under the same names."""
    return {name: getattr(value, name) for name in names.split()}


def cell(value: Any) -> Any:
    """A value in a flat file: a list as text."""
    return "; ".join(map(str, value)) if isinstance(value, list | tuple) else value


def part(kind: type[T], *sources: object, **own: Any) -> T:
    """An object of the TypedDict `kind`, in its order: of each key what `own` has, else the
    attribute of that name of the first of `sources` that has it, in JSON's own types.

    Raises AttributeError where none has it and the key is required.
    """
    found = {}
    for name, hint in kind.__annotations__.items():
        if name in own:
            found[name] = own[name]
            continue
        values = (getattr(each, name, _MISSING) for each in sources)
        value = next((each for each in values if each is not _MISSING), _MISSING)
        if value is not _MISSING:
            found[name] = _plain(value, hint)
        elif name in kind.__required_keys__:  # type: ignore[attr-defined]
            raise AttributeError(f"nothing has {name} of {kind.__name__}")
    return cast(T, found)


def _plain(value: Any, hint: Any) -> Any:
    if value is None or isinstance(value, str | int | float):
        return value
    if type(value) in (list, tuple):
        return [_plain(each, hint) for each in value]
    if isinstance(value, Mapping):
        return dict(value)
    kind = _typed_dict(hint)
    return asdict(value) if kind is None else part(kind, value)


@cache
def _typed_dict(hint: Any) -> Any:
    """The TypedDict that a type names, as in `list[X]` and `X | None`; None for a dataclass."""
    found = [_typed_dict(each) for each in get_args(hint)]
    return hint if is_typeddict(hint) else next(filter(None, found), None)


# --- schemas --------------------------------------------------------------------------------------

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
    from lora_profiler.measuring.records.serialize import json_schema
    from lora_profiler.question.workload import STORED_OPTIONS

    later = {stored.name for stored in STORED_OPTIONS if stored.declared.added}
    optional = frozenset({*later, *_OF_SOME_RECORDS})
    return json_schema(kind, title=title, limits=_limits, optional=optional)


_OF_SOME_RECORDS = ("limits", "trained_by")
"""Written of rehearsed records, and of those that a trainer itself trained."""


def _limits(name: str) -> Mapping[str, Any]:
    from lora_profiler.measuring.records.serialize import SIZES

    if name in _LIMITS:
        return _LIMITS[name]
    if name in SIZES:
        return {"minimum": 1}
    return {"minimum": 0} if _AMOUNT.search(name) and name not in _SIGNED else {}
