"""What ranks send each other in a step, and how long a link takes for it at least."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lora_profiler.catalog.gpus import Gpu
from lora_profiler.errors import UsageError, did_you_mean
from lora_profiler.prediction import Prediction, Traffic
from lora_profiler.units import is_finite, shown

GB = 10**9
LINKS: Mapping[str, int] = {
    "nvlink3": 300 * GB, "nvlink4": 450 * GB, "nvlink5": 900 * GB, "pcie3": 16 * GB,
    "pcie4": 32 * GB, "pcie5": 64 * GB, "hdr": 25 * GB, "ndr": 50 * GB, "100gbe": 12_500_000_000,
    "25gbe": 3_125_000_000,
}  # fmt: skip
"""Bytes a second that one card can send, one way, as the makers give them: NVLink of A100, H100 and
B200, PCIe with 16 lanes, InfiniBand HDR and NDR with four, Ethernet."""
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
    """The link of a key, or a rate as in 25GB/s. Raises UsageError for anything else."""
    if text in LINKS:
        return Network(key=text, bytes_per_second=LINKS[text])
    rate = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*GB/s", text, flags=re.IGNORECASE)
    if rate is None or round(float(rate[1]) * GB) == 0:
        close = did_you_mean(text[:60], LINKS)
        raise UsageError(
            f"interconnect is {shown(text)}; accepted: {', '.join(LINKS)}, or a rate such as"
            f" 25GB/s.{close}"
        )
    return Network(key=text, bytes_per_second=round(float(rate[1]) * GB))


def usual_network(card: Gpu) -> Network | None:
    """What cards like `card` send each other over inside one machine: NVLink where they are
    soldered to a board that has it, else the slot that they stand in; None where that is not known.

    Examples:
        >>> from lora_profiler import find_gpu
        >>> from lora_profiler.planning.network import usual_network
        >>> usual_network(find_gpu("h100_sxm_80gb")).key, usual_network(find_gpu("l40s")).key
        ('nvlink4', 'pcie4')
    """
    if "_sxm" in card.key or card.architecture == "blackwell_dc":
        link = _SXM_LINKS.get(card.architecture)
    else:
        link = None if card.key.startswith("gh200") else _SLOT_LINKS.get(card.architecture)
    return None if link is None else find_network(link)


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
