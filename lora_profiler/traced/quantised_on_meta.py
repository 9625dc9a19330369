"""The 4-bit product on tensors without data, with the copies that a real one makes of scales and
weight.

bitsandbytes' own code runs down to its operators, and its registered fake ones return what the real
ones return; only `gemm_4bit` allocates inside. Sources: bitsandbytes
`backends/{default,cuda}/ops.py`, `autograd/_functions.py`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lora_profiler.workload import TrainSetup

NESTED_BLOCK = 256


def quantised_kernels(setup: TrainSetup) -> dict[Any, Callable[..., Any]]:
    """Operator -> the Python that the device runs for it, to be traced in its place."""
    if setup.quantization is None:
        return {}
    from bitsandbytes.backends.default import ops

    product = product_on_cuda if setup.device == "cuda" else ops._gemm_4bit_default_impl
    return {torch.ops.bitsandbytes.gemm_4bit.default: product}


def product_on_cuda(
    A: Tensor,
    B: Tensor,
    shapeB: Sequence[int],
    absmax: Tensor,
    blocksize: int,
    quant_type: str,
    bias: Tensor | None = None,
    absmax_8bit: Tensor | None = None,
    absmax_code: Tensor | None = None,
    absmax_offset: Tensor | None = None,
) -> Tensor:
    """`_dequant_linear_fallback` of bitsandbytes, which every product of more than 1536 rows takes
    on CUDA.

    Fewer rows may take a kernel without any copy, by a table of cards and shapes; the trace is then
    one weight too high here, never too low.
    """
    if absmax_8bit is not None:
        assert absmax_code is not None and absmax_offset is not None
        operator = torch.ops.bitsandbytes.dequantize_blockwise.default
        whole = operator(absmax_8bit, absmax, absmax_code, NESTED_BLOCK, torch.float32)
        absmax = whole + absmax_offset
    weight = torch.ops.bitsandbytes.dequantize_4bit.default(
        B, absmax, blocksize, quant_type, shapeB, A.dtype
    )
    return torch.nn.functional.linear(A, weight, bias)
