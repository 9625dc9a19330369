"""The kernels of one micro-batch, counted from the family's program without torch.
`counted_kernels(workload)`."""

from lora_profiler.memory.analytic.kernels.count import counted_kernels

__all__ = ["counted_kernels"]
