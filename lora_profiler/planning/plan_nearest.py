"""What would do where nothing does: the way that lacks least, the cards that it fits, and what is
nearest to a budget."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lora_profiler.catalog import Gpu
from lora_profiler.planning.engine import engine_for_search, predict_checked
from lora_profiler.planning.fit import smallest_cards
from lora_profiler.planning.plan_costs import Costs, Layout
from lora_profiler.planning.plan_space import Part, parts_of, ranks_of, setups_of
from lora_profiler.planning.planned import Offer, PlannedRun, Space, cost_of, hours_of
from lora_profiler.workload import Method

MOST_CARDS = 64
"""Of the same kind that are tried, in one machine after another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NearestFit:
    """Where no way of a method fits: the one that lacks least on the cards at hand, of `peak_bytes`
    on each of `cards`, `missing_bytes` too much with the reserve. `enough_cards`: the fewest of the
    same kind that the method fits, None for more than `MOST_CARDS`; `smallest_cards`: single cards
    that it fits, all of the smallest memory."""

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


def nearest_runs(runs: Sequence[PlannedRun]) -> NearestRuns:
    return NearestRuns(
        quickest=min((run for run in runs if run.hours), key=hours_of, default=None),
        cheapest=min((run for run in runs if run.cost), key=cost_of, default=None),
    )


def nearest_fit(
    offers: Sequence[Offer], space: Space, costs: Costs, method: Method, engine: str = "auto"
) -> NearestFit | None:
    """Of a method that fits none of `offers`; None where not even a peak is known."""
    search = _Leanest(space, costs, method)
    layouts = [
        (part.headroom_bytes(layout), part, layout)
        for offer in offers
        for part in parts_of(offer, space)[-1:]
        for layout in search.layouts(part)
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
        enough_cards=search.enough(part.offer),
        smallest_cards=search.smallest(offers[0], engine),
    )


class _Leanest:
    """The ways of one method that hold least."""

    def __init__(self, space: Space, costs: Costs, method: Method) -> None:
        self._space, self._costs, self._method = space, costs, method

    def layouts(self, part: Part) -> Iterator[Layout]:
        """Of the smallest micro-batch and rank of each row."""
        for workload in part.offer.workloads:
            setup = workload.setup
            if setup.method != self._method:
                continue
            shared, rank = self._costs.shared(workload), ranks_of(setup, self._space)[0]
            own = self._space.optimizer or setup.optimizer
            lean = "adamw_8bit" if own == "adamw" and self._space.optimizer is None else own
            for optimizer in dict.fromkeys((own, lean)):
                for row in setups_of(setup, self._space, part.cards, optimizer, rank):
                    layout = self._costs.layout(shared, row[0])
                    if layout is not None:
                        yield layout

    def enough(self, offer: Offer) -> int | None:
        """Doubling the cards, each with at least one sequence of the effective batch."""
        cards = 1
        while cards <= MOST_CARDS:
            cluster = replace(offer.cluster, machines=1, cards_each=cards)
            part = Part(offer=offer, cluster=cluster)
            if self._space.effective_batch % cards == 0 and any(map(part.fits, self.layouts(part))):
                return cards
            cards *= 2
        return None

    def smallest(self, offer: Offer, engine: str) -> tuple[Gpu, ...]:
        """For the leanest layout of one card."""
        alone = Part(offer=offer, cluster=replace(offer.cluster, machines=1, cards_each=1))
        layout = min(self.layouts(alone), key=lambda each: each.peak_bytes, default=None)
        if layout is None:
            return ()
        prediction = predict_checked(layout.worst, engine)
        return smallest_cards(prediction, engine_for_search(prediction, engine))
