"""MFU and HFU: the FLOPs of a step against what the card could do in the same time."""

from dataclasses import dataclass

from lora_profiler.catalog import Gpu, match_device
from lora_profiler.comparison.throughput import throughput
from lora_profiler.prediction import FlopCount
from lora_profiler.records.environment import REHEARSED, Device
from lora_profiler.records.record import Record
from lora_profiler.workload import TrainSetup

WHOLE_CARD = (None, "off")
"""What `record.Device.mig` says of a device that is no slice."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Utilisation:
    """Shares of the card's dense peak, at most 1. All count attention in full, not only its causal
    half.

    `mfu`: FLOPs that the method needs, forward and backward; `hfu`: with what checkpointing
    computes again. LoRA needs fewer FLOPs than full fine-tuning, so their MFU are not comparable:
    `mfu_full_equivalent` is the MFU that full fine-tuning would have at the same tokens per second
    (6 FLOPs a token and matrix weight), None where it was not asked for.
    """

    card: Gpu
    peak_flops: float
    mfu: float
    hfu: float
    mfu_full_equivalent: float | None


def card_of(device: Device) -> Gpu | None:
    """The whole card that a record's device is, None for processors, slices, pretended cards and
    those that the catalogue does not know."""
    if device.kind in ("cpu", REHEARSED) or device.mig not in WHOLE_CARD:
        return None
    return match_device(device.name, device.total_bytes)


def peak_flops(card: Gpu, setup: TrainSetup) -> float | None:
    """Dense peak in FLOP/s of the dtype in which the model's matrices are multiplied, None where no
    source gives it.

    bfloat16 under autocast. float32 is float32 itself, since torch leaves TF32 off; float32
    adapters are too small a part to change the peak that counts.
    """
    dtype = "bfloat16" if setup.precision != "pure" else setup.dtype
    tflops = {
        "float32": card.fp32_tflops,
        "float16": card.fp16_dense_tflops,
        "bfloat16": card.bf16_dense_tflops,
    }[dtype]
    return None if tflops is None else tflops * 1e12


def share_of_peak(flops: int, seconds: float, peak: float) -> float:
    """`flops` done in `seconds` as a share of `peak` FLOP/s."""
    return flops / (seconds * peak)


def utilisation(
    record: Record, flops: FlopCount | None, full_flops: FlopCount | None = None
) -> Utilisation | None:
    """The utilisation of a timed run, None where the time, the FLOPs or the card's peak are not
    known.

    `flops` are those of one micro-batch of the record's workload, `full_flops` those of full
    fine-tuning with the same sizes.
    """
    speed, card = throughput(record), card_of(record.environment.device)
    peak = peak_flops(card, record.workload.setup) if card else None
    if speed is None or flops is None or card is None or peak is None:
        return None
    micro_batch_seconds = speed.steps.median / record.workload.setup.accumulation
    return Utilisation(
        card=card,
        peak_flops=peak,
        mfu=share_of_peak(_model_flops(flops), micro_batch_seconds, peak),
        hfu=share_of_peak(flops.total, micro_batch_seconds, peak),
        mfu_full_equivalent=(
            share_of_peak(_model_flops(full_flops), micro_batch_seconds, peak)
            if full_flops
            else None
        ),
    )


def _model_flops(flops: FlopCount) -> int:
    """Without recomputation by checkpointing. What a fused attention kernel computes again in
    backward is still in it: half of attention's forward FLOPs, which no field of FlopCount keeps
    apart."""
    return flops.forward + flops.backward
