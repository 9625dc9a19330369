"""Every way to train that a plan looks at, and those of them that fit a card."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

from lora_profiler.errors import UsageError
from lora_profiler.planning.placement import SHARDINGS, Cluster, Network, world_sizes
from lora_profiler.planning.plan_costs import Costs, KnownWay
from lora_profiler.planning.planned import Offer, Space, divisors, link_of, sized
from lora_profiler.planning.reserve import judge, reserve_for
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.support.bases import stored_base
from lora_profiler.question.workload import DTYPE_BYTES, FLAT, Loss, Sharding, TrainSetup, Workload

MOST_SAVED_BYTES_PER_PARAMETER = 16
"""Bytes that 8-bit states can save for each trained parameter: two float32 states, and as much
again of what a step of AdamW makes for a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Some cards of an offer, all of which are used."""

    offer: Offer
    cluster: Cluster

    @property
    def cards(self) -> int:
        return self.cluster.cards

    @property
    def network(self) -> Network | None:
        """Inside one machine of several the usual link, where nobody named another."""
        return self.offer.network or link_of(self.cluster)

    @property
    def usable_bytes(self) -> int:
        return self.cluster.gpu.usable_bytes or 0

    def headroom_bytes(self, layout: KnownWay) -> int:
        """Beside the reserve with the bound on fragmentation: thousands of ways are judged, and
        each simulation takes tens of milliseconds."""
        peak, held = layout.peak_bytes, layout.held_bytes
        return self.usable_bytes - peak - reserve_for(self.cluster.gpu, peak, held).total_bytes

    def fits(self, layout: KnownWay) -> bool:
        peak, held = layout.peak_bytes, layout.held_bytes
        return judge(peak, self.usable_bytes, self.cluster.gpu, held) == "fits"


def parts_of(offer: Offer, space: Space) -> list[Part]:
    """The numbers of cards to try that share the effective batch equally."""
    sizes = [n for n in world_sizes(offer.cluster) if space.effective_batch % n == 0]
    return [Part(offer=offer, cluster=cluster_of_size(offer.cluster, n)) for n in sizes]


def cluster_of_size(cluster: Cluster, cards: int) -> Cluster:
    """As many cards in as few machines."""
    each = min(cards, cluster.cards_each)
    return replace(cluster, machines=-(-cards // each), cards_each=each)


@lru_cache(maxsize=4096)
def setups_of(
    setup: TrainSetup, space: Space, world_size: int, optimizer: str, rank: int | None
) -> tuple[tuple[TrainSetup, ...], ...]:
    """Every layout of one method, rank and optimizer over `world_size` ranks, in rows along which
    the micro-batch alone grows, and with it the peak."""
    return tuple(_rows(setup, space, world_size, optimizer, rank))


def _rows(
    setup: TrainSetup, space: Space, world_size: int, optimizer: str, rank: int | None
) -> Iterator[tuple[TrainSetup, ...]]:
    share = space.effective_batch // world_size
    sizes = divisors(share)
    if space.micro_batch is not None:
        sizes = [space.micro_batch] if space.micro_batch in sizes else []
    switches = (False, True) if space.checkpointing is None else (space.checkpointing,)
    base = sized(setup, rank)
    for checkpointing, loss, sharding in product(
        switches, _losses(setup, space), _shardings(space, world_size)
    ):
        try:
            first = replace(
                base,
                checkpointing=checkpointing,
                loss=loss,
                sharding=sharding,
                world_size=world_size,
                optimizer=optimizer,
                optimizer_impl=base.optimizer_impl if optimizer == base.optimizer else "foreach",
            )
        except UsageError:  # these do not go together
            continue
        if sizes:
            yield tuple(replace(first, batch_size=n, accumulation=share // n) for n in sizes)


def layouts_of(setup: TrainSetup, space: Space, world_size: int) -> int:
    """How many layouts of one method are searched on `world_size` cards, at every rank."""
    ranks, own = ranks_of(setup, space), space.optimizer or setup.optimizer
    rows = setups_of(setup, space, world_size, own, ranks[0])
    return len(ranks) * sum(map(len, rows))


def unknown_ranks_reason(setup: TrainSetup, space: Space, world_size: int) -> str | None:
    """Why so many ranks cannot be asked about with any loss that is tried; None where they can."""
    reason = None
    for loss in _losses(setup, space):
        try:
            replace(
                setup,
                loss=loss,
                world_size=world_size,
                sharding="none" if world_size == 1 else "ddp",
            )
            return None
        except UsageError as e:
            reason = reason or str(e)
    return reason


def _losses(setup: TrainSetup, space: Space) -> tuple[Loss, ...]:
    """The loss asked for, and beside the plain one the fused one."""
    if space.loss is not None:
        return (space.loss,)
    return ("plain", "fused") if setup.loss == "plain" else (setup.loss,)


def _shardings(space: Space, world_size: int) -> tuple[Sharding, ...]:
    if world_size == 1:
        return ("none",)
    return SHARDINGS if space.shardings is None else space.shardings


def ranks_of(setup: TrainSetup, space: Space) -> tuple[int | None, ...]:
    has_rank = setup.lora is not None and setup.lora.has_rank
    return tuple(sorted(set(space.ranks))) if has_rank else (None,)


def least_bytes(model: ModelSpec, setup: TrainSetup) -> int:
    """What no step of `setup` can do without: the weights, and of full fine-tuning with AdamW its
    states, each as large, where no other rank may hold them. Of FSDP a share, without resharding
    the weights whole, which stay gathered until backward."""
    stored = stored_base(model, setup)
    if stored is not None:
        weights = model.num_parameters * min(4, stored.bits) // 8
    else:
        weights = model.num_parameters * DTYPE_BYTES[setup.dtype]
    states = 2 * weights if setup.lora is None and setup.optimizer == "adamw" else 0
    if setup.sharding in ("fsdp", *FLAT):
        return (weights + states) // setup.world_size
    return weights + (states if setup.world_size == 1 else 0)


class Limits:
    """The smallest micro-batch of each row that does not fit some cards: of a higher rank it does
    not fit either, and needs not be worked out."""

    def __init__(self) -> None:
        self._refused: dict[tuple[object, ...], int] = {}

    def allows(self, setup: TrainSetup) -> bool:
        refused = self._refused.get(_row(setup))
        return refused is None or setup.batch_size < refused

    def refuse(self, setup: TrainSetup) -> None:
        self._refused[_row(setup)] = setup.batch_size


def _row(setup: TrainSetup) -> tuple[object, ...]:
    return setup.checkpointing, setup.loss, setup.sharding, setup.optimizer


@dataclass(frozen=True, slots=True)
class Cell:
    """The layouts of one method and rank that fit some cards, out of so many."""

    layouts: tuple[KnownWay, ...]
    considered: int


def cell(
    part: Part, workload: Workload, space: Space, rank: int | None, costs: Costs, limits: Limits
) -> Cell:
    """With the optimizer asked for; with 8-bit AdamW where that is AdamW, nobody insists on it, and
    it fits in no layout. Layouts that are sure not to fit are not worked out: `limits` knows those
    of lower ranks."""
    own = space.optimizer or workload.setup.optimizer
    fitting = _fitting(part, workload, space, rank, own, costs, limits)
    if fitting.layouts or own != "adamw" or space.optimizer is not None:
        return fitting
    if not _may_fit_in_8_bit(part, workload, space, rank, costs):
        return fitting
    more = _fitting(part, workload, space, rank, "adamw_8bit", costs, limits)
    return Cell(more.layouts, fitting.considered + more.considered)


def _fitting(
    part: Part,
    workload: Workload,
    space: Space,
    rank: int | None,
    optimizer: str,
    costs: Costs,
    limits: Limits,
) -> Cell:
    layouts, considered = list[KnownWay](), 0
    for row in setups_of(workload.setup, space, part.cards, optimizer, rank):
        considered += len(row)
        if least_bytes(workload.model, row[0]) > part.usable_bytes:
            continue
        for setup in filter(limits.allows, row):
            layout = costs.layout(workload, setup)
            if layout is not None and not part.fits(layout):
                limits.refuse(setup)
                break
            if layout is not None:
                layouts.append(layout)
    return Cell(tuple(layouts), considered)


def _may_fit_in_8_bit(
    part: Part, workload: Workload, space: Space, rank: int | None, costs: Costs
) -> bool:
    """Whether what 8-bit states can save could make any layout fit."""
    for row in setups_of(workload.setup, space, part.cards, "adamw", rank):
        in_8_bit = replace(row[0], optimizer="adamw_8bit", optimizer_impl="foreach")
        if least_bytes(workload.model, in_8_bit) > part.usable_bytes:
            continue
        layout = costs.layout(workload, row[0])
        if layout is None:
            continue
        if layout.peak_bytes - MOST_SAVED_BYTES_PER_PARAMETER * layout.trained <= part.usable_bytes:
            return True
    return False
