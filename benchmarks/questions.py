"""What benchmarks ask about: bundled models on cards of the catalogue with a version of torch, and
seeded draws of models and setups, the same on every machine."""

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lora_profiler.facts.catalog import bundled_models, find_gpu, find_model
from lora_profiler.facts.catalog.bundled import CatalogEntry
from lora_profiler.measuring.records.serialize import setup_from_dict
from lora_profiler.question.gpu_platform import TORCH, Platform, version_of
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.option import OptimizerImpl
from lora_profiler.question.workload import (
    LoraConfig,
    Quantization,
    TrainSetup,
    Workload,
    key_fields,
)

NOT_DRAWN = Path(__file__).with_name("not_drawn.txt")
"""Models that the catalogue has had since: rows asked once stay those of the same draw."""


def workload_on(model: ModelSpec | str, setup: TrainSetup, card: str, torch: str = "") -> Workload:
    """With the card's capability, and the version of `torch` as it says it itself."""
    if isinstance(model, str):
        model = find_model(model, offline=True)
    capability = find_gpu(card).capability
    platform = Platform(capability=capability, torch=version_of(torch) or TORCH)
    return Workload(model=model, setup=setup, platform=platform)


def key(row: Mapping[str, Any]) -> str:
    """Of `model`, `setup` and `card`: the same for rows from before `setup` had its newest
    fields."""
    setup = key_fields(setup_from_dict(row["setup"]))
    return json.dumps([row["model"], setup, row["card"]])


def flags(options: Mapping[str, Any]) -> str:
    """As they are typed."""
    return " ".join(
        f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
        for name, value in options.items()
    )


def drawn_models() -> Sequence[CatalogEntry]:
    since = set(NOT_DRAWN.read_text("utf-8").split())
    return [model for model in bundled_models() if model.id not in since]


def drawn_setup(
    draw: random.Random,
    lengths: Sequence[int],
    impls: Sequence[OptimizerImpl],
    batch_sizes: Sequence[int] = (),
) -> TrainSetup:
    """A batch of one where no sizes are given."""
    method = draw.choice(("full", "lora", "qlora"))
    lora = LoraConfig(r=draw.choice((8, 16, 64)))
    return TrainSetup(
        lora=None if method == "full" else lora,
        quantization=Quantization() if method == "qlora" else None,
        batch_size=draw.choice(batch_sizes) if batch_sizes else 1,
        seq_len=draw.choice(lengths),
        checkpointing=draw.random() < 0.5,
        optimizer_impl=draw.choice(impls),
    )
