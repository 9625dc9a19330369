"""Which of many polynomials can be the largest."""

from collections.abc import Iterable

from lora_profiler.algebra.polynomial import Polynomial


def undominated(candidates: Iterable[Polynomial]) -> tuple[Polynomial, ...]:
    """The candidates that can be the maximum for some sizes: those that no other one dominates
    coefficient by coefficient.

    In their own order, of equals the first. None is dominated by one whose coefficients have a
    smaller sum: with the largest sums first, what is kept once stays, and the first ones kept rule
    out most others.
    """
    known = tuple(candidates)
    front: dict[int, Polynomial] = {}
    for number in sorted(range(len(known)), key=lambda i: -sum(known[i].terms.values())):
        if not any(kept.dominates(known[number]) for kept in front.values()):
            front[number] = known[number]
    return tuple(front[number] for number in sorted(front))
