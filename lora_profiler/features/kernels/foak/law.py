"""fms-acceleration (876e2ed): what they keep and write over is what Liger's do."""

from lora_profiler.features.kernels._fused import norm, rotated

REPLACED = {"norm": norm, "rotary": rotated}
