"""Rates of a device as small probes find them in a process of its own, and the roofline's values
made of them."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median
from tempfile import TemporaryFile

from lora_profiler.harness.preflight import MeasurementError
from lora_profiler.harness.provenance import without_paths
from lora_profiler.harness.runner import child_environment
from lora_profiler.records.decode import RecordError, decoded
from lora_profiler.records.record import Record
from lora_profiler.steptime import Fixed, Rates
from lora_profiler.workload import Device, Dtype

CHILD = (sys.executable, "-m", "lora_profiler.calibration.probes")
TIMEOUT_SECONDS = 120.0
LOG_CHARACTERS = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class Micro:
    """Bytes/s and FLOP/s that were measured; None where the device has no such thing.

    bandwidth, cached_bandwidth: of a sum of two tensors that lie in memory, and in the last cache
    (a CPU's alone). cache_bytes: of that cache, 0 where the system does not tell. fresh_bandwidth:
    of the first writing of memory that the system hands out anew, beyond the writing itself.
    products: of large products by dtype. narrow: (shortest side, share of the large product's rate)
    of float32 products, on a CPU. attention_dtype: the dtype that the device trains in, float32 on
    a CPU, on a card the 16-bit one that it multiplies in. attention_forward, attention_backward:
    FLOP/s of causal fused attention in it, as `roofline` counts them. dequantisation: bytes/s of
    NF4 with double quantisation; None without bitsandbytes. operators: bytes/s of operators that
    compute longer than they move, by name, from the cache where there is one.
    """

    bandwidth: float
    products: Mapping[Dtype, float]
    attention_dtype: Dtype
    attention_forward: float
    attention_backward: float
    cached_bandwidth: float | None = None
    cache_bytes: int = 0
    fresh_bandwidth: float | None = None
    narrow: tuple[tuple[float, ...], ...] = ()
    dequantisation: float | None = None
    operators: Mapping[str, float] = field(default_factory=dict)


def measured_micro(
    device: Device,
    progress: Callable[[str], None] = lambda probe: None,
    child: tuple[str, ...] = CHILD,
) -> Micro:
    """Starts the probes on `device` and waits for them; `progress` is told the name of each before
    it begins.

    Raises MeasurementError where they do not come to their end.
    """
    last: list[str] = []
    with TemporaryFile() as log:
        process = subprocess.Popen(
            [*child, device],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=child_environment(None),
            text=True,
        )
        limit = threading.Timer(TIMEOUT_SECONDS, process.kill)
        limit.start()
        try:
            assert process.stdout is not None
            with process.stdout as lines:
                for line in lines:
                    last.append(line)
                    if line.startswith('{"probe"'):
                        progress(str(json.loads(line)["probe"]))
            code = process.wait()
        finally:
            limit.cancel()
            process.kill()
            process.wait()
        log.seek(0)
        output = log.read().decode("utf-8", "replace")[-LOG_CHARACTERS:]
    try:
        micro: Micro = decoded(Micro, json.loads(last[-1])["micro"], "micro")
    except (IndexError, KeyError, ValueError, RecordError) as e:
        why = without_paths(output).strip() or str(e)
        raise MeasurementError(f"the probes on {device} ended with code {code}: {why}") from None
    return micro


# --- as rates of the roofline ---------------------------------------------------------------------


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
    phases = {phase: median(seconds) for phase, seconds in tiny.measurement.phase_seconds.items()}
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
