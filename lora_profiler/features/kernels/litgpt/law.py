"""The forward pass is that of `_litgpt_model`."""

from lora_profiler.features.kernels._litgpt_model import program

__all__ = ["program"]
