"""Which of many polynomials can be the largest."""

from collections.abc import Iterable

from lora_profiler.algebra.polynomial import Polynomial


def undominated(candidates: Iterable[Polynomial]) -> tuple[Polynomial, ...]:
    """The candidates that can be the maximum for some sizes: those that no other one dominates coefficient by coefficient."""
    front: list[Polynomial] = []
    for candidate in candidates:
        if any(kept.dominates(candidate) for kept in front):
            continue
        front = [kept for kept in front if not candidate.dominates(kept)]
        front.append(candidate)
    return tuple(front)
