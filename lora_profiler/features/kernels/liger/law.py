"""Liger-Kernel `ops/{rms_norm,swiglu,rope}.py` (ead96b6)."""

from lora_profiler.features.kernels._fused import norm, rotated, swiglu

REPLACED = {"norm": norm, "gated": swiglu, "rotary": rotated}
