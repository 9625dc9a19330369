"""The JSON of `predict` and `bench`, for other programs."""

from dataclasses import asdict
from typing import Any, TypeVar, cast

T = TypeVar("T")


def plain(value: T) -> T:
    """A dataclass as a dict; to the type checker it stays what it is, so that a payload is typed by
    the classes that it is made of."""
    return cast(T, asdict(cast(Any, value)))


def picked(value: object, names: str) -> Any:
    """Those attributes of `value`, whose names are parted by spaces, under the same names."""
    return {name: getattr(value, name) for name in names.split()}
