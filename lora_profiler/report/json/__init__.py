"""The JSON of `predict` and `bench`, for other programs."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import Any, TypeVar, cast, get_args, is_typeddict

T = TypeVar("T")
_MISSING: Any = object()


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
