"""LitGPT's own model (0.5.13)."""

from lora_profiler.features.kernels._litgpt import FACTS, as_made
from lora_profiler.features.kernels._litgpt import by_fabric as base

__all__ = ["FEATURE", "as_made", "base"]

FEATURE = FACTS._replace(
    assumption=("LitGPT's model copies keys and values for all heads, and ties no head (0.5.13)."),
    repeats_heads=True,  # model.py, CausalSelfAttention
    copies_embedding=True,
)
