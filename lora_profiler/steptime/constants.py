"""What turns bytes and FLOPs into seconds: two fitted constants for a family of cards, values
that are fixed, and which of them a card takes.

`eta` is the share of a card's dense peak that large 16-bit products reach, `beta` the share of its
bandwidth that large copies reach. Only these two were ever fitted to measured steps. The others are
fixed, each with what supports it; where they rest on public rows, these are rows of
`benchmarks/public_rows`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

from lora_profiler.facts.catalog import Gpu, find_gpu
from lora_profiler.question.gpu_platform import BFLOAT16_CAPABILITY

FRESH_BYTES = 32 * 2**20
"""From here on every tensor on a CPU is mapped by itself, so that its memory comes anew from the
system each time, page by page: glibc's largest threshold of mmap (malloc.c,
DEFAULT_MMAP_THRESHOLD_MAX). Of smaller ones its heap keeps some and gives back others, by what lies
at its end; none is counted.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """What is not fitted. Shares are of the peak or of the bandwidth, times in seconds.

    attention_forward, attention_backward: share of `eta` that fused attention reaches; Qwen-7B from
    1,024 to 8,192 tokens wants
        0.54 of the peak on average over both.
    fp32_product: share of the float32 peak that float32 products reach, TF32 being off by default
    in torch; cuBLAS' usual figure
        on datacentre cards (BERT on V100 wants 0.87). None where `eta` is theirs too: a CPU has one
        kind of unit for all.
    dequantisation: share of the bandwidth that bitsandbytes' NF4 kernels reach; QLoRA rows against
    LoRA rows of one model want
        0.25 to 0.33.
    launch: of one kernel, by Python, autograd and the driver; it belongs to the host. 22 us with
    torch 2.0, below 15 with 2.13. step: what a step takes beside micro-batches and update: data,
    scheduler, logging. Rows want 0 to 80 ms. cached_share, cached_part: a kernel whose bytes fit
    into this part of the L2 cache saves this share of its time: it runs 2.5
        times faster.
    """

    attention_forward: float = 0.85
    attention_backward: float = 0.68
    fp32_product: float | None = 0.70
    dequantisation: float = 0.25
    launch_seconds: float = 15e-6
    step_seconds: float = 0.030
    cached_share: float = 0.6
    cached_part: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """`cards` are the keys of the cards whose measured steps `eta` and `beta` were fitted to,
    `rows` the ids of those steps: what was fitted is no test."""

    family: str
    eta: float
    beta: float
    cards: tuple[str, ...] = ()
    rows: tuple[str, ...] = ()
    fixed: Fixed = Fixed()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a card can do at most: bytes/s, FLOP/s, bytes of L2 cache and multiprocessors, 0 where
    nobody says.

    `tensor_flops` is the dense peak of 16-bit products, `fp32_flops` that of float32 ones. The rest
    differs on a CPU:

    tile: longer and shorter side of the pieces that a product's result is rounded up to; (1, 1)
    where a loop ends anywhere. is_host: it launches its own kernels, so that launching takes its
    time away and never overlaps. l2_bytes: there the last cache before memory. fresh_bandwidth:
    bytes/s at which memory that the system hands out anew is first written, None where that costs
    nothing,
        as under CUDA's caching allocator.
    narrow: (shortest side, share of a large product's rate) of products with such a side, the
    narrowest first; a longer one
        than the last has the whole rate.
    operators: bytes/s of operators that compute longer than they move, by name.
    """

    bandwidth: float
    tensor_flops: float
    fp32_flops: float
    l2_bytes: int
    processors: int
    tile: tuple[int, ...] = (256, 128)
    is_host: bool = False
    fresh_bandwidth: float | None = None
    narrow: tuple[tuple[float, ...], ...] = ()
    operators: Mapping[str, float] = field(default_factory=dict)


_L2_MB = {
    "a100": 40,
    "h100": 50,
    "h200": 50,
    "gh200": 50,
    "l40": 96,
    "l40s": 96,
    "rtx_6000_ada": 96,
    "rtx_4090": 72,
    "rtx_3090": 6,
    "v100": 6,
}
"""L2 caches in MB (2^20 bytes), by the first words of a card's key; NVIDIA's architecture
papers."""
_PROCESSORS = {
    "a100": 108,
    "h100": 132,
    "h100_pcie": 114,
    "h200": 132,
    "gh200": 132,
    "l40": 142,
    "l40s": 142,
    "rtx_6000_ada": 142,
    "rtx_4090": 128,
    "rtx_3090": 82,
    "v100": 80,
}
"""Streaming multiprocessors that are switched on; the same papers."""


def rates_of(card: Gpu) -> Rates | None:
    """None where no source gives the card's bandwidth or peaks: then nothing is predicted."""
    tensor = card.bf16_dense_tflops or card.fp16_dense_tflops
    if card.bandwidth_gb_s is None or tensor is None or card.fp32_tflops is None:
        return None
    return Rates(
        bandwidth=card.bandwidth_gb_s * 1e9,
        tensor_flops=tensor * 1e12,
        fp32_flops=card.fp32_tflops * 1e12,
        l2_bytes=_of(card, _L2_MB) * 2**20,
        processors=_of(card, _PROCESSORS),
    )


def _of(card: Gpu, table: Mapping[str, int]) -> int:
    """The entry with the longest name that the card's key begins with; 0 for none."""
    named = [name for name in table if f"{card.key}_".startswith(f"{name}_")]
    return table[max(named, key=len)] if named else 0


# --- families -------------------------------------------------------------------------------------


_CONSTANTS = Path(__file__).parent / "data" / "constants.json"
Likeness = Literal["fitted", "same class", "other class"]
_FOREIGN = 0.40
"""Half-width for a card of a class without any fitted card: A100 constants are 20 to 41 % too slow
for steps on cards of half the rate, and off by -1 to +14 % on an L40S and by -13 to +29 % for
BERT's seven steps on a V100."""
_UNFITTED = 0.15
"""For a card like the fitted ones, beside their own. Two rows of an H100 are off by 1 and 3 %, five
of an L40 by 3 to 16 %: too few to promise less."""
HOSTS = 2**0.5
"""Nobody has seen a user's host: the slowest takes twice as long for a launch as the fastest, the
usual launch being in the middle. So far apart are single threads of servers' processors of one
decade, and of desktops'; a launch is Python, autograd and the driver on one."""
_UNSTATED = 0.10
"""For kernels that nobody has said, or that a compiler makes."""
_CHIPS_OF_GAMES = (86, 89, 120)
"""Compute capabilities of chips with GDDR memory; those for datacentres have HBM."""
_WHOLE_RATE = 3.0
"""Of these chips' 16-bit peaks over the float32 one: 2 where tensor cores add products in float32
at half the rate, 512 FLOPs a multiprocessor and clock, 4 where at the whole (NVIDIA's architecture
papers). The half rate is nearly reached, the whole is not: torch's products in bfloat16 take 163 to
173 of an RTX 4090's 165 TFLOP/s and 114 of an L20's 120, but 269 of an L40S's 362 and 234 to 265 of
an A100's 312 (github.com/zzc0721/torch-performance-test-data, `database.md`)."""


class Bundled(NamedTuple):
    """`half_width`: of the interval around what hosts within `HOSTS` take, as a share: what nine in
    ten rows are within whose model was left out, each model weighing the same, or whose source."""

    families: tuple[Constants, ...]
    half_width: float


@cache
def bundled() -> Bundled:
    data = json.loads(_CONSTANTS.read_text(encoding="utf-8"))
    return Bundled(
        families=tuple(
            Constants(
                family=f["family"],
                eta=f["eta"],
                beta=f["beta"],
                cards=tuple(f["cards"]),
                rows=tuple(f["rows"]),
            )
            for f in data["families"]
        ),
        half_width=data["half_width"],
    )


@cache
def constants_for(card: Gpu) -> tuple[Constants, Likeness]:
    """The constants of the fitted cards that `card` is one of, or is most like, and how like them
    it is."""
    of_class = {
        _class(find_gpu(key)): family
        for family in reversed(bundled().families)
        for key in family.cards
    }
    for family in bundled().families:
        if card.key in family.cards:
            return family, "fitted"
    like = of_class.get(_class(card))
    return (
        (like, "same class")
        if like and card.vendor == "nvidia"
        else (bundled().families[0], "other class")
    )


def _class(card: Gpu) -> str:
    """Cards before bfloat16 have other tensor cores, smaller caches and older kernels. Of chips
    with GDDR memory those of half the rate reach shares of their peak that others do not."""
    if card.capability is not None and card.capability < BFLOAT16_CAPABILITY:
        return "before bfloat16"
    if card.capability not in _CHIPS_OF_GAMES:
        return "datacentre"
    tensor, single = card.bf16_dense_tflops, card.fp32_tflops
    return "half rate" if tensor and single and tensor < _WHOLE_RATE * single else "graphics"


def half_width(likeness: Likeness, stated_kernels: bool = True) -> float:
    """Of the interval around the times that hosts within `HOSTS` take, as a share of the measured
    one."""
    if likeness == "other class":
        return _FOREIGN
    squares = (
        bundled().half_width ** 2
        + (_UNFITTED**2 if likeness == "same class" else 0)
        + (0 if stated_kernels else _UNSTATED**2)
    )
    return float(squares**0.5)
