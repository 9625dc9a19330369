"""One possible maximum of a moment: live bytes by category, as polynomials in batch, sequence and
rank, and how they are added to."""

from collections.abc import Mapping
from typing import NamedTuple

from lora_profiler._common.polynomial import ZERO, Polynomial, total, undominated
from lora_profiler.memory.prediction import Category, MomentName

Breakdown = Mapping[Category, Polynomial]


class Candidate(NamedTuple):
    """One possible maximum of a moment: its live bytes by category, and their sum. `holds_last`:
    what a loop holds of the last pass is among them."""

    bytes: Breakdown
    total: Polynomial
    holds_last: bool = True


Moments = Mapping[MomentName, tuple[Candidate, ...]]


def merged(base: Breakdown, more: Breakdown) -> dict[Category, Polynomial]:
    """The sum of both, category by category."""
    return {**base, **{category: base.get(category, ZERO) + more[category] for category in more}}


def candidate(base: Breakdown, **more: Polynomial) -> Candidate:
    sizes = merged(base, more)  # type: ignore[arg-type]  # keyword names are categories
    return Candidate(bytes=sizes, total=total(sizes.values()))


def with_communication(
    base: dict[Category, Polynomial], size: Polynomial
) -> dict[Category, Polynomial]:
    """`base` with what is there for other ranks' sake, if anything is."""
    return base if size == ZERO else base | {"communication": size}


def largest_of(candidates: list[Candidate]) -> tuple[Candidate, ...]:
    """Those that can be the largest at some size."""
    kept = undominated(c.total for c in candidates)
    return tuple(next(c for c in candidates if c.total is size) for size in kept)
