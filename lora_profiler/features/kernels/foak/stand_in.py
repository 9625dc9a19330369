"""Functions that hold the memory of fms-acceleration's, which has no MLP."""

from contextlib import AbstractContextManager

from torch import nn

from lora_profiler.features.kernels._fused_torch import rotary_in_place, with_fused
from lora_profiler.features.kernels.foak import FEATURE


def patched(model: nn.Module) -> nn.Module:
    return with_fused(model, mlp=False)


def during() -> AbstractContextManager[None]:
    return rotary_in_place(FEATURE.types)
