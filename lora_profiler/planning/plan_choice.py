"""Which run of a front to take."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

from lora_profiler.planning.planned import Budget, PlannedRun

Goal = Literal["cheapest", "quickest", "roomiest"]

SAME = 0.05
"""Costs or times nearer than this share count as the same: no interval of a predicted time is as
narrow (`steptime.families`)."""


def recommended(runs: Sequence[PlannedRun], budget: Budget) -> tuple[PlannedRun | None, Goal]:
    """The run to take, and what for; None where none is within the budget."""
    within = [run for run in runs if is_within(run, budget)]
    timed = [run for run in within if run.hours]
    priced = [run for run in timed if run.cost]
    if priced and (budget.max_cost is None or budget.max_hours is not None):
        return _best(priced, cost_of, hours_of), "cheapest"
    if timed:
        return _best(timed, hours_of, cost_of), "quickest"
    if within:
        return max(within, key=lambda run: run.headroom_share), "roomiest"
    return None, "cheapest" if any(run.cost for run in runs) else "quickest"


def hours_of(run: PlannedRun) -> float:
    """The estimate; infinite where it is not known."""
    return run.hours.middle if run.hours else math.inf


def cost_of(run: PlannedRun) -> float:
    """The estimate; infinite where it is not known."""
    return run.cost.middle if run.cost else math.inf


def _best(
    runs: Sequence[PlannedRun],
    goal: Callable[[PlannedRun], float],
    other: Callable[[PlannedRun], float],
) -> PlannedRun:
    least = min(map(goal, runs))
    return min(
        (run for run in runs if goal(run) <= (1 + SAME) * least),
        key=lambda run: (
            run.concessions,
            -run.trained,
            other(run),
            -run.objectives.counted_headroom,
            goal(run),
        ),
    )


def is_within(run: PlannedRun, budget: Budget) -> bool:
    """By the estimates; a run of which they are not known is within no limit."""
    limits = ((run.hours, budget.max_hours), (run.cost, budget.max_cost))
    return all(
        limit is None or (found is not None and found.middle <= limit) for found, limit in limits
    )
