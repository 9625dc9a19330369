"""What real models answer, cell by cell: the measures of `oracle` and fresh traces, read from the
recorded file where `recording` lets them."""

import json
import warnings
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from lora_profiler.facts.catalog import model_from_config
from lora_profiler.memory.kernels import Gemm, StepKernels
from lora_profiler.memory.prediction import FlopCount
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.workload import LoraConfig, TrainSetup, Workload
from recording import measure

Config = Mapping[str, Any]
REAL = ("tests/oracle.py", "lora_profiler/trace/modeling")
TRACED = (*REAL, "lora_profiler/trace", "lora_profiler/memory/compiled")


# --- real steps -----------------------------------------------------------------------------------


@measure(*REAL)
def saved(config: Config, setup: TrainSetup) -> Any:
    import oracle

    return _rows(oracle.saved_by_storage(oracle.build(config, setup), setup))


@measure(*REAL)
def saved_by_the_second_pass(config: Config, setup: TrainSetup) -> Any:
    import oracle

    model = oracle.build(config, setup)
    oracle.forward(model, setup, oracle.make_batch(model, setup))
    return _rows(oracle.saved_by_storage(model, setup))


def _rows(storages: list[Any]) -> Any:
    """Equal storages together, with how many they are: as much as any test asks."""
    counts = Counter(
        (s.bytes, s.module, str(s.dtype).removeprefix("torch."), s.shape) for s in storages
    )
    return [[*key, count] for key, count in counts.items()]


def saved_storages(config: Config, setup: TrainSetup) -> list[Any]:
    """`oracle.saved_by_storage`, equal ones after each other."""
    import torch

    import oracle

    return [
        oracle.Saved(size, module, getattr(torch, dtype), tuple(shape))
        for size, module, dtype, shape, count in saved(config, setup)
        for _ in range(count)
    ]


def saved_bytes(config: Config, setup: TrainSetup) -> int:
    return sum(row[0] * row[-1] for row in saved(config, setup))


def saved_bytes_of_the_second_pass(config: Config, setup: TrainSetup) -> int:
    """In a first pass 4-bit layers replace biases that the k-bit recipe made float32."""
    return sum(row[0] * row[-1] for row in saved_by_the_second_pass(config, setup))


@measure(*REAL)
def flops(config: Config, setup: TrainSetup) -> Any:
    import oracle

    return oracle.flops(oracle.build(config, setup), setup)


@measure(*REAL)
def forward_flops_of_linears(config: Config, setup: TrainSetup) -> Any:
    import torch

    import oracle

    model = oracle.build(config, setup)
    counts = oracle.forward_flops_by_module(model, setup)
    return {
        name: counts[name]
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"
    }


@measure(*REAL)
def persistent(config: Config, setup: TrainSetup) -> Any:
    """(parameter, gradient, optimizer state) bytes by name, and those of quantisation states."""
    import oracle

    model = oracle.build(config, setup)
    sizes = oracle.persistent_bytes(model, setup, oracle.make_optimizer(model, setup))
    return {"sizes": sizes, "states": oracle.quantization_state_bytes(model)}


@measure(*REAL, by_processor=True)
def step_peaks(config: Config, setup: TrainSetup, source: str = "allocator") -> Any:
    import oracle

    found = oracle.step_peaks(oracle.build(config, setup), setup, source=source)
    return [[*key, size] for key, size in found.items()]


def peaks(config: Config, setup: TrainSetup) -> dict[tuple[int, str], int]:
    """`oracle.step_peaks`: of the CPU allocator, by step and phase."""
    return {(step, phase): size for step, phase, size in step_peaks(config, setup)}


@measure(*REAL)
def step_peaks_without_onednn(config: Config, setup: TrainSetup) -> Any:
    import torch

    import oracle

    with torch.backends.mkldnn.flags(enabled=False):
        found = oracle.step_peaks(oracle.build(config, setup), setup)
    return [[*key, size] for key, size in found.items()]


def peaks_without_onednn(config: Config, setup: TrainSetup) -> dict[tuple[int, str], int]:
    """What oneDNN takes inside a 16-bit product differs by processor."""
    found = step_peaks_without_onednn(config, setup)
    return {(step, phase): size for step, phase, size in found}


def tensor_peaks(config: Config, setup: TrainSetup) -> dict[tuple[int, str], int]:
    """The same of tensors alone, without the scratch of kernels."""
    return {(step, phase): size for step, phase, size in step_peaks(config, setup, "dispatch")}


@measure(*REAL)
def trains(config: Config, setup: TrainSetup) -> Any:
    """Whether two steps leave a loss, and one that is not half as large again."""
    import oracle

    model = oracle.build(config, setup)
    batch = oracle.make_batch(model, setup)
    before = oracle.forward(model, setup, batch).item()
    oracle.run_steps(model, setup, oracle.make_optimizer(model, setup), batch, 2)
    return 0 < oracle.forward(model, setup, batch).item() < 1.5 * before


# --- traces of real models ------------------------------------------------------------------------


class TracedStep(NamedTuple):
    """What the rules are compared with."""

    moments: Mapping[str, int]
    flops: FlopCount
    saved_activation_bytes: int
    attention_kernel: str | None
    peak_bytes: int


@measure(*TRACED)
def trace(config: Config, setup: TrainSetup, platform: Platform) -> Any:
    from lora_profiler.trace.single_size import predict_once

    found = predict_once(_workload(config, setup, platform))
    assert found.flops is not None
    flops = found.flops
    return [
        {m.moment: m.total_bytes for m in found.moments if m.step == "steady"},
        [flops.forward, flops.backward, flops.recompute, flops.tokens],
        found.saved_activation_bytes,
        found.attention_kernel,
        found.peak.total_bytes,
    ]


def traced(config: Config, setup: TrainSetup) -> TracedStep:
    moments, flops, *rest = trace(config, setup, Platform())
    counts = dict(zip(("forward", "backward", "recompute", "tokens"), flops, strict=True))
    return TracedStep(moments, FlopCount(**counts), *rest)


KernelCounts = Counter[tuple[Any, ...]]


def by_kernel(kernels: StepKernels) -> KernelCounts:
    """How often each kernel runs, by all that its time depends on."""
    found: KernelCounts = Counter()
    for k in kernels.kernels:
        sizes = (k.read_bytes, k.written_bytes)
        found[k.phase, k.kind, *sizes, k.gemm, k.flops, k.dtype, k.parameters] += k.count
    return found


@measure(*TRACED)
def kernels(config: Config, setup: TrainSetup, platform: Platform) -> Any:
    from lora_profiler.trace.kernels import step_kernels

    step = step_kernels(_workload(config, setup, platform))
    rows = [
        [*key[:4], gemm and [gemm.batches, gemm.m, gemm.n, gemm.k], *key[5:], count]
        for key, count in by_kernel(step).items()
        for gemm in key[4:5]
    ]
    return {"kernels": rows, "tokens": step.tokens, "trainable": list(step.trainable.items())}


def traced_kernels(workload: Workload) -> tuple[KernelCounts, int, dict[int, int]]:
    """Counts of `by_kernel`, tokens of the micro-batch, elements that train by their bytes."""
    found = kernels(workload.model.published, workload.setup, workload.platform)
    counts: KernelCounts = Counter()
    for *before, gemm, flops, dtype, parameters, count in found["kernels"]:
        product = gemm and dict(zip(("batches", "m", "n", "k"), gemm, strict=True))
        counts[*before, product and Gemm(**product), flops, dtype, parameters] = count
    return counts, found["tokens"], dict(map(tuple, found["trainable"]))


def _workload(config: Config, setup: TrainSetup, platform: Platform) -> Workload:
    model = model_from_config(dict(config), id="oracle", source="test")
    return Workload(model=model, setup=setup, platform=platform)


# --- PEFT -----------------------------------------------------------------------------------------


@measure()
def peft(config: Config, lora: LoraConfig) -> Any:
    """Trainable weights by name and shape, or the name of PEFT's exception."""
    import copy

    import peft

    targets = lora.target_modules
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            adapter = peft.LoraConfig(
                r=lora.r,
                lora_dropout=lora.lora_dropout,
                target_modules=list(targets) if isinstance(targets, tuple) else targets,
                layers_to_transform=list(lora.layers_to_transform) or None,
                modules_to_save=list(lora.modules_to_save) or None,
                target_parameters=list(lora.target_parameters) or None,
            )
            model = peft.get_peft_model(copy.deepcopy(_base(json.dumps(config))), adapter)
        except Exception as e:
            return type(e).__name__
    return sorted((n, p.shape) for n, p in model.named_parameters() if p.requires_grad)


@cache
def _base(config: str) -> Any:
    """A real model without weights. PEFT changes it in place, so each use takes a copy."""
    import torch
    import transformers

    raw = json.loads(config)
    real = transformers.CONFIG_MAPPING[raw["model_type"]].from_dict(raw)
    with torch.device("meta"):
        if "architectures" in raw:
            return getattr(transformers, raw["architectures"][0])(real)
        return transformers.AutoModelForCausalLM.from_config(real)
