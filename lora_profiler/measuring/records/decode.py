"""Values that json read as instances of annotated types, by msgspec, with errors that name the
field."""

import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache, reduce
from operator import or_
from sys import float_info
from typing import (
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.catalog.config import shown

_UNIONS = (Union, types.UnionType)


class RecordError(LoraProfilerError):
    """A record that cannot be read: not JSON, a missing or unknown field, a wrong type, a newer
    schema."""

    exit_code = 2


def decoded(kind: Any, value: Any, where: str) -> Any:
    """`value`, as json reads it, as an instance of the annotation `kind`: dataclasses, TypedDicts,
    Literals, unions, tuples, mappings.

    Raises RecordError naming the field below `where`: a wrong type, a missing field, one that a
    dataclass does not have, a number that is not finite. A bool is no int.
    """
    import msgspec

    try:
        msgspec.convert(value, _strict(kind))
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as e:
        raise RecordError(_complaint(*_refused(kind, value, where), e)) from None


@cache
def _strict(kind: Any) -> Any:
    """`kind` as msgspec must be asked for it, or it passes over fields that a dataclass does not
    have, and takes nan and infinity. A TypedDict names what is read of an object, and no more."""
    import msgspec

    if kind is float:
        return Annotated[float, msgspec.Meta(ge=-float_info.max, le=float_info.max)]
    if is_dataclass(kind) or is_typeddict(kind):
        needed = _needed(kind)
        strict_hints = {name: _strict(hint) for name, hint in _hints(kind).items()}
        return msgspec.defstruct(
            kind.__name__,
            [(name, h) if name in needed else (name, h, None) for name, h in strict_hints.items()],
            kw_only=True,
            forbid_unknown_fields=is_dataclass(kind),
        )
    origin, options = get_origin(kind), get_args(kind)
    if origin in (None, Literal):
        return kind
    strict = tuple(map(_strict, options))
    return reduce(or_, strict) if origin in _UNIONS else origin[strict]


def _hints(kind: Any) -> dict[str, Any]:
    """Of the fields alone: not of what only a constructor takes."""
    hints = get_type_hints(kind)
    return {f.name: hints[f.name] for f in fields(kind)} if is_dataclass(kind) else hints


def _needed(kind: Any) -> set[str]:
    if is_typeddict(kind):
        return set(kind.__required_keys__)
    return {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}


# --- what is wrong with a value that is refused ---------------------------------------------------


def _refused(kind: Any, value: Any, where: str) -> tuple[Any, Any, str]:
    """The innermost part of `value` that is refused, with its annotation and place; msgspec's own
    message does not name the key of a mapping."""
    import msgspec

    kind = _without_none(kind)
    for part in () if _wrong_names(kind, value) else _parts(kind, value, where):
        try:
            msgspec.convert(part[1], _strict(part[0]))
        except msgspec.ValidationError:
            return _refused(*part)
    return kind, value, where


def _parts(kind: Any, value: Any, where: str) -> Iterator[tuple[Any, Any, str]]:
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        yield from ((get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    elif isinstance(value, Mapping) and (is_dataclass(kind) or is_typeddict(kind)):
        prefix, hints = f"{where}." if where else "", _hints(kind)
        yield from ((hints[k], item, f"{prefix}{k}") for k, item in value.items() if k in hints)
    elif isinstance(value, Mapping) and get_origin(kind) in (Mapping, dict):
        of_key, of_value = get_args(kind)
        yield from ((of_key, key, f"{where} key") for key in value)
        yield from ((of_value, item, f"{where}.{key}") for key, item in value.items())


def _complaint(kind: Any, value: Any, where: str, error: Exception) -> str:
    where = where or "a record"
    what = f"{where} is {shown(value)}; "
    if get_origin(kind) is Literal:
        return f"{what}accepted: {', '.join(map(str, get_args(kind)))}."
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return f"{what}it must be finite."
    if kind in (int, float, str, bool):
        return f"{what}it must be {kind.__name__}."
    if get_origin(kind) is tuple:
        return f"{what}it must be a list."
    if not isinstance(value, Mapping):
        return f"{what}it must be an object."
    names = _wrong_names(kind, value)
    if where == "a record":
        return f"A record {names}.".replace("; the record", "; it")
    return f"{where} {names}." if names else f"{where} is refused: {error}."


def _wrong_names(kind: Any, value: Any) -> str:
    """What is to be said of an object that has other fields than it may and must have."""
    if not isinstance(value, Mapping) or not (is_dataclass(kind) or is_typeddict(kind)):
        return ""
    names, needed = _hints(kind), _needed(kind)
    unknown = sorted(value.keys() - names)
    missing = [name for name in names if name in needed and name not in value]
    if unknown and is_dataclass(kind):
        return f"has no field {', '.join(unknown)}; the record may come from a newer version"
    return f"needs {', '.join(missing)}" if missing else ""


def _without_none(kind: Any) -> Any:
    """An annotation without its None; the last of several that are left, which tells most."""
    if get_origin(kind) not in _UNIONS:
        return kind
    return [option for option in get_args(kind) if option is not types.NoneType][-1]
