"""Dataclasses as the objects that JSON makes of them."""

from dataclasses import asdict
from typing import Any, TypeVar, cast

T = TypeVar("T")


def plain(value: T) -> T:
    """A dataclass as a dict; to the type checker it stays what it is, so that a payload is typed by
    the classes that it is made of."""
    return cast(T, asdict(cast(Any, value)))
