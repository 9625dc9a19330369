"""Which of several plans no other one beats."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

ENOUGH_HEADROOM = 0.10
"""Share of a card beyond which more room is worth nothing: the largest error bound of any predicted
peak (`analytic.predict`), so that a plan which leaves it free fits however far off its peak is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives:
    """What is compared of a plan; less is better of `seconds`, `cost` and `concessions`, more of
    `headroom_share` and `trained`.

    seconds: of the whole training, None where nobody knows. cost: its price, None without one:
    plans on the same `card` are then compared by `card_seconds`, seconds times cards, and plans on
    different ones are not. headroom_share: of a card's usable bytes, what peak and reserve leave
    free; counted up to `ENOUGH_HEADROOM`. trained: parameters. concessions: what is done in fewer
    bits than asked for, a 4-bit base or 8-bit optimizer states: such a plan never pushes out one
    that is without.
    """

    card: str
    seconds: float | None
    card_seconds: float | None
    cost: float | None
    headroom_share: float
    trained: int
    concessions: int

    @property
    def counted_headroom(self) -> float:
        return min(self.headroom_share, ENOUGH_HEADROOM)


def dominates(one: Objectives, other: Objectives) -> bool:
    """Whether `one` is no worse in anything and better in something; False where they cannot be
    compared.

    Examples:
        >>> from lora_profiler.planning.pareto import Objectives, dominates
        >>> slow = Objectives(
        ...     card="t4",
        ...     seconds=7200.0,
        ...     card_seconds=7200.0,
        ...     cost=1.0,
        ...     headroom_share=0.2,
        ...     trained=8,
        ...     concessions=0,
        ... )
        >>> from dataclasses import replace
        >>> dominates(replace(slow, seconds=3600.0), slow), dominates(slow, slow)
        (True, False)
    """
    pairs = _comparable(one, other)
    return pairs is not None and all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _comparable(one: Objectives, other: Objectives) -> Sequence[tuple[float, float]] | None:
    """Pairs of which less is better; None where one is known of one plan alone."""
    pairs: list[tuple[float, float]] = [
        (-one.counted_headroom, -other.counted_headroom),
        (-one.trained, -other.trained),
        (one.concessions, other.concessions),
    ]
    if one.cost is not None and other.cost is not None:
        pairs.append((one.cost, other.cost))
    elif one.card != other.card:
        return None
    elif one.card_seconds is not None and other.card_seconds is not None:
        pairs.append((one.card_seconds, other.card_seconds))
    if (one.seconds is None) is not (other.seconds is None):
        return None
    if one.seconds is not None and other.seconds is not None:
        pairs.append((one.seconds, other.seconds))
    return pairs


def front(plans: Iterable[tuple[T, Objectives]]) -> tuple[T, ...]:
    """Those that no other one dominates, in their own order; of equal ones the first.

    Examples:
        >>> from dataclasses import replace
        >>> from lora_profiler.planning.pareto import Objectives, front
        >>> quick = Objectives(
        ...     card="t4",
        ...     seconds=1.0,
        ...     card_seconds=1.0,
        ...     cost=None,
        ...     headroom_share=0.0,
        ...     trained=8,
        ...     concessions=0,
        ... )
        >>> large = replace(quick, seconds=2.0, card_seconds=2.0, trained=9)
        >>> slow = replace(quick, seconds=3.0, card_seconds=3.0)
        >>> front([("quick", quick), ("large", large), ("slow", slow)])
        ('quick', 'large')
    """
    known = list(plans)
    kept: list[T] = []
    for number, (plan, objectives) in enumerate(known):
        beaten = any(
            dominates(other, objectives) or (earlier < number and _same(other, objectives))
            for earlier, (_, other) in enumerate(known)
        )
        if not beaten:
            kept.append(plan)
    return tuple(kept)


def _same(one: Objectives, other: Objectives) -> bool:
    pairs = _comparable(one, other)
    return pairs is not None and all(a == b for a, b in pairs)
