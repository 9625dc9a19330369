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


def nearest_traced(setup: Any) -> Any:
    """`setup` with what a trace makes in place of Unsloth's own loss, checkpoints and LoRA
    functions."""
    lora = setup.lora
    if lora is not None and lora.lora_kernels == "unsloth":
        lora = replace(lora, lora_kernels="peft")
    loss = "trl" if setup.loss == "unsloth" else setup.loss
    return replace(setup, loss=loss, lora=lora, kernels="transformers", offload_checkpoints=False)
