"""Products of a base in LLM.int8 on tensors without data: what bitsandbytes allocates for them.

Sources: bitsandbytes `autograd/_functions.py`, `backends/{cuda,default}/ops.py`. On CUDA an input
is quantised by rows and multiplied in int8; columns beyond the threshold, which are the data's, are
taken to be none. A CPU multiplies by the weight brought back to the input's dtype.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from lora_profiler.traced.patching import replaced
from lora_profiler.workload import TrainSetup


def int8_kernels() -> dict[Any, Callable[..., Any]]:
    """Operator -> the Python that CUDA runs for it, to be traced in its place."""
    operators = torch.ops.bitsandbytes
    flop_registry.setdefault(operators.int8_linear_matmul, _product_flop)
    return {
        operators.int8_vectorwise_quant.default: quantised_rows,
        operators.int8_mixed_scaled_mm.default: mixed_product,
    }


def _product_flop(codes: Tensor, weight: Tensor, *rest: Any, **more: Any) -> int:
    return 2 * codes.numel() * weight.shape[0]


def quantised_rows(A: Tensor, threshold: float = 0.0) -> tuple[Tensor, Tensor, Tensor | None]:
    """Codes, scales, and the columns with outliers: none."""
    scales = torch.empty(A.numel() // A.shape[-1], device=A.device, dtype=torch.float32)
    codes = torch.empty(A.shape, device=A.device, dtype=torch.int8)
    columns = None
    if threshold > 0.0:
        outliers = A.abs() >= threshold
        columns = torch.empty(0, device=A.device, dtype=torch.int64)
        del outliers
    return codes, scales, columns


def mixed_product(
    A: Tensor,
    CA: Tensor,
    CB: Tensor,
    SCA: Tensor,
    SCB: Tensor,
    outlier_cols: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The int32 product, float16 out of it, and that in the input's dtype."""
    product = torch.ops.bitsandbytes.int8_linear_matmul.default(CA, CB)
    out = torch.empty_like(product, dtype=torch.float16)
    if bias is not None and bias.dtype != torch.float16:
        out.add_(bias)
    return out.to(A.dtype), torch.empty(0, device=A.device, dtype=A.dtype)


@contextmanager
def int8_on_meta(setup: TrainSetup) -> Iterator[None]:
    """Inside, layers in int8 take the product of the device of `setup`, by which bitsandbytes
    chooses, and which a tensor without data does not tell."""
    base = setup.quantization
    if base is None or base.quant_type != "int8" or setup.device not in ("cpu", "xpu"):
        yield
        return
    functions = import_module("bitsandbytes.autograd._functions")

    def matmul(
        A: Tensor,
        B: Tensor,
        out: Tensor | None = None,
        state: Any = None,
        threshold: float = 0.0,
        bias: Tensor | None = None,
    ) -> Any:
        kind = functions.MatMul8bitFp if state.is_training else functions.MatMul8bitLt
        return kind.apply(A, B, out, bias, state)

    with replaced(import_module("bitsandbytes"), "matmul", matmul):
        yield
