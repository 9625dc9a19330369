"""Profiles under cuDNN's attention, made of those under flash attention, against fresh traces."""

from dataclasses import replace

import pytest

from lora_profiler.facts.catalog import find_gpu, find_model
from lora_profiler.memory.compiled.cudnn import under_cudnn
from lora_profiler.memory.compiled.profile import Profile
from lora_profiler.memory.compiled.regime import CUDNN, regime_of, under_flash
from lora_profiler.question.workload import LoraConfig, TrainSetup, Workload
from lora_profiler.trace.compiler import compile_profile, largest, moments_with
from lora_profiler.trace.modeling import build_model
from lora_profiler.trace.run import trace
from lora_profiler.trace.single_size import profile_of
from lora_profiler.trace.toys import at_depth

HOPPER = find_gpu("h100_sxm_80gb").platform()
BASE = TrainSetup(batch_size=2, seq_len=80)
LLAMA = "meta-llama/Llama-3.2-1B"
LORA = LoraConfig(r=4)


def workload(name: str, setup: TrainSetup, layers: int = 2) -> Workload:
    return Workload(model=at_depth(find_model(name, offline=True), layers), setup=setup)


def traced(asked: Workload) -> Profile:
    return profile_of(asked, trace(asked, lambda w: build_model(w, device="meta")))


@pytest.mark.parametrize(
    ("name", "setup"),
    [
        (LLAMA, replace(BASE, lora=LORA)),
        ("Qwen/Qwen2.5-0.5B", replace(BASE, checkpointing=True)),
        ("ibm-granite/granite-3.1-2b-base", replace(BASE, batch_size=1)),
        ("mistralai/Mixtral-8x7B-v0.1", replace(BASE, lora=LORA, checkpointing=True)),
    ],
)
def test_moments_are_those_of_a_trace(name: str, setup: TrainSetup) -> None:
    usual = workload(name, setup)
    hopper = replace(usual, platform=HOPPER)
    made, real = under_cudnn(traced(usual)), traced(hopper)
    assert made is not None
    assert made.kernels == real.kernels == ("cudnn",)
    mine, seen = moments_with(made, hopper), moments_with(real, hopper)
    assert largest(mine) == largest(seen)
    assert mine.saved_activation_bytes == seen.saved_activation_bytes
    assert under_flash(regime_of(hopper)) == regime_of(usual)
    assert regime_of(hopper).kernels == CUDNN


def test_folded_profiles_answer_for_any_depth() -> None:
    usual = workload(LLAMA, replace(BASE, lora=LORA), layers=6)
    made = under_cudnn(compile_profile(usual))
    assert made is not None
    deep = workload(LLAMA, usual.setup, layers=9)
    hopper = replace(deep, platform=HOPPER)
    mine, seen = moments_with(replace(made, num_layers=9), hopper), traced(hopper)
    real = moments_with(seen, hopper)
    assert largest(mine) == largest(real)
    assert mine.saved_activation_bytes == real.saved_activation_bytes


def test_other_kernels_have_none() -> None:
    assert under_cudnn(traced(workload(LLAMA, replace(BASE, attention="eager")))) is None
    assert under_flash(regime_of(workload(LLAMA, BASE))) is None
