"""What turns bytes and FLOPs into seconds: two fitted constants for a family of cards, and values that are fixed.

`eta` is the share of a card's dense peak that large 16-bit products reach, `beta` the share of its bandwidth that large copies
reach. Only these two were ever fitted to measured steps. The others are fixed, each with what supports it; where they rest on
public rows, these are rows of `benchmarks/public_rows`.
"""

from dataclasses import dataclass
from typing import Literal

from lora_profiler.catalog import Gpu

CardClass = Literal["datacentre", "consumer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """What is not fitted. Shares are of the peak or of the bandwidth, times in seconds.

    attention_forward, attention_backward: share of `eta` that fused attention reaches; Qwen-7B from 1,024 to 8,192 tokens wants
        0.54 of the peak on average over both.
    fp32_product: share of the float32 peak that float32 products reach, TF32 being off by default in torch; cuBLAS' usual figure
        on datacentre cards (BERT on V100 wants 0.87).
    dequantisation: share of the bandwidth that bitsandbytes' NF4 kernels reach; QLoRA rows against LoRA rows of one model want
        0.25 to 0.33.
    launch: of one kernel, by Python, autograd and the driver; it belongs to the host. 22 us with torch 2.0, below 15 with 2.13.
    step: what a step takes beside micro-batches and update: data, scheduler, logging. Rows want 0 to 80 ms.
    cached_share, cached_part: a kernel whose bytes fit into this part of the L2 cache saves this share of its time: it runs 2.5
        times faster.
    """

    attention_forward: float = 0.85
    attention_backward: float = 0.68
    fp32_product: float = 0.70
    dequantisation: float = 0.25
    launch_seconds: float = 15e-6
    step_seconds: float = 0.030
    cached_share: float = 0.6
    cached_part: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """`rows` are the ids of the measurements that `eta` and `beta` were fitted to; what was fitted is no test."""

    family: str
    eta: float
    beta: float
    fixed: Fixed = Fixed()
    rows: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a card can do at most: bytes/s, FLOP/s, and bytes of L2 cache, 0 where nobody says.

    `tensor_flops` is the dense peak of 16-bit products, `fp32_flops` that of float32 ones.
    """

    bandwidth: float
    tensor_flops: float
    fp32_flops: float
    l2_bytes: int


_L2_MB = {"a100": 40, "h100": 50, "h200": 50, "gh200": 50, "l40": 96, "l40s": 96, "rtx_6000_ada": 96, "rtx_4090": 72,
          "rtx_3090": 6, "v100": 6}  # fmt: skip
"""L2 caches in MB (2^20 bytes), by the first words of a card's key; NVIDIA's architecture papers."""
_CONSUMER = ("rtx_3", "rtx_4", "rtx_5", "rtx_2", "gtx", "titan")
_WORKSTATION = ("rtx_4000_ada", "rtx_5000_ada", "rtx_6000_ada", "rtx_4500_ada", "rtx_2000_ada")


def rates_of(card: Gpu) -> Rates | None:
    """None where no source gives the card's bandwidth or peaks: then nothing is predicted."""
    tensor = card.bf16_dense_tflops or card.fp16_dense_tflops
    if card.bandwidth_gb_s is None or tensor is None or card.fp32_tflops is None:
        return None
    named = [name for name in _L2_MB if card.key == name or card.key.startswith(f"{name}_")]
    return Rates(
        bandwidth=card.bandwidth_gb_s * 1e9,
        tensor_flops=tensor * 1e12,
        fp32_flops=card.fp32_tflops * 1e12,
        l2_bytes=max((_L2_MB[name] for name in named), default=0) * 2**20,
    )


def class_of(card: Gpu) -> CardClass:
    """Consumer cards clock above their rated boost and reach shares of the peak that datacentre cards do not."""
    return "consumer" if card.key.startswith(_CONSUMER) and not card.key.startswith(_WORKSTATION) else "datacentre"
