"""The hard cases: models with so few tokens in their vocabulary that the peak falls inside a layer,
not in the loss."""

from collections.abc import Iterator
from dataclasses import replace

from benchmarks import suite_models
from benchmarks.cpu_suites import STANDARD
from lora_profiler.harness import Case, make_case
from lora_profiler.workload import Device, LoraConfig, TrainSetup, Workload

FAMILIES = ("llama", "qwen3", "gpt2", "opt", "phi3", "gemma2")


def cpu_layers(device: Device) -> tuple[Case, ...]:
    """Six families with a vocabulary of 512, four ways each: full, LoRA, and LoRA on bfloat16,
    checkpointed and not."""
    return tuple(
        make_case(
            Workload(model=suite_models.few_tokens(family), setup=replace(setup, device=device)),
            STANDARD,
        )
        for family in FAMILIES
        for setup in _setups()
    )


def _setups() -> Iterator[TrainSetup]:
    base = TrainSetup(dtype="float32", batch_size=4, seq_len=256, optimizer_impl="fused")
    mixed = replace(base, dtype="bfloat16", lora=LoraConfig(r=8))
    yield base
    yield replace(base, lora=LoraConfig(r=8))
    yield mixed
    yield replace(mixed, checkpointing=True)
