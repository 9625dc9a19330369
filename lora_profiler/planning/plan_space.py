"""Every way to train that a plan looks at, and those of them that fit a card."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import product

from lora_profiler.errors import LoraProfilerError, UsageError
from lora_profiler.facts.catalog import Gpu
from lora_profiler.memory.analytic.forward_rules import AttentionKernels, attention_kernels
from lora_profiler.memory.compiled.regime import KernelChoice, kernel_choice
from lora_profiler.memory.kernels import StepKernels, lumped
from lora_profiler.planning.engine import (
    answers_without_trace,
    doubt_share,
    peak_bytes_checked,
    predict_checked,
    resized,
    rules_know,
)
from lora_profiler.planning.over_data import TIMED_PARTS, worst_batch
from lora_profiler.planning.placement import SHARDINGS, Cluster, Network, communication, world_sizes
from lora_profiler.planning.planned import (
    Amount,
    EstimateRange,
    KnownWay,
    Offer,
    PlannedTime,
    Space,
    divisors,
    link_of,
    sized,
)
from lora_profiler.planning.reserve import held_bytes, judge, reserve_for
from lora_profiler.planning.timing import TimedDevice, device_for, kernels_of, no_speed
from lora_profiler.question.batching.batches import Batches
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.support.bases import stored_base
from lora_profiler.question.support.check import check
from lora_profiler.question.support.sharded_precision import as_accelerate_shares
from lora_profiler.question.workload import DTYPE_BYTES, FLAT, Loss, Sharding, TrainSetup, Workload
from lora_profiler.steptime import step_time_at

# --- what each way costs --------------------------------------------------------------------------


_Kernels = AttentionKernels | KernelChoice


class Costs:
    """Of ways to train one model on `amount`; `engine` as in `predict`, and nothing is traced."""

    def __init__(self, amount: Amount, engine: str = "auto") -> None:
        self.amount, self._engine = amount, engine
        self.refusals: dict[str, str] = {}
        """By method, the first reason why a way could not be answered."""
        self.untimed: dict[str, dict[str, None]] = {}
        """The cards on which no step could be timed, by the reason."""
        self.timed = 0
        self._platforms: dict[tuple[_Kernels, tuple[int, int]], Platform] = {}
        self._layouts: dict[tuple[TrainSetup, Platform], KnownWay | None] = {}
        self._trained: dict[tuple[object, Platform], int] = {}
        self._held: dict[tuple[object, ...], int] = {}
        self._kernels: dict[tuple[TrainSetup, Platform], StepKernels] = {}
        self._sent: dict[tuple[TrainSetup, Platform], int] = {}
        self._batches: dict[tuple[int, int, int], Batches] = {}
        self._devices: dict[str, TimedDevice | None] = {}

    def shared(self, workload: Workload) -> Workload:
        """`workload` on the first platform that was met with the same attention kernels, which is
        all that its memory and its kernels know of a card."""
        platform = workload.platform
        of_rules = attention_kernels(workload) if rules_know(workload) else None
        key = of_rules or kernel_choice(workload, platform), platform.torch
        return replace(workload, platform=self._platforms.setdefault(key, platform))

    def layout(self, workload: Workload, setup: TrainSetup) -> KnownWay | None:
        """`workload` with `setup`; None for what is refused, and for what nobody knows the peak
        of."""
        key = setup, workload.platform
        if key not in self._layouts:
            self._layouts[key] = self._layout(replace(workload, setup=setup))
        return self._layouts[key]

    def _layout(self, workload: Workload) -> KnownWay | None:
        setup = workload.setup
        try:
            worst, steps = self._over_amount(workload)
            engine = self._answerer(worst)
            check(worst, engine)
            peak = peak_bytes_checked(worst, engine)
            return KnownWay(
                workload=workload,
                worst=worst,
                peak_bytes=peak,
                doubt_bytes=int(doubt_share(worst, engine) * peak),
                held_bytes=self._held_by(worst, engine),
                trained=self._trained_by(workload),
                steps=steps,
            )
        except LoraProfilerError as e:
            self.refusals.setdefault(setup.method, str(e))
            return None

    def _answerer(self, workload: Workload) -> str:
        """No plan may rest on a lower bound."""
        is_known = self._engine != "auto" or answers_without_trace(workload)
        return self._engine if is_known else "compiled"

    def _over_amount(self, workload: Workload) -> tuple[Workload, float]:
        """The workload whose memory counts, and the steps of the whole training."""
        setup, amount = workload.setup, self.amount
        if amount.data is None:
            tokens = setup.batch_size * setup.seq_len * setup.accumulation * setup.world_size
            return workload, amount.steps(tokens)
        batches = self._batches_of(setup)
        each = math.ceil(batches.num_batches / (setup.accumulation * setup.world_size))
        return worst_batch(workload, batches), amount.epochs * each

    def _batches_of(self, setup: TrainSetup) -> Batches:
        assert self.amount.data is not None
        key = setup.batch_size, setup.seq_len, setup.accumulation
        if key not in self._batches:
            self._batches[key] = self.amount.data.batches(setup)
        return self._batches[key]

    def _trained_by(self, workload: Workload) -> int:
        setup = workload.setup
        key = (setup.lora, setup.quantization), workload.platform
        if key not in self._trained:
            alone = replace(workload, setup=_alone(setup))
            self._trained[key] = predict_checked(alone, "analytic").parameters.trainable
        return self._trained[key]

    def _held_by(self, workload: Workload, engine: str) -> int:
        """The same for every batch, length, loss and checkpointing."""
        setup = workload.setup
        key = (
            *(setup.lora, setup.quantization, setup.dtype, setup.optimizer),
            *(setup.sharding, setup.world_size, workload.platform),
        )
        if key not in self._held:
            self._held[key] = held_bytes(predict_checked(workload, engine))
        return self._held[key]

    # --- time -------------------------------------------------------------------------------------

    def time(self, layout: KnownWay, gpu: Gpu, network: Network | None) -> PlannedTime | None:
        """The time of a step of `layout` on `gpu`, whose ranks are linked by `network`; None where
        it is not known."""
        device = self._device(layout.workload, gpu)
        if device is None:
            self._note_untimed(no_speed(gpu), gpu)
            return None
        low = middle = high = host = 0.0
        try:
            for sized, share in self._parts(layout):
                step = step_time_at(
                    self._kernels_of(sized),
                    layout.setup,
                    device.rates,
                    device.constants,
                    device.basis,
                    width=device.half_width,
                )
                low, high = low + share * step.low, high + share * step.high
                middle, host = middle + share * step.seconds, host + share * step.share_of_host
        except LoraProfilerError as e:
            self._note_untimed(f"the time of a step is not known: {e}", gpu)
            return None
        self.timed += 1
        sending = self._sending(layout, network)
        sent = sending or 0.0
        return PlannedTime(
            step=EstimateRange(low=max(low, sent), middle=middle + sent, high=high + sent),
            compute_seconds=middle,
            sending_seconds=sending,
            share_of_host=host,
            basis=device.basis,
        )

    def _note_untimed(self, reason: str, gpu: Gpu) -> None:
        self.untimed.setdefault(reason, {}).setdefault(gpu.key)

    def _parts(self, layout: KnownWay) -> list[tuple[Workload, float]]:
        """The batches whose times are averaged, with the share of each."""
        if self.amount.data is None:
            return [(layout.workload, 1.0)]
        batches, worst = self._batches_of(layout.setup), layout.worst
        return [
            (resized(worst, replace(worst.setup, seq_len=length), self._engine), share)
            for length, share in batches.parts(TIMED_PARTS)
        ]

    def _kernels_of(self, workload: Workload) -> StepKernels:
        """Those of a rank, which are those of a process alone; the optimizer launches none."""
        alone = replace(_alone(workload.setup), accumulation=min(workload.setup.accumulation, 2))
        key = replace(alone, optimizer="adamw", optimizer_impl="foreach"), workload.platform
        if key not in self._kernels:
            counted = kernels_of(replace(workload, setup=alone), "auto")
            self._kernels[key] = counted._replace(kernels=lumped(counted.kernels))
        return self._kernels[key]

    def _sending(self, layout: KnownWay, network: Network | None) -> float | None:
        setup = layout.setup
        if setup.world_size == 1:
            return 0.0
        if network is None:
            return None
        key = replace(setup, batch_size=1, checkpointing=False), layout.workload.platform
        if key not in self._sent:
            sent = communication(predict_checked(layout.worst, "analytic"))
            self._sent[key] = sent.sent_bytes if sent else 0
        return self._sent[key] / network.bytes_per_second

    def _device(self, workload: Workload, gpu: Gpu) -> TimedDevice | None:
        if gpu.key not in self._devices:
            self._devices[gpu.key] = device_for(workload, gpu)
        return self._devices[gpu.key]


def _alone(setup: TrainSetup) -> TrainSetup:
    """What one rank computes, with weights in bfloat16 where it gathers them in that."""
    if setup.precision == "fsdp-mixed":
        setup = replace(setup, sharding="ddp", precision="amp", dtype="bfloat16")
    return replace(setup, world_size=1, sharding="none")


# --- ways to train --------------------------------------------------------------------------------

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
        peak, held = layout.peak_bytes + layout.doubt_bytes, layout.held_bytes
        return self.usable_bytes - peak - reserve_for(self.cluster.gpu, peak, held).total_bytes

    def fits(self, layout: KnownWay) -> bool:
        peak, held = layout.peak_bytes + layout.doubt_bytes, layout.held_bytes
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
            first = as_accelerate_shares(first)
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


Row = tuple[object, ...]
"""Of layouts that differ in the micro-batch and the rank alone."""


def _row(setup: TrainSetup) -> Row:
    return setup.checkpointing, setup.loss, setup.sharding, setup.optimizer


@dataclass(frozen=True, slots=True)
class Cell:
    """The layouts of one method and rank that fit some cards, out of so many."""

    layouts: tuple[KnownWay, ...]
    considered: int


def cell(
    part: Part,
    workload: Workload,
    space: Space,
    rank: int | None,
    costs: Costs,
    limits: dict[Row, int],
) -> Cell:
    """With the optimizer asked for; with 8-bit AdamW where that is AdamW, nobody insists on it, and
    it fits in no layout. Layouts that are sure not to fit are not worked out: `limits` has the
    smallest micro-batch of each row that does not fit, nor does it at a higher rank."""
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
    limits: dict[Row, int],
) -> Cell:
    layouts, considered = list[KnownWay](), 0
    for row in setups_of(workload.setup, space, part.cards, optimizer, rank):
        considered += len(row)
        if least_bytes(workload.model, row[0]) > part.usable_bytes:
            continue
        refused = limits.get(_row(row[0]), math.inf)
        for setup in row:
            if setup.batch_size >= refused:
                break
            layout = costs.layout(workload, setup)
            if layout is not None and not part.fits(layout):
                limits[_row(setup)] = setup.batch_size
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
