"""A device calibrated: probes and the rates made of them, a tiny step, six training steps, eta
and beta fitted to them, errors with each model left out."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import ceil
from statistics import median
from tempfile import TemporaryFile
from typing import Any

from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog import Gpu, find_gpu, model_from_config
from lora_profiler.measuring.harness import MeasurementError, measure
from lora_profiler.measuring.harness.environment import without_paths
from lora_profiler.measuring.harness.runner import child_environment
from lora_profiler.measuring.records.record import Conditions, Record, now
from lora_profiler.measuring.records.serialize import RecordError, decoded
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.workload import (
    Device,
    Dtype,
    LoraConfig,
    Quantization,
    TrainSetup,
    Workload,
)
from lora_profiler.steptime import Constants, Fixed, Rates, rates_of
from lora_profiler.steptime.fit import (
    LocalConstants,
    Measured,
    Provenance,
    cpu_key,
    fit,
    key_of,
    leave_out,
)
from lora_profiler.steptime.roofline import loaded, step_of

CHILD = (sys.executable, "-m", "lora_profiler.steptime.calibration.probes")
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


Progress = Callable[[str, int, int], None]
"""Told what begins, how many pieces of work are done, and of how many."""
STEP_TIMEOUT_SECONDS = 180.0
LEAST_HALF_WIDTH = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedStep:
    """A training step that the constants were fitted to. `error`: (predicted - measured) / measured
    by the constants of the steps of all other models."""

    workload: Workload
    record: Record
    error: float

    @property
    def seconds(self) -> float:
        return _seconds(self.record)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What was found, and everything that it was found in. `failed`: steps that did not run to
    their end."""

    local: LocalConstants
    micro: Micro
    steps: tuple[FittedStep, ...]
    failed: tuple[Record, ...]

    @property
    def was_disturbed(self) -> bool:
        """Whether others took processor time while steps were timed."""
        return any("busy_machine" in step.record.measurement.flags for step in self.steps)


def calibrate(device: Device, progress: Progress = lambda what, done, total: None) -> Calibration:
    """Measures `device` ("cpu" or "cuda") and fits its constants; keeps nothing. Two or three
    minutes.

    Raises MeasurementError where the device cannot be measured, or too few steps run through.
    """
    micro, records = _measured(device, progress)
    first, *others = records
    rates, card = _rates(first, micro)
    progress("tracing the steps", len(records) + 1, len(records) + 2)
    # not before the last step is measured: torch takes memory and processors
    from lora_profiler.trace.kernels import recorded

    fixed = measured_fixed(micro, rates, first, recorded(first.workload).launches)
    ran = [record for record in others if record.measurement.went_through]
    steps = [step_of(recorded(record.workload), record.workload.setup) for record in ran]
    rows = [
        Measured(r.case_key, loaded(step, rates, fixed), _seconds(r))
        for r, step in zip(ran, steps, strict=True)
    ]
    groups = {record.case_key: record.workload.model.id for record in ran}
    if len(set(groups.values())) < 2:
        raise MeasurementError(
            "too few training steps ran through to fit constants; free memory on the device, and"
            " try again."
        )
    try:
        fitted, errors = fit(rows), leave_out(rows, groups)
    except UsageError as e:
        raise MeasurementError(
            f"the measured steps fix no constants: {e} Is the machine busy?"
        ) from None
    key = _key(first, card)
    constants = Constants(
        family=key,
        eta=fitted.eta,
        beta=fitted.beta,
        cards=(card.key,) if card else (),
        rows=tuple(sorted(fitted.rows)),
        fixed=fixed,
    )
    local = LocalConstants(
        key=key,
        rates=rates,
        constants=constants,
        half_width=max(LEAST_HALF_WIDTH, ceil(100 * max(map(abs, errors.values()))) / 100),
        errors=errors,
        provenance=_provenance(first),
    )
    steps_with_errors = tuple(
        FittedStep(workload=r.workload, record=r, error=errors[r.case_key]) for r in ran
    )
    return Calibration(
        local=local,
        micro=micro,
        steps=steps_with_errors,
        failed=tuple(r for r in others if r not in ran),
    )


def _measured(device: Device, progress: Progress) -> tuple[Micro, list[Record]]:
    """The probes, the tiny step's record and those of the steps to fit. The number of steps is
    known before the first probe."""
    total = 1 + 1 + FIT_CASES + 1
    micro = measured_micro(device, lambda probe: progress(f"probing {probe}", 0, total))
    records: list[Record] = []
    dtype = micro.attention_dtype
    for workload in (
        tiny(device, dtype),
        *fit_cases(device, dtype, four_bit=micro.dequantisation is not None),
    ):
        progress(_name(workload), len(records) + 1, total)
        record = measure(workload, CONDITIONS, timeout_seconds=STEP_TIMEOUT_SECONDS)
        if not records and not record.measurement.went_through:
            failure = record.measurement.failure
            raise MeasurementError(
                f"nothing could be trained on {device}:"
                f" {failure.reason if failure else 'nobody knows why'}."
            )
        records.append(record)
    return micro, records


def _seconds(record: Record) -> float:
    return median(record.measurement.step_seconds)


def _name(workload: Workload) -> str:
    setup = workload.setup
    return (
        f"training {workload.model.id}, {setup.method}, {setup.batch_size} x {setup.seq_len:,}"
        " tokens"
    )


def _rates(record: Record, micro: Micro) -> tuple[Rates, Gpu | None]:
    """The card's published peaks and the card, where the catalogue knows it; else what was
    measured."""
    device = record.environment.device
    if device.kind == "cpu":
        return measured_rates(micro, is_cpu=True), None
    try:
        card = find_gpu(device.name)
    except UsageError:
        return measured_rates(micro, is_cpu=False), None
    published = rates_of(card)
    return published or measured_rates(micro, is_cpu=False), card


def _key(record: Record, card: Gpu | None) -> str:
    device = record.environment.device
    if device.kind == "cpu":
        return cpu_key()
    return card.key if card else key_of(device.name)


def _provenance(record: Record) -> Provenance:
    environment = record.environment
    return Provenance(
        device=environment.device.name,
        cpu=environment.cpu,
        threads=environment.threads,
        torch=environment.packages.get("torch", "unknown"),
        packages=environment.packages,
        platform=environment.platform,
        measured_at=now(),
    )


# --- the training steps that constants are fitted to ----------------------------------------------
# Two made-up models, {full, LoRA, QLoRA} x {few, many tokens}, and a tiny one. Each method and each
# size meets both models, so that leaving one model out leaves every kind of step in. The tiny
# model's kernels do next to nothing: what its step takes is launching them.


CONDITIONS = Conditions(memory_steps=2, min_timed_steps=6, max_timing_seconds=3.0)
FIT_CASES = 6
_TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def _llama(
    hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocabulary: int
) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        **_TOKENS,
    }


def _neox(hidden: int, layers: int, heads: int, vocabulary: int) -> dict[str, Any]:
    """LayerNorm, GELU and biases, where Llama has RMSNorm and SiLU and none."""
    return {
        "model_type": "gpt_neox",
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": 4096,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        **_TOKENS,
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sizes:
    """Configs by name; (batch, tokens) of a small and of a large step."""

    models: Mapping[str, dict[str, Any]]
    small: tuple[int, int]
    large: tuple[int, int]


_SIZES: Mapping[Device, _Sizes] = {
    "cpu": _Sizes(
        models={"llama": _llama(384, 1024, 4, 6, 2, 12_000), "neox": _neox(320, 4, 5, 20_000)},
        small=(1, 96),
        large=(3, 256),
    ),
    "cuda": _Sizes(
        models={"llama": _llama(2048, 5632, 8, 16, 4, 32_000), "neox": _neox(2048, 8, 16, 50_000)},
        small=(1, 1024),
        large=(4, 2048),
    ),
}
"""On a CPU a step takes a fraction of a second; on a card it fills the multiprocessors and fits
into 24 GiB."""


def tiny(device: Device, dtype: Dtype) -> Workload:
    model = _model("tiny", _llama(32, 64, 4, 2, 2, 64))
    return Workload(model=model, setup=_setup(device, dtype, LoraConfig(r=4), (1, 8)))


def fit_cases(device: Device, dtype: Dtype, four_bit: bool) -> tuple[Workload, ...]:
    """In `dtype`, the one that the probes name. Without a 4-bit base that works, checkpointed LoRA
    stands for QLoRA: it too repeats what a forward pass does.

    Full steps in float16 are SGD's: without a scaled loss AdamW's are NaN from the second on, and
    only their update differs.
    """
    sizes = _SIZES[device]
    llama, neox = (_model(name, config) for name, config in sizes.models.items())
    full, lora = (
        _setup(device, dtype, adapter, sizes.small) for adapter in (None, LoraConfig(r=16))
    )
    if dtype == "float16":
        full = replace(full, optimizer="sgd")
    third = (
        replace(lora, quantization=Quantization())
        if four_bit
        else replace(lora, checkpointing=True)
    )
    turns = ((llama, full, neox), (neox, lora, llama), (llama, third, neox))
    few = [Workload(model=model, setup=setup) for model, setup, _ in turns]
    batch, tokens = sizes.large
    many = [
        Workload(model=model, setup=replace(setup, batch_size=batch, seq_len=tokens))
        for _, setup, model in turns
    ]
    return (*few, *many)


def _model(name: str, config: Mapping[str, Any]) -> ModelSpec:
    return model_from_config(dict(config), id=f"calibration-{name}", source="file")


def _setup(
    device: Device, dtype: Dtype, lora: LoraConfig | None, size: tuple[int, int]
) -> TrainSetup:
    return TrainSetup(lora=lora, dtype=dtype, device=device, batch_size=size[0], seq_len=size[1])
