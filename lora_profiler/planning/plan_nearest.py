"""What would do where nothing does: the way that lacks least, the cards that it fits, and what is
nearest to a budget."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from lora_profiler.catalog import Gpu
from lora_profiler.planning.engine import engine_for_search, predict_checked
from lora_profiler.planning.fit import smallest_cards
from lora_profiler.planning.plan import TrainingPlan
from lora_profiler.planning.plan_costs import Costs, Layout
from lora_profiler.planning.plan_space import Part, parts_of, ranks_of, setups_of
from lora_profiler.planning.planned import Offer, PlannedRun, cost_of, hours_of

MOST_CARDS = 64
"""Of the same kind that are tried, in one machine after another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NearestFit:
    """Where no way fits: the one that lacks least on the cards at hand, of `peak_bytes` on each of
    `cards`, `missing_bytes` too much with the reserve. `enough_cards`: the fewest of the same kind
    that some way fits, None for more than `MOST_CARDS`; `smallest_cards`: single cards that this
    method fits, all of the smallest memory."""

    gpu: Gpu
    cards: int
    layout: Layout
    peak_bytes: int
    missing_bytes: int
    enough_cards: int | None
    smallest_cards: tuple[Gpu, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NearestRuns:
    """Where something fits and nothing is within the budget: the quickest and the cheapest run."""

    quickest: PlannedRun | None
    cheapest: PlannedRun | None


def nearest_runs(plan: TrainingPlan) -> NearestRuns:
    return NearestRuns(
        quickest=min((run for run in plan.front if run.hours), key=hours_of, default=None),
        cheapest=min((run for run in plan.front if run.cost), key=cost_of, default=None),
    )


def nearest_fit(plan: TrainingPlan, engine: str = "auto") -> NearestFit | None:
    """Of a plan with nothing on its front; None where not even a peak is known."""
    costs = Costs(plan.amount, engine)
    layouts = [
        (part.headroom_bytes(layout), part, layout)
        for offer in plan.offers
        for part in parts_of(offer, plan.space)[-1:]
        for layout in _leanest(part, plan, costs)
    ]
    if not layouts:
        return None
    headroom, part, layout = max(layouts, key=lambda each: each[0])
    return NearestFit(
        gpu=part.cluster.gpu,
        cards=part.cards,
        layout=layout,
        peak_bytes=layout.peak_bytes,
        missing_bytes=-headroom,
        enough_cards=_enough(part.offer, plan, costs),
        smallest_cards=_smallest(plan, costs, engine),
    )


def _leanest(part: Part, plan: TrainingPlan, costs: Costs) -> Iterator[Layout]:
    """The layout of the smallest micro-batch and rank of each row."""
    for workload in part.offer.workloads:
        shared, rank = costs.shared(workload), ranks_of(workload.setup, plan.space)[0]
        own = plan.space.optimizer or workload.setup.optimizer
        lean = "adamw_8bit" if own == "adamw" and plan.space.optimizer is None else own
        for optimizer in dict.fromkeys((own, lean)):
            for row in setups_of(workload.setup, plan.space, part.cards, optimizer, rank):
                layout = costs.layout(shared, row[0])
                if layout is not None:
                    yield layout


def _enough(offer: Offer, plan: TrainingPlan, costs: Costs) -> int | None:
    """Doubling the cards, each with at least one sequence of the effective batch."""
    cards = 1
    while cards <= MOST_CARDS:
        cluster = replace(offer.cluster, machines=1, cards_each=cards)
        part = Part(offer=offer, cluster=cluster)
        if plan.space.effective_batch % cards == 0 and any(
            map(part.fits, _leanest(part, plan, costs))
        ):
            return cards
        cards *= 2
    return None


def _smallest(plan: TrainingPlan, costs: Costs, engine: str) -> tuple[Gpu, ...]:
    """For the leanest layout of one card, whatever its method."""
    offer = plan.offers[0]
    alone = Part(offer=offer, cluster=replace(offer.cluster, machines=1, cards_each=1))
    layouts = sorted(_leanest(alone, plan, costs), key=lambda layout: layout.peak_bytes)
    if not layouts:
        return ()
    prediction = predict_checked(layouts[0].worst, engine)
    return smallest_cards(prediction, engine_for_search(prediction, engine))
