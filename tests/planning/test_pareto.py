"""Dominance and fronts, against cases worked out by hand."""

from dataclasses import replace
from itertools import permutations

import pytest

from lora_profiler.planning.pareto import ENOUGH_HEADROOM, Front, Objectives, dominates

BASE = Objectives(
    card="a", cards=1, seconds=100.0, card_seconds=100.0, cost=10.0, headroom_share=0.05,
    trained=1000, concessions=0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "better"),
    [
        ({"seconds": 99.0, "card_seconds": 99.0}, True),
        ({"cost": 9.0}, True),
        ({"headroom_share": 0.06}, True),
        ({"trained": 1001}, True),
        ({}, False),
        ({"seconds": 99.0, "cost": 11.0}, False),
        ({"seconds": 99.0, "headroom_share": 0.04}, False),
        ({"seconds": 99.0, "trained": 999}, False),
        ({"seconds": 99.0, "concessions": 1}, False),
        ({"seconds": None, "card_seconds": None, "cost": None}, False),
    ],
)
def test_one_is_no_worse_in_anything_and_better_in_something(
    change: dict[str, float], better: bool
) -> None:
    assert dominates(replace(BASE, **change), BASE) is better


def test_room_counts_up_to_what_errors_of_peaks_may_take() -> None:
    enough = replace(BASE, headroom_share=ENOUGH_HEADROOM)
    more = replace(BASE, headroom_share=0.5)
    assert not dominates(more, enough) and not dominates(enough, more)
    assert dominates(enough, BASE)


def test_without_prices_only_plans_on_one_kind_of_card_are_compared() -> None:
    free = replace(BASE, cost=None)
    quicker = replace(free, seconds=60.0, card_seconds=60.0)
    assert dominates(quicker, free)
    assert not dominates(replace(quicker, card="b"), free)
    # two cards for less than twice the speed are dearer, for more they are not
    assert not dominates(replace(free, seconds=60.0, card_seconds=120.0), free)
    assert dominates(replace(free, seconds=45.0, card_seconds=90.0), free)


def test_an_unknown_time_neither_beats_nor_is_beaten_by_a_known_one() -> None:
    unknown = replace(BASE, seconds=None, card_seconds=None, cost=None)
    for other in (BASE, replace(BASE, cost=None)):
        assert not dominates(unknown, other) and not dominates(other, unknown)
    assert dominates(replace(unknown, trained=1001), unknown)
    assert not dominates(replace(unknown, trained=1001, cards=2), unknown)
    assert dominates(unknown, replace(unknown, cards=2))


def test_a_front_worked_out_by_hand() -> None:
    """Hours and money of five plans: c is beaten by b, e by a; d trains more than any."""
    plans = {
        "a": replace(BASE, seconds=1.0, cost=8.0),
        "b": replace(BASE, seconds=2.0, cost=4.0),
        "c": replace(BASE, seconds=3.0, cost=5.0),
        "d": replace(BASE, seconds=4.0, cost=9.0, trained=2000),
        "e": replace(BASE, seconds=1.0, cost=9.0),
    }
    for order in permutations(plans):
        front = Front[str]()
        for name in order:
            front.add(name, plans[name])
        assert set(front.plans) == {"a", "b", "d"}


def test_of_equal_plans_the_first_stays() -> None:
    front = Front[str]()
    front.add("first", BASE)
    front.add("second", BASE)
    assert front.plans == ("first",)
