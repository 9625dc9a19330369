"""Several cards for one model: which sharding takes how many, what each rank then holds, what ranks
send each other, and how long a step takes."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from lora_profiler.errors import UsageError, did_you_mean
from lora_profiler.facts.catalog import find_gpu
from lora_profiler.facts.catalog.gpus import Gpu
from lora_profiler.memory.prediction import Prediction, Traffic
from lora_profiler.planning.engine import on_card, predict
from lora_profiler.planning.reserve import Verdict, held_bytes, judge
from lora_profiler.planning.timing import step_time
from lora_profiler.question.support.sharded_precision import as_accelerate_shares
from lora_profiler.question.workload import Sharding, TrainSetup, Workload
from lora_profiler.units import is_finite, shown

GB = 10**9
LINKS: Mapping[str, int] = {
    "nvlink3": 300 * GB, "nvlink4": 450 * GB, "nvlink5": 900 * GB, "pcie3": 16 * GB,
    "pcie4": 32 * GB, "pcie5": 64 * GB, "hdr": 25 * GB, "ndr": 50 * GB, "100gbe": 12_500_000_000,
    "25gbe": 3_125_000_000,
}  # fmt: skip
"""Bytes a second that one card can send, one way, as the makers give them: NVLink of A100, H100 and
B200, PCIe with 16 lanes, InfiniBand HDR and NDR with four, Ethernet."""
_POWERS = {"M": 6, "G": 9, "T": 12}
MACHINE_CARDS = 8
"""The most GPUs that one machine has."""
_SXM_LINKS = {"ampere": "nvlink3", "hopper": "nvlink4", "blackwell_dc": "nvlink5"}
_SLOT_LINKS = {
    "volta": "pcie3",
    "turing": "pcie3",
    "ampere": "pcie4",
    "ada": "pcie4",
    "hopper": "pcie5",
    "blackwell": "pcie5",
}
"""By architecture, as NVIDIA's datasheets of the cards name them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """The link of each rank to the others; between machines the slowest counts."""

    key: str
    bytes_per_second: int

    def __post_init__(self) -> None:
        if not is_finite(self.bytes_per_second) or self.bytes_per_second <= 0:
            raise UsageError(
                f"interconnect {self.key[:60]!r} sends no number of bytes a second above 0."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Communication:
    """What one rank takes part in during an optimizer step. `seconds` is the least that the link
    takes for `sent_bytes`, None where no link was named: real collectives reach a share of its
    rate, and wait for the slowest rank.
    """

    traffic: tuple[Traffic, ...]
    sent_bytes: int
    network: Network | None
    seconds: float | None


def find_network(text: str) -> Network:
    """The link of a key, or a rate as in 25GB/s or 200Gbit/s: M, G or T, a small b for bits.
    Raises UsageError for anything else.

    Examples:
        >>> from lora_profiler.planning.placement import find_network
        >>> find_network("25GB/s").bytes_per_second, find_network("200Gbps").bytes_per_second
        (25000000000, 25000000000)
    """
    if text in LINKS:
        return Network(key=text, bytes_per_second=LINKS[text])
    rate = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*([MGTmgt])(B|b|bit)(?:/s|ps)", text)
    scale = 10 ** _POWERS[rate[2].upper()] / (1 if rate[3] == "B" else 8) if rate else 0
    if rate is None or round(float(rate[1]) * scale) == 0:
        close = did_you_mean(text[:60], LINKS)
        raise UsageError(
            f"interconnect is {shown(text)}; accepted: {', '.join(LINKS)}, or a rate such as"
            f" 25GB/s.{close}"
        )
    return Network(key=text, bytes_per_second=round(float(rate[1]) * scale))


def usual_network(card: Gpu) -> Network | None:
    """What cards like `card` send each other over inside one machine: NVLink where they are
    soldered to a board that has it, else the slot that they stand in; None where that is not known.

    Examples:
        >>> from lora_profiler import find_gpu
        >>> from lora_profiler.planning.placement import usual_network
        >>> usual_network(find_gpu("h100_sxm_80gb")).key, usual_network(find_gpu("l40s")).key
        ('nvlink4', 'pcie4')
    """
    if "_sxm" in card.key or card.architecture == "blackwell_dc":
        link = _SXM_LINKS.get(card.architecture)
    else:
        link = None if card.key.startswith("gh200") else _SLOT_LINKS.get(card.architecture)
    return None if link is None else find_network(link)


def link_among(card: Gpu, ranks: int, machines: int | None = None) -> Network | None:
    """The usual link among `ranks` GPUs of one machine; None of several machines, whose network
    nobody knows. Without `machines`, more than `MACHINE_CARDS` ranks need several."""
    inside = ranks <= MACHINE_CARDS if machines is None else machines == 1
    return usual_network(card) if inside else None


def communication(prediction: Prediction, network: Network | None = None) -> Communication | None:
    """What a rank of `prediction` sends in a step; None for a process alone.

    Ring algorithms, as NCCL takes for large tensors: an all-reduce of X sends 2 (W - 1) / W times
    X, the others half of that.
    """
    world_size = prediction.workload.setup.world_size
    if world_size == 1:
        return None
    sent = sum(traffic.sent_bytes(world_size) for traffic in prediction.traffic)
    seconds = None if network is None else sent / network.bytes_per_second
    return Communication(
        traffic=prediction.traffic, sent_bytes=sent, network=network, seconds=seconds
    )


SHARDINGS: tuple[Sharding, ...] = ("ddp", "zero1", "fsdp", "fsdp-no-reshard")
MOST_CARDS = 65_536
MOST_REMEDY_CARDS = 256
"""That are tried where a cluster is too small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Equal cards, `machines` times `cards_each`."""

    gpu: Gpu
    machines: int
    cards_each: int

    @property
    def cards(self) -> int:
        return self.machines * self.cards_each


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """One sharding of one setup over a number of ranks: what the fullest rank holds, and the
    verdict of its card."""

    prediction: Prediction
    verdict: Verdict

    @property
    def world_size(self) -> int:
        return self.prediction.workload.setup.world_size


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementOption:
    """A method under a sharding. `least` is on the fewest cards that it fits on, None where it fits
    on no number of them; `whole` is on all cards. Seconds are of a step on all cards, at least and
    at most: compute and sending hidden behind each other, and one after the other; without a link,
    of compute alone; None where the card's speed is not known.
    """

    sharding: Sharding
    least: Placement | None
    whole: Placement
    communication: Communication | None
    low_seconds: float | None
    high_seconds: float | None

    @property
    def tokens_per_second(self) -> tuple[float, float] | None:
        """Of the whole cluster, at least and at most."""
        if self.low_seconds is None or self.high_seconds is None:
            return None
        setup = self.whole.prediction.workload.setup
        tokens = setup.world_size * setup.batch_size * setup.seq_len * setup.accumulation
        return tokens / self.high_seconds, tokens / self.low_seconds


_CLUSTER = r"\s*(?:([0-9]{1,9})\s*[xX]\s*)?([0-9]{1,9})\s*[xX]\s*(\S.*?)\s*"


def is_cluster(text: str) -> bool:
    """Whether `text` names several cards, as in 8xh100."""
    return re.fullmatch(_CLUSTER, text) is not None


def find_cluster(text: str) -> Cluster:
    """'8xh100_sxm_80gb' or, of several machines, '16x8xh100_sxm_80gb'.

    Raises UsageError for what is no such thing, and for an unknown card.
    """
    match = re.fullmatch(_CLUSTER, text)
    if match is None:
        raise UsageError(
            f"{text[:60]!r} names no GPUs; write number x name: 8xh100_sxm_80gb, or"
            " 16x8xh100_sxm_80gb."
        )
    machines, cards_each = int(match[1] or 1), int(match[2])
    if not 1 <= machines * cards_each <= MOST_CARDS:
        raise UsageError(f"{text[:60]!r} is out of range; name 1 to {MOST_CARDS:,} GPUs.")
    gpu = find_gpu(match[3])
    if gpu.usable_bytes is None:
        raise UsageError(
            f"{gpu.key} is sold with several memory sizes; say which, as in 8xcustom:24GiB."
        )
    return Cluster(gpu=gpu, machines=machines, cards_each=cards_each)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRemedy:
    """What makes a setup fit that no sharding fits on a cluster: the fewest cards, those of the
    cluster if they can do, and whether checkpointing has to be switched on for it."""

    cards: int
    sharding: Sharding
    checkpointing: bool


def remedy(workload: Workload, cluster: Cluster) -> PlacementRemedy | None:
    """Of `workload`, which fits in no way on `cluster`: first with checkpointing, if it is off, on
    the cluster; then on as many more cards as it takes, doubled up to `MOST_REMEDY_CARDS`. None
    where that is not enough."""
    workload = on_card(workload, cluster.gpu)
    ways = [workload]
    if not workload.setup.checkpointing:
        ways.append(replace(workload, setup=replace(workload.setup, checkpointing=True)))
    within = list(world_sizes(cluster))
    beyond = list[int]()
    while (more := 2 * (beyond or within)[-1]) <= MOST_REMEDY_CARDS:
        beyond.append(more)
    asked = [(ways[-1], size) for size in within if len(ways) > 1]
    asked += [(way, size) for size in beyond for way in ways]
    for way, size in asked:
        for sharding in _shardings(way.setup, cluster):
            placed = _placed(way, sharding, size, cluster.gpu, "auto")
            if placed.verdict == "fits" and placed.prediction.is_whole:
                switched = way.setup.checkpointing and not workload.setup.checkpointing
                return PlacementRemedy(cards=size, sharding=sharding, checkpointing=switched)
    return None


def _placed(
    workload: Workload, sharding: Sharding, world_size: int, gpu: Gpu, engine: str
) -> Placement:
    shared = replace(
        workload.setup, world_size=world_size, sharding=sharding if world_size > 1 else "none"
    )
    shared = as_accelerate_shares(shared)
    prediction = predict(replace(workload, setup=shared), engine, may_trace=False)
    assert gpu.usable_bytes is not None
    peak = prediction.peak.total_bytes + prediction.doubt_bytes
    held = held_bytes(prediction)
    return Placement(prediction=prediction, verdict=judge(peak, gpu.usable_bytes, gpu, held))


def plan(
    workloads: Sequence[Workload],
    cluster: Cluster,
    network: Network | None = None,
    engine: str = "auto",
) -> list[PlacementOption]:
    """Every way to place each workload on the cluster, in the order of the workloads and of
    `SHARDINGS`; batch and sequence are a rank's.

    Raises UsageError where a workload says itself how it is sharded, and what `predict` raises.
    """
    if any(workload.setup.world_size > 1 for workload in workloads):
        raise UsageError(
            "the plan chooses world size and sharding; leave --world-size and --sharding out."
        )
    return [
        _option(on_card(workload, cluster.gpu), sharding, cluster, network, engine)
        for workload in workloads
        for sharding in _shardings(workload.setup, cluster)
    ]


def _shardings(setup: TrainSetup, cluster: Cluster) -> tuple[Sharding, ...]:
    if cluster.cards == 1:
        return ("none",)
    if setup.precision == "amp-float16":
        return ("ddp", "fsdp", "fsdp-no-reshard")  # under no other is float16 autocast known
    if setup.optimizer not in ("adamw", "sgd"):
        return ("ddp", "zero1")  # FSDP2's shards are not for the others
    return SHARDINGS


def _option(
    workload: Workload, sharding: Sharding, cluster: Cluster, network: Network | None, engine: str
) -> PlacementOption:
    def placed(world_size: int) -> Placement:
        return _placed(workload, sharding, world_size, cluster.gpu, engine)

    whole = placed(cluster.cards)
    least = next((p for p in map(placed, world_sizes(cluster)) if p.verdict == "fits"), None)
    sent = communication(whole.prediction, network)
    low, high = _seconds(whole.prediction, cluster.gpu, engine, sent)
    return PlacementOption(
        sharding=sharding,
        least=least,
        whole=whole,
        communication=sent,
        low_seconds=low,
        high_seconds=high,
    )


def world_sizes(cluster: Cluster) -> Iterator[int]:
    """Numbers of cards worth trying, from one up: powers of two within a machine, then whole
    machines, doubled each time."""
    size = 1
    while size < cluster.cards_each:
        yield size
        size *= 2
    machines = 1
    while machines < cluster.machines:
        yield machines * cluster.cards_each
        machines *= 2
    yield cluster.cards


def _seconds(
    prediction: Prediction, gpu: Gpu, engine: str, sent: Communication | None
) -> tuple[float, float] | tuple[None, None]:
    step = step_time(prediction.workload, gpu, engine, prediction).step
    if step is None:
        return None, None
    sending = (sent.seconds if sent else None) or 0.0
    return max(step.time.low, sending), step.time.high + sending
