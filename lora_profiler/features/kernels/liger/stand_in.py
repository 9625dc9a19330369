"""Functions that hold the memory of Liger's."""

from contextlib import AbstractContextManager

from torch import nn

from lora_profiler.features.kernels._fused_torch import rotary_in_place, with_fused
from lora_profiler.features.kernels.liger import FEATURE


def patched(model: nn.Module) -> nn.Module:
    return with_fused(model, mlp=True)


def during() -> AbstractContextManager[None]:
    return rotary_in_place(FEATURE.types)
