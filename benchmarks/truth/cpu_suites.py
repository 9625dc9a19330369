"""Suites for a CPU: one small enough to try things out, and those whose records are committed.

Every model of `cpu_families` is trained in full, with LoRA and with QLoRA, with and without
checkpointing. Sizes, ranks, optimizer implementations and recipes turn from family to family, so
that each is met in many; what is rare follows on one or two models.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import cycle, islice
from typing import TypeVar

from benchmarks.truth import suite_models
from lora_profiler.measuring.harness import Case, make_case
from lora_profiler.measuring.records.record import Conditions
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.workload import (
    Device,
    LoraConfig,
    OptimizerImpl,
    Quantization,
    Recipe,
    TrainSetup,
    Workload,
)

QUICK = Conditions(memory_steps=3, min_timed_steps=3, max_timing_seconds=1.0)
STANDARD = Conditions(memory_steps=3, min_timed_steps=10, max_timing_seconds=8.0)
WHOLE = replace(STANDARD, max_timing_seconds=30.0)
"""For steps of seconds, of which ten take longer."""

SIZES = ((1, 128), (2, 64), (4, 64), (2, 128), (1, 256), (3, 96), (8, 32))
"""Batch x sequence: a few hundred tokens at most, so that a step takes a fraction of a second on
one core."""
RANKS = (4, 8, 16, 32)
IMPLEMENTATIONS: tuple[OptimizerImpl, ...] = ("foreach", "fused", "forloop")
RECIPES: tuple[Recipe, ...] = ("kbit", "trl")
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")

T = TypeVar("T")


def tiny(device: Device) -> tuple[Case, ...]:
    """Full, LoRA, QLoRA, and LoRA with checkpointing on a model of 0.2 million parameters; under a
    minute in all."""
    lora = LoraConfig(r=4)
    setups = (
        TrainSetup(dtype="float32", optimizer_impl="fused"),
        TrainSetup(lora=lora),
        TrainSetup(lora=lora, quantization=Quantization()),
        TrainSetup(lora=lora, checkpointing=True),
    )
    sized = [replace(setup, batch_size=2, seq_len=32, device=device) for setup in setups]
    return _cases(suite_models.tiny(), sized, QUICK)


def cpu_families(device: Device) -> tuple[Case, ...]:
    """What the committed CPU records hold: ten families, and GPT-2 124M and SmolLM2-135M whole."""
    found: list[Case] = []
    for turn, family in enumerate(suite_models.MEDIUM):
        setups = [replace(setup, device=device) for setup in _family_setups(family, turn)]
        found += _cases(suite_models.medium(family), setups, STANDARD)
    for model, setups, conditions in _rarer():
        found += _cases(model, [replace(setup, device=device) for setup in setups], conditions)
    return tuple(found)


FEW_TOKENS = ("llama", "qwen3", "gpt2", "opt", "phi3", "gemma2")


def cpu_layers(device: Device) -> tuple[Case, ...]:
    """The hard cases: six families with so few tokens in their vocabulary, 512, that the peak falls
    inside a layer, not in the loss; full, LoRA, and LoRA on bfloat16, checkpointed and not."""
    base = TrainSetup(
        dtype="float32", batch_size=4, seq_len=256, optimizer_impl="fused", device=device
    )
    mixed = replace(base, dtype="bfloat16", lora=LoraConfig(r=8))
    setups = (base, replace(base, lora=LoraConfig(r=8)), mixed, replace(mixed, checkpointing=True))
    models = map(suite_models.few_tokens, FEW_TOKENS)
    return tuple(case for model in models for case in _cases(model, setups, STANDARD))


def _family_setups(family: str, turn: int) -> Iterator[TrainSetup]:
    """Eight ways to train one model; `turn` is the family's number."""
    sizes, ranks, implementations = (
        _turning(SIZES, turn),
        _turning(RANKS, turn),
        _turning(IMPLEMENTATIONS, turn),
    )
    mixture = family == "qwen3_moe"

    def adapter(dropout: float = 0.0, **changes: object) -> LoraConfig:
        targets = (
            ATTENTION if mixture and dropout else "all-linear"
        )  # PEFT refuses dropout on packed experts
        return replace(
            LoraConfig(r=next(ranks), target_modules=targets, lora_dropout=dropout), **changes
        )  # type: ignore[arg-type]

    def sized(setup: TrainSetup) -> TrainSetup:
        batch, seq = next(sizes)
        return replace(setup, batch_size=batch, seq_len=seq, optimizer_impl=next(implementations))

    full, frozen = TrainSetup(dtype="float32"), TrainSetup(dtype="bfloat16")
    yield sized(full)
    yield sized(replace(full, checkpointing=True))
    yield sized(replace(full, lora=adapter()))
    yield sized(replace(full, lora=adapter(dropout=0.1 if turn % 2 else 0.0), checkpointing=True))
    yield sized(replace(frozen, lora=adapter()))
    yield sized(replace(frozen, lora=adapter(adapter_dtype="bfloat16"), checkpointing=True))
    yield sized(
        replace(frozen, lora=adapter(), quantization=Quantization(double_quant=turn % 2 == 0))
    )
    recipe = RECIPES[turn % len(RECIPES)]
    yield sized(
        replace(
            frozen, lora=adapter(), quantization=Quantization(recipe=recipe), checkpointing=True
        )
    )


def _rarer() -> Iterator[tuple[ModelSpec, list[TrainSetup], Conditions]]:
    """What few people turn, on one or two models; and two whole models."""
    llama, gemma = suite_models.medium("llama"), suite_models.medium("gemma2")
    plain = TrainSetup(dtype="float32", batch_size=2, seq_len=80)
    lora = replace(plain, lora=LoraConfig(r=8))
    mixed = replace(lora, dtype="bfloat16")
    yield (
        llama,
        [
            replace(plain, attention="eager"),
            replace(lora, attention="math"),
            replace(plain, precision="amp", optimizer_impl="fused"),
            replace(mixed, precision="amp"),
            replace(plain, accumulation=4),
            replace(mixed, accumulation=4),
            replace(mixed, accumulation=4, quantization=Quantization()),
            replace(plain, optimizer="sgd"),
            replace(plain, optimizer="adafactor"),
            replace(plain, optimizer="adamw_8bit"),
            replace(lora, optimizer="sgd", optimizer_impl="fused"),
            replace(mixed, optimizer="adafactor"),
            replace(mixed, optimizer="adamw_8bit"),
            replace(mixed, lora=LoraConfig(r=64, target_modules=("q_proj", "v_proj"))),
            replace(mixed, lora=LoraConfig(r=1)),
            replace(plain, dtype="bfloat16"),
        ],
        STANDARD,
    )
    yield (
        gemma,
        [replace(lora, attention="eager"), replace(mixed, attention="eager", checkpointing=True)],
        STANDARD,
    )
    yield suite_models.whole("gpt2"), list(_gpt2()), WHOLE
    yield suite_models.whole("HuggingFaceTB/SmolLM2-135M"), list(_smollm2()), WHOLE


def _gpt2() -> Iterator[TrainSetup]:
    """GPT-2 124M, whose linears are Conv1D; its own dropouts of 0.1 stay on, as when it was
    trained."""
    attention = LoraConfig(r=8, target_modules=("c_attn",))
    every = LoraConfig(r=16, lora_dropout=0.05)
    base = TrainSetup(batch_size=1, seq_len=64)
    yield replace(base, dtype="float32", optimizer_impl="fused", seq_len=32)
    yield replace(base, dtype="float32", lora=attention, batch_size=2)
    yield replace(base, dtype="float32", lora=every, checkpointing=True, optimizer_impl="fused")
    yield replace(base, lora=every, seq_len=32)
    yield replace(
        base, lora=attention, quantization=Quantization(recipe="kbit"), checkpointing=True
    )
    yield replace(
        base, lora=every, quantization=Quantization(double_quant=False), optimizer_impl="forloop"
    )


def _smollm2() -> Iterator[TrainSetup]:
    """SmolLM2-135M: 30 narrow layers and a tied table of 49,152 tokens."""
    every, bf16 = LoraConfig(r=16), LoraConfig(r=8, adapter_dtype="bfloat16")
    base = TrainSetup(batch_size=1, seq_len=64)
    yield replace(base, dtype="float32", checkpointing=True, optimizer_impl="fused", seq_len=32)
    yield replace(base, dtype="float32", lora=every)
    yield replace(base, lora=every, checkpointing=True, seq_len=48)
    yield replace(base, lora=bf16, seq_len=32)
    yield replace(base, lora=every, quantization=Quantization())
    yield replace(
        base, lora=bf16, quantization=Quantization(recipe="trl"), checkpointing=True, batch_size=2
    )


def _cases(
    model: ModelSpec, setups: Sequence[TrainSetup], conditions: Conditions
) -> tuple[Case, ...]:
    return tuple(make_case(Workload(model=model, setup=setup), conditions) for setup in setups)


def _turning(values: Sequence[T], start: int) -> Iterator[T]:
    """The values in turn without end, beginning with number `start`."""
    return islice(cycle(values), start, None)
