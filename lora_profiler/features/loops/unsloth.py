"""Unsloth's SFT loop (2026.10): the count and the running loss; in a pass the loss of the one
before. Held against its own code by `benchmarks/rehearsed/frameworks.py`."""

from dataclasses import replace
from typing import Any

from lora_profiler.question.loop import LoopFacts

FEATURE = LoopFacts(3, 12, 4, own_4_bit=True, repeats_for_math=True, flexes_sinks=True)
NEAREST = (
    "Unsloth is not known for this type of model: priced as TRL's SFTTrainer, checkpoints on the"
    " GPU. Rehearsed, Unsloth's own code mostly took more."
)
"""What is said of a question that `nearest_traced` changes."""


def nearest_estimated(setup: Any) -> Any:
    """`setup` over transformers' layers with PEFT's adapters: loss and checkpoints are Unsloth's
    own."""
    lora = setup.lora
    if lora is not None and lora.lora_kernels == "unsloth":
        lora = replace(lora, lora_kernels="peft")
    return replace(setup, lora=lora, kernels="transformers")


def nearest_traced(setup: Any) -> Any:
    """As `nearest_estimated`, with what a trace makes in place of Unsloth's loss and
    checkpoints."""
    loss = "trl" if setup.loss == "unsloth" else setup.loss
    return replace(nearest_estimated(setup), loss=loss, offload_checkpoints=False)
