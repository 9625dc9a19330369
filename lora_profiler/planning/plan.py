"""The plan: of every way to train a model on the cards that could be had, those that no other one
beats and the one to take; where nothing does, what is nearest."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import Gpu
from lora_profiler.planning.engine import engine_for_search, predict_checked
from lora_profiler.planning.fit import smallest_cards
from lora_profiler.planning.pareto import Front, Objectives
from lora_profiler.planning.placement import MACHINE_CARDS, Cluster
from lora_profiler.planning.plan_space import (
    Costs,
    Part,
    Row,
    cell,
    cluster_of_size,
    layouts_of,
    parts_of,
    ranks_of,
    setups_of,
    unknown_ranks_reason,
)
from lora_profiler.planning.planned import (
    HOUR,
    SAME,
    Amount,
    Budget,
    Counts,
    Goal,
    KnownWay,
    Offer,
    PlannedRun,
    Refused,
    Space,
    best_for,
    concessions_of,
    cost_of,
    divisors,
    hours_of,
    recommended,
)
from lora_profiler.question.workload import Method, TrainSetup, Workload

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
    layout: KnownWay
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

    def layouts(self, part: Part) -> Iterator[KnownWay]:
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


Bound = Literal["memory", "compute", "launch", "network"]

MOST_OF_HOST = 0.5
"""Share of a micro-batch's time that launching alone would take, from which on a faster card helps
little (`steptime.StepTime`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Binding:
    """What keeps a run from being quicker. `without_memory_seconds`: a step of the quickest layout
    of the same method, rank, cards and sharding if any peak fitted; None where no time is known."""

    kind: Bound
    without_memory_seconds: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """The best run with another number of the same cards, of the same method and rank; None where
    no layout is known to fit."""

    cards: int
    run: PlannedRun | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodPlan:
    """What came of one method: the recommended run, or its best one for the plan's goal, within the
    budget if any is. Where none fits, `run` is None and `nearest` lacks least; where not even a
    peak is known, `nearest` is None too and `reason` says why."""

    method: Method
    run: PlannedRun | None
    nearest: NearestFit | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """What came of a search. `front`: the runs that no other one beats, the quickest first, those
    without a known time last. `recommended` is one of them, for `goal`; None where none is within
    the budget. `binding` and `neighbours` are its own. `methods`: one for each method asked for, in
    that order. `unknown`: cards of which no time is known, or nothing at all.

    Examples:
        >>> from lora_profiler import Amount, Space, find_model, make_plan, offers_of
        >>> offers = offers_of(find_model("gpt2"), ["t4", "l4"], methods=["lora"], seq_len=512)
        >>> plan = make_plan(offers, Amount(tokens=1_000_000), Space(ranks=(8, 16)))
        >>> plan.recommended.cluster.gpu.key, plan.recommended in plan.front
        ('l4', True)
    """

    offers: tuple[Offer, ...]
    amount: Amount
    space: Space
    budget: Budget
    front: tuple[PlannedRun, ...]
    recommended: PlannedRun | None
    goal: Goal
    methods: tuple[MethodPlan, ...]
    binding: Binding | None
    neighbours: tuple[Neighbour, ...]
    unknown: tuple[Refused, ...]
    counts: Counts


def make_plan(
    offers: Sequence[Offer],
    amount: Amount | None = None,
    space: Space | None = None,
    budget: Budget | None = None,
    engine: str = "auto",
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> TrainingPlan:
    """Searches method, rank, micro-batch, checkpointing, loss, optimizer, sharding and number of
    cards over `offers`, all of one model; every number is of the predictors.

    The recommended run is the cheapest of those with a price, the quickest where there is none or
    where only money is limited; of those as cheap or quick within `SAME` the one with the fewest
    concessions, then the one that trains most, then the quicker or the cheaper. Nothing is traced.
    `watch` hears how many layouts are done, of how many.

    Raises UsageError for no offer, for several models, for a setup that says itself how many ranks
    share it, and for a limit on money without any price.

    Examples:
        >>> from lora_profiler import Amount, Budget, Space, find_model, make_plan, offers_of
        >>> model = find_model("meta-llama/Llama-3.1-8B")
        >>> offers = offers_of(model, ["rtx_4090", "a100_sxm_80gb"], methods=["lora", "qlora"])
        >>> plan = make_plan(offers, Amount(tokens=10_000_000), Space(ranks=(8, 64)))
        >>> best = plan.recommended
        >>> best.cluster.gpu.key, best.setup.method, best.setup.lora.r, best.setup.batch_size
        ('a100_sxm_80gb', 'lora', 8, 2)
    """
    amount, space, budget = amount or Amount(), space or Space(), budget or Budget()
    _check(offers, amount, budget)
    parts = [part for offer in offers for part in parts_of(offer, space)]
    search = _Search(amount, space, engine, parts, watch)
    for part in parts:
        search.add_runs(part, search.fronts)
    front = Front[PlannedRun]()
    for of_method in search.fronts.values():
        for run in of_method.plans:
            front.add(run, run.objectives)
    kept = sorted(front.plans, key=hours_of)
    chosen, goal = recommended(kept, budget)
    return TrainingPlan(
        offers=tuple(offers),
        amount=amount,
        space=space,
        budget=budget,
        front=tuple(kept),
        recommended=chosen,
        goal=goal,
        methods=tuple(search.methods(chosen, goal, budget, offers)),
        binding=search.binding(chosen, offers) if chosen else None,
        neighbours=search.neighbours(chosen, offers) if chosen else (),
        unknown=search.unknown(),
        counts=search.counts,
    )


def _check(offers: Sequence[Offer], amount: Amount, budget: Budget) -> None:
    if not offers or not all(offer.workloads for offer in offers):
        raise UsageError("a plan needs at least one GPU and one method.")
    workloads = [workload for offer in offers for workload in offer.workloads]
    if len({workload.model.fingerprint for workload in workloads}) > 1:
        raise UsageError("a plan is of one model; make one for each.")
    if any(workload.setup.world_size > 1 for workload in workloads):
        raise UsageError(
            "the plan chooses world size and sharding; leave --world-size and --sharding out."
        )
    if any(workload.setup.context_parallel_size > 1 for workload in workloads):
        raise UsageError("a plan's ranks share no sequence; leave --context-parallel-size out.")
    if any(workload.setup.device != "cuda" for workload in workloads):
        raise UsageError("a plan is for GPUs; leave --device out.")
    limited = budget.max_hours is not None or budget.max_cost is not None
    if limited and not amount.is_known:
        raise UsageError(
            "how long it takes and what it costs depends on how much is trained on; add --tokens"
            " N, --data or --lengths, or leave --max-hours and --max-cost out."
        )
    if budget.max_cost is not None and not any(offer.price for offer in offers):
        raise UsageError(
            f"none of these GPUs has a price; add one: `--price {offers[0].gpu.key}=2.49/h`"
        )


class _Search:
    """One search, with what it has worked out."""

    def __init__(
        self,
        amount: Amount,
        space: Space,
        engine: str,
        parts: Sequence[Part],
        watch: Callable[[int, int], None],
    ) -> None:
        self.space, self.costs, self.engine = space, Costs(amount, engine), engine
        self.considered = self.fitting = 0
        self.fronts: _Fronts = defaultdict(Front)
        self._unasked: dict[str, dict[str, None]] = {}
        self._watch, self._done = watch, 0
        self._total = sum(
            layouts_of(workload.setup, space, part.cards)
            for part in parts
            for workload in part.offer.workloads
        )
        watch(0, self._total)

    @property
    def counts(self) -> Counts:
        return Counts(considered=self.considered, fitting=self.fitting, timed=self.costs.timed)

    def unknown(self) -> tuple[Refused, ...]:
        return tuple(
            Refused(cards=tuple(cards), reason=reason)
            for known in (self._unasked, self.costs.untimed)
            for reason, cards in known.items()
        )

    def add_runs(self, part: Part, fronts: "_Fronts", only: TrainSetup | None = None) -> None:
        """Adds the runs on all cards of `part`; those of the method and rank of `only` alone, where
        it is given.

        A step is timed only where its run could stay on the front of its method: it takes no less
        than one of lower rank, or without checkpointing, that is else the same.
        """
        for workload, shared in zip(part.offer.workloads, self._shared(part), strict=True):
            if only is not None and workload.setup.method != only.method:
                continue
            if reason := unknown_ranks_reason(workload.setup, self.space, part.cards):
                cards = f"{part.cards} x {part.cluster.gpu.key}"
                self._unasked.setdefault(reason, {}).setdefault(cards)
                continue
            seconds, limits = dict[_Key, float](), dict[Row, int]()
            for rank in ranks_of(workload.setup, self.space):
                asked_rank = rank if only is None or only.lora is None else only.lora.r
                if rank is not None and rank != asked_rank:
                    continue
                fitting = cell(part, shared, self.space, rank, self.costs, limits)
                self.considered += fitting.considered
                self.fitting += len(fitting.layouts)
                for layout in sorted(fitting.layouts, key=lambda each: each.setup.checkpointing):
                    self._add(layout, workload, part, fronts[workload.setup.method], seconds)
                if only is None:
                    ranks = len(ranks_of(workload.setup, self.space))
                    self._done += layouts_of(workload.setup, self.space, part.cards) // ranks
                    self._watch(min(self._done, self._total), self._total)

    def _shared(self, part: Part) -> list[Workload]:
        return [self.costs.shared(workload) for workload in part.offer.workloads]

    def _add(
        self,
        layout: KnownWay,
        workload: Workload,
        part: Part,
        front: Front[PlannedRun],
        seconds: "dict[_Key, float]",
    ) -> None:
        key = _key(layout.setup)
        bounds = [seconds[k] for k in (key, key._replace(checkpointing=False)) if k in seconds]
        if bounds and front.beats(self._objectives(layout, part, max(bounds))):
            seconds[key] = max(bounds)
            return
        run = self._run(layout, workload, part)
        if run.time is not None:
            seconds[key] = run.time.step.middle
        front.add(run, run.objectives)

    def _objectives(self, layout: KnownWay, part: Part, step_seconds: float) -> Objectives:
        total = step_seconds * layout.steps
        price = part.offer.price
        hours = total / HOUR
        return Objectives(
            card=part.cluster.gpu.key,
            cards=part.cards,
            seconds=total,
            card_seconds=total * part.cards,
            cost=None if price is None else hours * part.cards * price.per_hour,
            headroom_share=part.headroom_bytes(layout) / part.usable_bytes,
            trained=layout.trained,
            concessions=concessions_of(layout.setup),
        )

    def _run(self, layout: KnownWay, workload: Workload, part: Part) -> PlannedRun:
        return PlannedRun(
            workload=replace(layout.workload, platform=workload.platform),
            worst=replace(layout.worst, platform=workload.platform),
            peak_bytes=layout.peak_bytes,
            doubt_bytes=layout.doubt_bytes,
            held_bytes=layout.held_bytes,
            trained=layout.trained,
            steps=layout.steps,
            cluster=part.cluster,
            price=part.offer.price,
            network=part.network,
            headroom_bytes=part.headroom_bytes(layout),
            time=self.costs.time(layout, part.cluster.gpu, part.network),
        )

    # --- about each method ------------------------------------------------------------------------

    def methods(
        self, chosen: PlannedRun | None, goal: Goal, budget: Budget, offers: Sequence[Offer]
    ) -> Iterator[MethodPlan]:
        for method in dict.fromkeys(w.setup.method for offer in offers for w in offer.workloads):
            if chosen is not None and chosen.setup.method == method:
                yield MethodPlan(method=method, run=chosen)
            elif runs := self.fronts[method].plans:
                yield MethodPlan(method=method, run=best_for(goal, runs, budget))
            else:
                nearest = nearest_fit(offers, self.space, self.costs, method, self.engine)
                reason = None if nearest else self.costs.refusals.get(method)
                yield MethodPlan(method=method, run=None, nearest=nearest, reason=reason)

    # --- about the run to take --------------------------------------------------------------------

    def binding(self, run: PlannedRun, offers: Sequence[Offer]) -> Binding | None:
        """None where no time is known."""
        if run.time is None:
            return None
        free = self._without_memory(run, _part_of(run, offers))
        slower = free is not None and run.time.step.middle > (1 + SAME) * free
        kind: Bound = "memory" if slower else "compute"
        if (run.time.sending_seconds or 0.0) > run.time.compute_seconds:
            kind = "network"
        elif not slower and run.time.share_of_host > MOST_OF_HOST:
            kind = "launch"
        return Binding(kind=kind, without_memory_seconds=free)

    def _without_memory(self, run: PlannedRun, part: Part) -> float | None:
        """Seconds of a step of the quickest layout, as if every one fitted."""
        setup, seconds = run.setup, list[float]()
        rank = setup.lora.r if setup.lora else None
        for workload, shared in zip(part.offer.workloads, self._shared(part), strict=True):
            if workload.setup.method != setup.method:
                continue
            for row in setups_of(workload.setup, self.space, part.cards, setup.optimizer, rank):
                for each in row:
                    layout = self.costs.layout(shared, each)
                    if each.sharding == setup.sharding and layout is not None:
                        time = self.costs.time(layout, part.cluster.gpu, part.network)
                        seconds += [time.step.middle] if time else []
        return min(seconds, default=None)

    def neighbours(self, run: PlannedRun, offers: Sequence[Offer]) -> tuple[Neighbour, ...]:
        """With fewer cards and with more, as the effective batch and the machines allow."""
        own = _part_of(run, offers)
        sizes = _sizes(own, self.space)
        fewer = [size for size in sizes if size < run.cluster.cards][-1:]
        more = [size for size in sizes if size > run.cluster.cards][:1]
        nearby = []
        for size in fewer + more:
            if unknown_ranks_reason(run.setup, self.space, size):
                continue
            part = Part(offer=own.offer, cluster=_of_cards(own.offer.cluster, size))
            there: _Fronts = defaultdict(Front)
            self.add_runs(part, there, run.setup)
            best = min(there[run.setup.method].plans, key=hours_of, default=None)
            nearby.append(Neighbour(cards=size, run=best))
        return tuple(nearby)


_Fronts = defaultdict[Method, Front[PlannedRun]]


class _Key(NamedTuple):
    """A layout of some method, cards and rank."""

    batch_size: int
    checkpointing: bool
    loss: str
    sharding: str
    optimizer: str


def _key(setup: TrainSetup) -> _Key:
    return _Key(setup.batch_size, setup.checkpointing, setup.loss, setup.sharding, setup.optimizer)


def _part_of(run: PlannedRun, offers: Sequence[Offer]) -> Part:
    offer = next(
        offer
        for offer in offers
        if offer.gpu == run.cluster.gpu and offer.cluster.cards >= run.cluster.cards
    )
    return Part(offer=offer, cluster=run.cluster)


def _sizes(part: Part, space: Space) -> list[int]:
    """Numbers of cards that share the effective batch: any in one machine, of several whole
    ones."""
    each = part.offer.cluster.cards_each
    within = max(each, MACHINE_CARDS)
    return [
        size
        for size in divisors(space.effective_batch)
        if size <= (each if part.offer.cluster.machines > 1 else within)
        or (part.offer.cluster.machines > 1 and size % each == 0)
    ]


def _of_cards(cluster: Cluster, cards: int) -> Cluster:
    """One machine may have any number, each of several no more than it has."""
    if cluster.machines == 1:
        cluster = replace(cluster, cards_each=cards)
    return cluster_of_size(cluster, cards)
