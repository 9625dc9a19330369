"""Which of several plans no other one beats."""

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")

ENOUGH_HEADROOM = 0.10
"""Share of a card beyond which more room is worth nothing: the largest error bound of any predicted
peak (`memory.analytic.predict`), so that a plan which leaves it free fits however far off its peak
is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objectives:
    """What is compared of a plan; less is better of `seconds`, `cost` and `concessions`, more of
    `headroom_share` and `trained`.

    seconds: of the whole training, None where nobody knows: plans are then compared by the number
    of `cards`. cost: its price, None without one:
    plans on the same `card` are then compared by `card_seconds`, seconds times cards, and plans on
    different ones are not. headroom_share: of a card's usable bytes, what peak and reserve leave
    free; counted up to `ENOUGH_HEADROOM`. trained: parameters. concessions: what is kept in fewer
    than 16 bits, of the base and the optimizer's states: such a plan never pushes out one
    that is without.
    """

    card: str
    cards: int
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
        ...     cards=1,
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
    return _is_no_worse(one, other) and not _is_no_worse(other, one)


def _is_no_worse(one: Objectives, other: Objectives) -> bool:
    """False where they cannot be compared."""
    if one.trained < other.trained or one.concessions > other.concessions:
        return False
    if one.counted_headroom < other.counted_headroom:
        return False
    if one.seconds is None or other.seconds is None:
        if one.seconds is not other.seconds or one.cards > other.cards:
            return False
    elif one.seconds > other.seconds:
        return False
    if one.cost is not None and other.cost is not None:
        return one.cost <= other.cost
    if one.card != other.card:
        return False
    if one.card_seconds is None or other.card_seconds is None:
        return one.card_seconds is other.card_seconds
    return one.card_seconds <= other.card_seconds


class Front(Generic[T]):
    """Plans of which none beats another, as they come.

    Examples:
        >>> from dataclasses import replace
        >>> from lora_profiler.planning.pareto import Front, Objectives
        >>> quick = Objectives(
        ...     card="t4",
        ...     cards=1,
        ...     seconds=1.0,
        ...     card_seconds=1.0,
        ...     cost=None,
        ...     headroom_share=0.0,
        ...     trained=8,
        ...     concessions=0,
        ... )
        >>> front = Front()
        >>> front.add("slow", replace(quick, seconds=3.0, card_seconds=3.0))
        >>> front.add("quick", quick)
        >>> front.add("large", replace(quick, seconds=2.0, card_seconds=2.0, trained=9))
        >>> front.plans
        ('quick', 'large')
    """

    def __init__(self) -> None:
        self._kept: list[tuple[T, Objectives]] = []

    @property
    def plans(self) -> tuple[T, ...]:
        return tuple(plan for plan, _ in self._kept)

    def beats(self, objectives: Objectives) -> bool:
        """Whether one of them dominates."""
        return any(dominates(kept, objectives) for _, kept in self._kept)

    def add(self, plan: T, objectives: Objectives) -> None:
        """Keeps `plan` unless another one beats it; of equal ones the first stays."""
        if not any(_is_no_worse(kept, objectives) for _, kept in self._kept):
            self._kept = [pair for pair in self._kept if not _is_no_worse(objectives, pair[1])]
            self._kept.append((plan, objectives))
