"""What a plan is asked about, as people write it, and what it is made of: cards, how much there
is to train on, and one way to train worked out on them."""

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from lora_profiler.errors import UsageError, did_you_mean
from lora_profiler.facts.catalog import Gpu, as_model
from lora_profiler.facts.catalog.gpus import Price, read_price, table_prices
from lora_profiler.planning.over_data import TrainingData
from lora_profiler.planning.pareto import Objectives
from lora_profiler.planning.placement import Cluster, Network, find_cluster, link_among
from lora_profiler.planning.setups import DEFAULTS, workloads
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.optimizer import package_optimizer
from lora_profiler.question.option import MAX_SIZE
from lora_profiler.question.workload import Loss, Method, Optimizer, Sharding, TrainSetup, Workload
from lora_profiler.steptime import Basis
from lora_profiler.units import is_finite, shown

HOUR = 3600
MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """Equal cards that could be had, up to all of `cluster`, the ways to train on them, one for
    each method, the price of one card, and what they send each other over; None where that is not
    known.

    Examples:
        >>> from lora_profiler import TrainSetup, Workload, find_model
        >>> from lora_profiler.planning.planned import Offer
        >>> from lora_profiler.planning.placement import find_cluster
        >>> way = Workload(model=find_model("gpt2"), setup=TrainSetup())
        >>> Offer(cluster=find_cluster("2xl4"), workloads=(way,)).gpu.key
        'l4'
    """

    cluster: Cluster
    workloads: tuple[Workload, ...]
    price: Price | None = None
    network: Network | None = None

    @property
    def gpu(self) -> Gpu:
        return self.cluster.gpu


def offers_of(
    model: ModelSpec | str,
    names: Sequence[str],
    *,
    methods: Sequence[Method] = get_args(Method),
    prices: Mapping[str, Price] = {},
    network: Network | None = None,
    **options: Any,
) -> tuple[Offer, ...]:
    """An offer for each of `names`: a card, or several as in 8xh100_sxm_80gb, with the options of
    `setup_for`. `prices` are by the key of a card.

    Raises UsageError for an unknown card or option, and as `setups` does.

    Examples:
        >>> from lora_profiler import offers_of
        >>> first, second = offers_of("gpt2", ["t4", "8xh100_sxm_80gb"], seq_len=512)
        >>> first.workloads[0].setup.dtype, second.cluster.cards, second.network.key
        ('float32', 8, 'nvlink4')
    """
    model = as_model(model)
    every = {**DEFAULTS, **options, "methods": tuple(methods)}
    given = {*options, "methods"}
    return tuple(
        offer_at(cluster, workloads(model, every, given, cluster.gpu.platform()), prices, network)
        for cluster in map(cluster_of, names)
    )


def offer_at(
    cluster: Cluster, ways: Sequence[Workload], prices: Mapping[str, Price], network: Network | None
) -> Offer:
    """Of `ways` to train on the cards of `cluster`, linked as usual where no `network` is named."""
    return Offer(
        cluster=cluster,
        workloads=tuple(ways),
        price=prices.get(cluster.gpu.key),
        network=network or link_of(cluster),
    )


def cluster_of(name: str) -> Cluster:
    """A card alone, or a cluster as `find_cluster` reads it. Raises UsageError."""
    if not name.strip():
        raise UsageError("a GPU has no name; write them as in rtx_4090,8xh100_sxm_80gb.")
    leading, x, _ = name.strip().lower().partition("x")
    return find_cluster(name if x and leading.strip().isdecimal() else f"1x{name}")


def link_of(cluster: Cluster) -> Network | None:
    """The usual link among all of its cards."""
    return link_among(cluster.gpu, cluster.cards, cluster.machines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """How much is trained on: `tokens` of the whole data, padding included, or `data`; neither
    where nobody says, and times are then those of a million tokens. `epochs`: how often.

    Raises UsageError for both, for data without any token, and for a number that is none.

    Examples:
        >>> from lora_profiler import Amount
        >>> Amount(tokens=1_000_000, epochs=3).steps(16 * 2048)
        92
    """

    tokens: int | None = None
    data: TrainingData | None = None
    epochs: float = 1.0

    def __post_init__(self) -> None:
        if self.tokens is not None and self.data is not None:
            raise UsageError("tokens and data both say how much is trained on; leave one out.")
        if self.data is not None and self.data.lengths.num_tokens == 0:
            raise UsageError("the data have no token in them; name others, or leave them out.")
        if self.tokens is not None and not 1 <= self.tokens < 2**63:
            raise UsageError(f"tokens are {shown(self.tokens)}; it must be a number from 1 up.")
        if not is_finite(self.epochs) or self.epochs <= 0:
            raise UsageError(f"epochs are {shown(self.epochs)}; it must be a number above 0.")

    @property
    def is_known(self) -> bool:
        return self.tokens is not None or self.data is not None

    def steps(self, tokens_per_step: int) -> float:
        """Optimizer steps where no data are given, whole ones where the tokens are known."""
        steps = self.epochs * (self.tokens or MILLION) / tokens_per_step
        return math.ceil(steps) if self.tokens else steps


def _check_word(name: str, word: str, known: Sequence[str]) -> None:
    if word not in known:
        raise UsageError(f"unknown {name} {word[:40]!r}.{did_you_mean(word, known)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """What is tried beside cards and methods. `effective_batch`: sequences of one optimizer step,
    all ranks together; micro-batches are its divisors, or `micro_batch` alone. None leaves a choice
    to the planner: with and without checkpointing, the loss asked for and the fused one, every
    sharding, and 8-bit AdamW where AdamW leaves little room. Anything else is taken as it is.

    Raises UsageError for sizes that make no sense.

    Examples:
        >>> from lora_profiler import Space
        >>> Space(effective_batch=32, checkpointing=True).ranks
        (8, 16, 32, 64, 128)
    """

    effective_batch: int = 16
    ranks: tuple[int, ...] = (8, 16, 32, 64, 128)
    micro_batch: int | None = None
    checkpointing: bool | None = None
    loss: Loss | None = None
    optimizer: Optimizer | None = None
    shardings: tuple[Sharding, ...] | None = None

    def __post_init__(self) -> None:
        if self.effective_batch < 1:
            raise UsageError(f"effective batch is {self.effective_batch}; it must be at least 1.")
        if not self.ranks:
            raise UsageError("ranks are empty; name at least one.")
        if self.optimizer is not None:
            _check_word("optimizer", self.optimizer, get_args(Optimizer))
        if self.loss is not None:
            _check_word("loss", self.loss, get_args(Loss))
        for sharding in self.shardings or ():
            _check_word("sharding", sharding, get_args(Sharding))
        if self.micro_batch is not None and self.micro_batch < 1:
            raise UsageError(f"micro-batch is {self.micro_batch}; it must be at least 1.")
        if self.micro_batch is not None and self.effective_batch % self.micro_batch:
            raise UsageError(
                f"effective batch {self.effective_batch} is not a multiple of micro-batch"
                f" {self.micro_batch}; change one of --effective-batch and -b."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What the training may take at most: hours, and money in the prices' currency.

    Examples:
        >>> from lora_profiler import Budget
        >>> Budget(max_hours=24).max_cost is None
        True
    """

    max_hours: float | None = None
    max_cost: float | None = None

    def __post_init__(self) -> None:
        for name, limit in (("hours", self.max_hours), ("cost", self.max_cost)):
            if limit is not None and not limit > 0:
                raise UsageError(f"the most {name} are {limit:g}; they must be more than 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimateRange:
    """An estimate with the least and the most it may be."""

    low: float
    middle: float
    high: float

    def __mul__(self, factor: float) -> "EstimateRange":
        return EstimateRange(
            low=self.low * factor, middle=self.middle * factor, high=self.high * factor
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedTime:
    """Seconds of one optimizer step, on average over the data: all of it, of one rank's compute,
    and of sending, None where no link is known; `share_of_host` as `StepTime` has it. The estimate
    adds compute and sending; at least the longer of both is needed."""

    step: EstimateRange
    compute_seconds: float
    sending_seconds: float | None
    share_of_host: float
    basis: Basis


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownWay:
    """A way to train whose peak is known but for `doubt_bytes`, `held_bytes` of it through every
    step. `workload` is as asked; `worst` the same at the longest batch of the data, of which
    `peak_bytes` is, equal without data. `trained` parameters, `steps` in all."""

    workload: Workload
    worst: Workload
    peak_bytes: int
    doubt_bytes: int
    held_bytes: int
    trained: int
    steps: float

    @property
    def setup(self) -> TrainSetup:
        return self.workload.setup


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun(KnownWay):
    """One way to train on `cluster`, all of whose cards it takes; the headroom leaves free what the
    peak may be off by.

    `time` None where the card's speed or the model's kernels are not known. `price` of one card's
    hour, `network` what several cards send each other over.

    Examples:
        >>> from lora_profiler import Amount, Space, find_model, make_plan, offers_of
        >>> offers = offers_of(find_model("gpt2"), ["l4"], methods=["lora"])
        >>> plan = make_plan(offers, Amount(tokens=1_000_000), Space(ranks=(8,)))
        >>> run = plan.recommended
        >>> run.steps, run.hours.low < run.hours.middle < run.hours.high, run.cost
        (62, True, None)
    """

    cluster: Cluster
    price: Price | None
    network: Network | None
    headroom_bytes: int
    time: PlannedTime | None

    @property
    def hours(self) -> EstimateRange | None:
        return self.time.step * (self.steps / HOUR) if self.time else None

    @property
    def cost(self) -> EstimateRange | None:
        if self.hours is None or self.price is None:
            return None
        return self.hours * (self.cluster.cards * self.price.per_hour)

    @property
    def headroom_share(self) -> float:
        return self.headroom_bytes / (self.cluster.gpu.usable_bytes or 1)

    @property
    def concessions(self) -> int:
        return concessions_of(self.setup)

    @property
    def objectives(self) -> Objectives:
        seconds = self.hours.middle * HOUR if self.hours else None
        return Objectives(
            card=self.cluster.gpu.key,
            cards=self.cluster.cards,
            seconds=seconds,
            card_seconds=None if seconds is None else seconds * self.cluster.cards,
            cost=self.cost.middle if self.cost else None,
            headroom_share=self.headroom_share,
            trained=self.trained,
            concessions=self.concessions,
        )


def concessions_of(setup: TrainSetup) -> int:
    """How many of base and optimizer states are in fewer than 16 bits."""
    states = package_optimizer(setup.optimizer)
    return (setup.quantization is not None) + (states is not None and states.bits < 16)


def sized(setup: TrainSetup, rank: int | None) -> TrainSetup:
    """`setup` with an adapter of `rank`, where it has one."""
    if setup.lora is None or rank is None:
        return setup
    return replace(setup, lora=replace(setup.lora, r=rank))


def divisors(number: int) -> list[int]:
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return sorted({*small, *(number // n for n in small)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """How many ways were looked at, how many of them fit, and how many steps were timed."""

    considered: int
    fitting: int
    timed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Cards whose time is not known, and why."""

    cards: tuple[str, ...]
    reason: str


# --- which run of a front to take -----------------------------------------------------------------


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


def best_for(goal: Goal, runs: Sequence[PlannedRun], budget: Budget) -> PlannedRun:
    """The one that is best at `goal` alone, within the budget if any is."""
    within = [run for run in runs if is_within(run, budget)] or runs
    first, second = (cost_of, hours_of) if goal == "cheapest" else (hours_of, cost_of)
    if goal == "roomiest":
        return max(within, key=lambda run: run.headroom_share)
    return min(within, key=lambda run: (first(run), second(run), -run.trained))


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
        limit is None or (estimate is not None and estimate.middle <= limit)
        for estimate, limit in limits
    )


# --- plan inputs ----------------------------------------------------------------------------------


_COUNT = re.compile(
    r"\s*([0-9]{1,15}(?:\.[0-9]{1,9})?(?:e[0-9]{1,2})?)\s*([kmbt]?)\s*", re.IGNORECASE
)
_COUNTS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9, "t": 10**12}
_RANKS = re.compile(r"\s*([0-9]{1,6})\s*\.\.\s*([0-9]{1,6})\s*")


def read_tokens(text: str) -> int:
    """10M, 2.5B, 1e9 or 1000000. Raises UsageError."""
    match = _COUNT.fullmatch(text)
    number = round(float(match[1]) * _COUNTS[match[2].lower()]) if match else 0
    if not 1 <= number < 2**63:
        raise UsageError(f"--tokens is {text[:40]!r}; write a number above 0, as in 10M or 2.5B.")
    return number


def read_ranks(text: str) -> tuple[int, ...]:
    """8..128 doubles from the first to the last; 8,12 are these. Raises UsageError."""
    span = _RANKS.fullmatch(text)
    if span is not None:
        first, last = int(span[1]), int(span[2])
        if 1 <= first <= last:
            return tuple(
                first << n for n in range((last // first).bit_length()) if first << n <= last
            )
    parts: list[Any] = [part.strip() for part in text.split(",")]
    if span is not None or not all(p.isdecimal() and 1 <= int(p) <= MAX_SIZE for p in parts):
        raise UsageError(f"--ranks is {text[:40]!r}; write them as in 8..128 or 8,16,32.")
    return tuple(dict.fromkeys(map(int, parts)))


def read_prices(texts: Sequence[str]) -> dict[str, Price]:
    """The user's, of one card each; the table's where there are none. Raises UsageError."""
    if not texts:
        return dict(table_prices())
    prices: dict[str, Price] = {}
    for text in texts:
        name, price = read_price(text)
        cluster = cluster_of(name)
        one = replace(price, per_hour=price.per_hour / cluster.cards)
        if prices.setdefault(cluster.gpu.key, one) != one:
            raise UsageError(f"--price says twice what {cluster.gpu.key} costs; leave one out.")
    return prices


def offers_at(
    gpus: str | None,
    prices: Mapping[str, Price],
    network: Network | None,
    ways: Callable[[Gpu], Sequence[Workload]],
) -> tuple[Offer, ...]:
    """An offer for each of `gpus`, which are parted by commas; without them for each card with a
    price. `ways` are those to train on a card. Raises UsageError."""
    names: Sequence[str] = gpus.split(",") if gpus is not None else list(prices)
    clusters = dict.fromkeys(cluster_of(name) for name in names)
    return tuple(offer_at(cluster, ways(cluster.gpu), prices, network) for cluster in clusters)


def space_of(
    offers: Sequence[Offer],
    given: Collection[str],
    *,
    ranks: str | None = None,
    effective_batch: int | None = None,
    has_own_defaults: bool = False,
) -> Space:
    """What is tried. Options of a setup that are `given` are taken as they are; `has_own_defaults`
    where a trainer or its file says what else is: its batch is of one GPU, so that of several GPUs
    each has at least one sequence of a step. Raises UsageError."""
    if ranks is not None and "rank" in given:
        raise UsageError("--ranks and --rank both say which; leave one out.")
    requested = offers[0].workloads[0].setup
    has_size = has_own_defaults or bool({"batch_size", "accumulation"} & set(given))
    own = requested.batch_size * requested.accumulation
    if own < (most := max(offer.cluster.cards for offer in offers)):
        own = math.lcm(own, most)
    tried = Space().ranks
    if ranks is not None:
        tried = read_ranks(ranks)
    elif "rank" in given or has_own_defaults:
        of_ways = (way.setup.lora.r for way in offers[0].workloads if way.setup.lora)
        tried = tuple(dict.fromkeys(of_ways)) or tried
    return Space(
        effective_batch=effective_batch or (own if has_size else Space().effective_batch),
        ranks=tried,
        micro_batch=(
            requested.batch_size if effective_batch is not None and "batch_size" in given else None
        ),
        checkpointing=requested.checkpointing if "checkpointing" in given else None,
        loss=requested.loss if "loss" in given or has_own_defaults else None,
        optimizer=requested.optimizer if "optimizer" in given else None,
    )
