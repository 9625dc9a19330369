"""What probes and the tiny step found, as rates and fixed values of the roofline.

A card keeps the peaks that its maker publishes, and eta and beta say what it reaches of them.
Nobody publishes a CPU's, nor those of a card that the catalogue does not know: there the measured
rates are the peaks.
"""

from statistics import median

from lora_profiler.calibration.micro import Micro
from lora_profiler.records.record import Record
from lora_profiler.steptime import Fixed, Rates


def measured_rates(micro: Micro, *, is_cpu: bool) -> Rates:
    fp32 = micro.products["float32"]
    half = next(rate for dtype, rate in micro.products.items() if dtype != "float32")
    if not is_cpu:
        return Rates(
            bandwidth=micro.bandwidth, tensor_flops=half, fp32_flops=fp32, l2_bytes=0, processors=0
        )
    return Rates(
        bandwidth=micro.bandwidth,
        tensor_flops=half,
        fp32_flops=fp32,
        l2_bytes=micro.cache_bytes if micro.cached_bandwidth else 0,
        processors=0,
        tile=(1, 1),
        is_host=True,
        fresh_bandwidth=micro.fresh_bandwidth,
        narrow=micro.narrow,
        operators=micro.operators,
    )


def measured_fixed(micro: Micro, rates: Rates, tiny: Record, launches: int) -> Fixed:
    """`tiny` is the record of the tiny model's step, whose forward and backward pass launch
    `launches` kernels."""
    usual = Fixed()
    phases = {phase: median(found) for phase, found in tiny.measurement.phase_seconds.items()}
    product = micro.products[micro.attention_dtype]
    return Fixed(
        attention_forward=micro.attention_forward / product,
        attention_backward=micro.attention_backward / product,
        fp32_product=None if rates.is_host else micro.products["float32"] / rates.fp32_flops,
        dequantisation=(
            micro.dequantisation / rates.bandwidth if micro.dequantisation else usual.dequantisation
        ),
        launch_seconds=(phases["forward"] + phases["backward"]) / launches,
        step_seconds=phases["optimizer"] + phases["zero"],
        cached_share=_cached_share(micro) if rates.is_host else usual.cached_share,
        cached_part=usual.cached_part,
    )


def _cached_share(micro: Micro) -> float:
    """Of its time that a sum saves in the cache."""
    return max(0.0, 1 - micro.bandwidth / micro.cached_bandwidth) if micro.cached_bandwidth else 0.0
