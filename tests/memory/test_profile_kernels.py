"""Kernels read off a profile, against the kernels of a fresh trace and against those that rules
count."""

from typing import Any

import pytest

from lora_profiler.errors import UncountedError
from lora_profiler.facts.catalog import find_gpu, find_model
from lora_profiler.memory.analytic.kernels import counted_kernels
from lora_profiler.memory.compiled.kernels import profile_kernels
from lora_profiler.memory.kernels import Kernel, StepKernels
from lora_profiler.planning.setups import setup_for
from lora_profiler.planning.timing import step_time
from lora_profiler.question.loop import nearest_traced
from lora_profiler.question.workload import LoraConfig, Quantization, TrainSetup, Workload
from lora_profiler.steptime import predict_step_time

pytestmark = pytest.mark.usefixtures("the_bundle")
GPU = find_gpu("rtx_4090")
OFF = 0.06
"""How far a step's time may be off for the models below; of all, `benchmarks/results/profile_times.md`
has the errors."""


def asked(name: str, method: Any) -> Workload:
    model = find_model(name, offline=True)
    setup = setup_for(model, "guide", method, batch_size=1, seq_len=2048)
    return Workload(model=model, setup=nearest_traced(setup))


def seconds(kernels: StepKernels, workload: Workload) -> float:
    time = predict_step_time(kernels, GPU, workload.setup)
    assert time is not None
    return time.seconds


def flops(kernels: StepKernels, *kinds: str) -> int:
    return sum(k.count * k.flops for k in kernels.kernels if k.kind in kinds)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("ibm-granite/granite-3.3-8b-instruct", "lora"),
        ("stabilityai/stablelm-2-1_6b", "qlora"),
        ("EleutherAI/gpt-j-6b", "full"),
        ("LiquidAI/LFM2-1.2B", "lora"),
        ("Qwen/Qwen1.5-MoE-A2.7B", "full"),
        ("tiiuae/Falcon-H1-0.5B-Instruct", "lora"),
    ],
)
def test_they_are_nearly_those_of_a_trace(name: str, method: str) -> None:
    pytest.importorskip("torch")
    from lora_profiler.trace.kernels import step_kernels

    workload = asked(name, method)
    read, traced = profile_kernels(workload), step_kernels(workload)
    assert read.trainable == traced.trainable
    assert read.trained_tensors == traced.trained_tensors
    assert read.launches == pytest.approx(traced.launches, rel=0.025)
    for kinds in (("gemm",), ("attention_forward",), ("attention_backward",)):
        assert flops(read, *kinds) == pytest.approx(flops(traced, *kinds), rel=0.02), kinds
    assert seconds(read, workload) == pytest.approx(seconds(traced, workload), rel=OFF)


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_they_are_nearly_those_that_rules_count(method: str, checkpointing: bool) -> None:
    setup = TrainSetup(
        lora=None if method == "full" else LoraConfig(r=16),
        quantization=Quantization() if method == "qlora" else None,
        batch_size=4,
        seq_len=2048,
        checkpointing=checkpointing,
    )
    workload = Workload(model=find_model("meta-llama/Llama-3.1-8B", offline=True), setup=setup)
    read, counted = profile_kernels(workload), counted_kernels(workload)
    assert read.trainable == counted.trainable
    assert written(read) == pytest.approx(written(counted), rel=0.015)  # some fill zeros first
    assert seconds(read, workload) == pytest.approx(seconds(counted, workload), rel=0.01)


def written(kernels: StepKernels) -> int:
    """Bytes that are written outside of products and attention."""

    def of(kernel: Kernel) -> int:
        return kernel.count * kernel.written_bytes if kernel.kind == "memory" else 0

    return sum(map(of, kernels.kernels))


def test_adapters_on_experts_are_not_timed() -> None:
    workload = asked("allenai/OLMoE-1B-7B-0924", "lora")
    with pytest.raises(UncountedError, match="on something else than a linear layer"):
        profile_kernels(workload)
    refusal = step_time(workload, GPU).refusal
    assert refusal is not None and "on something else than a linear layer" in refusal


def test_a_profile_whose_layers_do_not_repeat_is_not_timed() -> None:
    """Its products of two activations are not known by module."""
    setup = TrainSetup(batch_size=2, seq_len=512)
    workload = Workload(model=find_model("google-t5/t5-small", offline=True), setup=setup)
    with pytest.raises(UncountedError, match="no layers that repeat"):
        profile_kernels(workload)


def test_a_model_without_rules_has_a_time_in_a_wider_interval() -> None:
    """Ten percent wider, as where kernels are known by their bytes alone."""
    unruled = step_time(asked("ibm-granite/granite-3.3-8b-instruct", "lora"), GPU).step
    ruled = step_time(asked("meta-llama/Llama-3.1-8B", "lora"), GPU).step
    assert unruled is not None and ruled is not None
    assert unruled.kernels.is_estimate and not ruled.kernels.is_estimate
    wide, narrow = (s.time.high / s.time.seconds for s in (unruled, ruled))
    assert wide > 1.03 * narrow


def test_counted_over_its_modules_they_take_nearly_as_long() -> None:
    workload = asked("ibm-granite/granite-3.3-8b-instruct", "lora")
    steps = (step_time(workload, GPU, engine).step for engine in ("analytic", "auto"))
    counted, read_off = (step.time.seconds for step in steps if step is not None)
    assert counted == pytest.approx(read_off, rel=0.05)
