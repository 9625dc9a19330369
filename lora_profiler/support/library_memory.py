"""What libraries hold of a CUDA card beside the tensors of a training step. No torch."""

from lora_profiler.platform import Platform
from lora_profiler.workload import TrainSetup

_CODE_BOOK_BYTES = 1024
WORKSPACES = 2
"""Of BLAS: the forward pass and autograd's own thread each hold one."""
_WORKSPACE_BYTES, _HOPPER_WORKSPACE_BYTES = 8_519_680, 32 << 20


def code_book_bytes(setup: TrainSetup) -> int:
    """The 256 float32 by which bitsandbytes quantises scales once more: made for the first weight
    and kept for all (`functional.py`, `name2qmap`). Each weight has a copy besides, which counts as
    quantisation state."""
    quantization = setup.quantization
    nested = quantization is not None and quantization.is_nested
    return _CODE_BOOK_BYTES if nested and setup.device == "cuda" else 0


def workspace_bytes(platform: Platform) -> int:
    """One BLAS workspace, per handle and stream: torch's aten/src/ATen/cuda/CUDABlas.cpp
    (parseChosenWorkspaceSize). From torch 2.15 on a product takes it and gives it back."""
    if platform.torch >= (2, 15):
        return 0
    is_hopper = platform.capability is not None and platform.capability >= 90
    return _HOPPER_WORKSPACE_BYTES if is_hopper else _WORKSPACE_BYTES
