"""axolotl's DPO."""

from lora_profiler.features.loops._axolotl import FEATURE

__all__ = ["FEATURE"]
