"""LitGPT's own model of 2024 (0.4), with bitsandbytes 0.42."""

from lora_profiler.features.kernels._litgpt import FACTS, as_made
from lora_profiler.features.kernels._litgpt import by_old_bitsandbytes as base

__all__ = ["FEATURE", "as_made", "base"]

FEATURE = FACTS._replace(
    title="LitGPT's model of 2024",
    assumption=(
        "LitGPT's model copies keys and values for all heads, and ties no head (0.4);"
        " bitsandbytes 0.42 keeps every input of a 4-bit layer, through the next pass too."
    ),
    repeats_heads=True,
)
