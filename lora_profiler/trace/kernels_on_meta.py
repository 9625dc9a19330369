"""Optimizer steps and products of 4-bit and 8-bit bases on tensors without data: torch's fused
optimizers, and what bitsandbytes' kernels allocate.

Sources: torch `optim/{adam,sgd}.py`; bitsandbytes `optim/optimizer.py`,
`backends/{default,cpu,cuda}/ops.py`, `autograd/_functions.py`. On a GPU the 8-bit kernels work in
place, as their registered fake ones do on the meta device; on the CPU they are Python that works in
float32 copies, and that very Python is run under the tracer. The code of a 4-bit product runs down
to its operators, of which only `gemm_4bit` allocates inside: copies of scales and weight.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.flop_counter import flop_registry

from lora_profiler.question.optimizer import package_optimizer
from lora_profiler.question.support.optimizers import package_of
from lora_profiler.question.workload import TrainSetup
from lora_profiler.trace.modeling.third_party import quiet_bitsandbytes
from lora_profiler.trace.patching import replaced


@contextmanager
def fused_on_meta() -> Iterator[None]:
    """torch refuses fused optimizers on the meta device, for which their operators are there all
    the same."""
    with ExitStack() as stack:
        for name in ("adam", "sgd"):  # "adam" makes AdamW step as well
            module = import_module(f"torch.optim.{name}")
            stack.enter_context(replaced(module, "_device_dtype_check_for_fused", _in_place))
        yield


@contextmanager
def package_optimizer_on_meta(
    setup: TrainSetup, listener: Callable[[Tensor], object]
) -> Iterator[None]:
    """bitsandbytes' paged states in memory that nobody sees, as torch does not see CUDA's unified
    memory; torchao's step as torch.compile makes it, and its code books, which come from no
    operator, told to `listener`."""
    made = package_optimizer(setup.optimizer)
    with ExitStack() as stack:
        if made is not None and made.package == "torchao":
            adam = import_module("torchao.optim.adam")

            def compiled_step(p: Tensor, grad: Tensor, step: Tensor, *rest: Any) -> None:
                states = [each for each in rest[:2] if hasattr(each, "scale")]
                kept = made.compiled_bytes(p.numel(), setup.device)
                held = [torch.empty(kept, dtype=torch.uint8, device=p.device) for _ in states]
                del held

            stack.enter_context(replaced(adam, "single_param_adam", compiled_step))
            stack.enter_context(replaced(torch, "compile", lambda step, **options: step))
            state = getattr(adam, f"OptimState{made.bits}bit")
            zeros = state.zeros

            def with_code_book(*args: Any, **kwargs: Any) -> Tensor:
                made_state: Any = zeros(*args, **kwargs)
                listener(made_state.qmap)
                return made_state  # type: ignore[no-any-return]

            stack.enter_context(replaced(state, "zeros", with_code_book))
        elif made is not None and made.is_paged:
            base = import_module("bitsandbytes.optim.optimizer").Optimizer8bit

            def state_buffer(self: Any, p: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
                if not made.pages(p.numel(), setup.device):
                    return torch.zeros_like(p, dtype=dtype)
                with _disable_current_modes():
                    return torch.empty_like(p, dtype=dtype)

            stack.enter_context(replaced(base, "get_state_buffer", state_buffer))
            stack.enter_context(replaced(base, "prefetch_state", _in_place))
        yield


def optimizer_kernels(setup: TrainSetup) -> dict[Any, Callable[..., Any]]:
    """Operator -> the Python that the device runs for it, to be traced in its place."""
    kernels: dict[Any, Callable[..., Any]] = {torch.ops.aten._fused_sgd_.default: _in_place}
    if package_of(setup) != "bitsandbytes" or setup.device != "cpu":
        return kernels
    from bitsandbytes.backends.cpu import ops

    return kernels | {
        torch.ops.bitsandbytes.optimizer_update_32bit.default: ops._optimizer_update_32bit_cpu,
        torch.ops.bitsandbytes.optimizer_update_8bit_blockwise.default: (
            ops._optimizer_update_8bit_blockwise_cpu
        ),
    }


def _in_place(*args: Any, **kwargs: Any) -> None:
    """A step that allocates nothing; torch has no meta kernel for it."""


# --- the 4-bit product ----------------------------------------------------------------------------


NESTED_BLOCK = 256


def quantised_kernels(setup: TrainSetup) -> dict[Any, Callable[..., Any]]:
    """Operator -> the Python that the device runs for it, to be traced in its place."""
    if setup.quantization is None:
        return {}
    if setup.quantization.quant_type == "int8":
        return int8_kernels()
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


# --- products in int8 -----------------------------------------------------------------------------


def int8_kernels() -> dict[Any, Callable[..., Any]]:
    """Operator -> the Python that CUDA runs for it, to be traced in its place: an input is
    quantised by rows and multiplied in int8; columns beyond the threshold, which are the data's,
    are taken to be none."""
    operators = torch.ops.bitsandbytes
    flop_registry.setdefault(
        operators.int8_linear_matmul,
        lambda codes, weight, *_, **__: 2 * codes.numel() * weight.shape[0],
    )
    return {
        operators.int8_vectorwise_quant.default: quantised_rows,
        operators.int8_mixed_scaled_mm.default: mixed_product,
    }


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
    chooses, and which a tensor without data does not tell, and log nothing of their casts. A CPU
    multiplies by the weight brought back to the input's dtype."""
    base = setup.quantization
    if base is None or base.quant_type != "int8":
        yield
        return
    if setup.device not in ("cpu", "xpu"):
        with quiet_bitsandbytes():
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

    with quiet_bitsandbytes(), replaced(import_module("bitsandbytes"), "matmul", matmul):
        yield
