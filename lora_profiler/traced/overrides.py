"""What torch and transformers would do on a real device where the meta device does something else: scoped replacements.

Each is a context manager over one name of torch or transformers; `tests/test_overrides.py` fails when a name moves. Sources:
torch `aten/src/ATen/native/transformers/{attention.cpp,sdp_utils_cpp.cpp,cuda/sdp_utils.cpp}`, `torch/nn/functional.py`,
`torch/optim/{adam,adamw}.py`; transformers `masking_utils.py`.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_profiler.traced.autocast import Autocast
from lora_profiler.traced.optimizers_on_meta import fused_on_meta, optimizer_kernels
from lora_profiler.traced.quantised_on_meta import quantised_kernels
from lora_profiler.traced.replacing import replaced
from lora_profiler.traced.tracer import Tracer
from lora_profiler.workload import TrainSetup

aten = torch.ops.aten
FLASH_MAX_HEAD_DIM = 256


@contextmanager
def device_rules(setup: TrainSetup, padding: bool, kernels: set[str], tracer: Tracer) -> Iterator[None]:
    """Everything that makes a trace on the meta device speak for `setup.device`, and for batches with `padding` or without.

    Kernels that attention takes go to `kernels`.
    """
    with ExitStack() as stack:
        lowered = None
        if setup.precision == "amp":
            casts = Autocast(setup)
            stack.enter_context(casts.installed())
            lowered = casts.lowered
        else:
            stack.enter_context(no_autocast_on_meta())
        stack.enter_context(attention(setup, kernels, tracer, lowered))
        stack.enter_context(no_packed_sequences())
        stack.enter_context(no_look_at_tokens())
        stack.enter_context(known_padding(padding))
        stack.enter_context(fused_on_meta())
        stack.enter_context(generator_states(tracer.see) if setup.device == "cpu" else byte_dropout())
        yield


@contextmanager
def attention(
    setup: TrainSetup, kernels: set[str], tracer: Tracer, lowered: Callable[..., list[Any]] | None = None
) -> Iterator[None]:
    """SDPA calls the fused operator that the device would take; the meta device itself knows the math path alone.

    `lowered` casts what it gets, as autocast does before SDPA.
    """
    math = F.scaled_dot_product_attention

    def sdpa(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if lowered is not None:
            query, key, value, attn_mask = lowered(query, key, value, attn_mask)
        kernel = attention_kernel(setup, query, key, value, attn_mask, dropout_p, enable_gqa)
        kernels.add(kernel)
        if kernel == "math":
            with tracer.masking_in_place():
                return math(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        if kernel in ("efficient", "cudnn") and enable_gqa and key.shape[1] != query.shape[1]:
            groups = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
        return _fused(kernel, query, key, value, _additive(attn_mask, query.dtype), dropout_p, is_causal, scale)

    with replaced(F, "scaled_dot_product_attention", sdpa):
        yield


def attention_kernel(
    setup: TrainSetup, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, enable_gqa: bool
) -> str:
    """The kernel that torch takes for one call: "cpu", "flash", "efficient", "cudnn" or "math".

    CPU: its flash kernel, but for dropout, a mask that trains, and heads of unlike widths. CUDA: flash for 16 bit without a mask,
    else efficient, which takes no grouped heads, else math. Heads that are broadcast are for math alone. A kernel that was asked
    for and cannot take a mask gives way to the efficient one.
    """
    widths = {query.shape[-1], key.shape[-1], value.shape[-1]}
    grouped = enable_gqa and query.shape[1] != key.shape[1]
    whole = query.ndim == 4 and query.shape[0] == key.shape[0] == value.shape[0]
    if not whole or not (enable_gqa or query.shape[1] == key.shape[1] == value.shape[1]):
        return "math"
    if setup.device == "cpu":
        refused = setup.attention == "math" or dropout > 0 or len(widths) > 1 or (mask is not None and mask.requires_grad)
        return "math" if refused else "cpu"
    if setup.device == "mps":
        return "math"
    asked = setup.attention
    if asked in ("efficient", "cudnn", "math", "flash"):
        return "efficient" if asked == "flash" and mask is not None else asked
    if query.dtype != torch.float32 and mask is None and len(widths) == 1 and max(widths) <= FLASH_MAX_HEAD_DIM:
        return "flash"
    return "math" if grouped else "efficient"


def _fused(
    kernel: str, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, causal: bool, scale: float | None
) -> Tensor:
    qkv = query, key, value
    out: Tensor
    if kernel == "cpu":
        out, *_ = aten._scaled_dot_product_flash_attention_for_cpu(*qkv, dropout, causal, attn_mask=mask, scale=scale)
    elif kernel == "flash":
        out, *_ = aten._scaled_dot_product_flash_attention(*qkv, dropout, causal, False, scale=scale)
    elif kernel == "cudnn":
        out, *_ = aten._scaled_dot_product_cudnn_attention(*qkv, mask, True, dropout, causal, False, scale=scale)
    else:
        if mask is not None:
            mask = mask.expand(query.shape[0], query.shape[1], query.shape[2], key.shape[2])
        out, *_ = aten._scaled_dot_product_efficient_attention(*qkv, mask, True, dropout, causal, scale=scale)
    return out


def _additive(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """As `convert_boolean_attn_mask` does before a fused kernel: one more mask, in the dtype of the query."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask.logical_not(), float("-inf"))


@contextmanager
def byte_dropout() -> Iterator[None]:
    """CUDA's dropout keeps a mask of one byte an element; the meta device keeps noise in the input's dtype, as the CPU does."""
    plain = F.dropout

    def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0 or inplace:
            return plain(input, p, training, inplace)
        out: Tensor = torch.native_dropout(input, p, True)[0]
        return out

    with replaced(F, "dropout", dropout):
        yield


@contextmanager
def no_packed_sequences() -> Iterator[None]:
    """transformers looks into the position ids for packed sequences; without data it is told that there are none."""
    from transformers import masking_utils

    with replaced(masking_utils, "find_packed_sequence_indices", lambda *args, **kwargs: None):
        yield


@contextmanager
def known_padding(padding: bool) -> Iterator[None]:
    """transformers leaves a mask out where it masks nothing. Whether it does is known here, and cannot be read off it."""
    from transformers import masking_utils

    def told(name: str) -> Callable[..., bool]:
        plain = getattr(masking_utils, name)

        def ignored(padding_mask: Tensor | None, *args: Any, **kwargs: Any) -> bool:
            return not (padding and padding_mask is not None) and plain(None, *args, **kwargs)

        return ignored

    with ExitStack() as stack:
        for name in ("_ignore_causal_mask_sdpa", "_ignore_bidirectional_mask_sdpa"):
            stack.enter_context(replaced(masking_utils, name, told(name)))
        yield


@contextmanager
def no_look_at_tokens() -> Iterator[None]:
    """transformers looks at the first and the last tokens, to warn of padding without a mask; without data it is kept from it."""
    from transformers import PreTrainedModel

    with replaced(PreTrainedModel, "warn_if_padding_and_no_attention_mask", lambda *args, **kwargs: None):
        yield


@contextmanager
def generator_states(seen: Callable[[Tensor], object]) -> Iterator[None]:
    """The state of the CPU's generator, which checkpointing keeps for every layer, comes from no operator."""
    plain = torch.get_rng_state

    def get_rng_state() -> Tensor:
        state = plain()
        seen(state)
        return state

    with replaced(torch, "get_rng_state", get_rng_state):
        yield


@contextmanager
def no_autocast_on_meta() -> Iterator[None]:
    """PEFT turns autocast off around packed experts, for the device of the weights; torch knows none for the meta device."""
    plain = torch.autocast

    def autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return nullcontext() if device_type == "meta" else plain(device_type, *args, **kwargs)

    with replaced(torch, "autocast", autocast):
        yield


# --- operators whose meta kernel returns something else than the device's -------------------------------------------------


def substitutes(device: str) -> dict[Any, Callable[..., Any]]:
    """Operator -> what the tracer calls in its place; it gets the operator and its arguments."""
    found: dict[Any, Callable[..., Any]] = {aten._grouped_mm.default: grouped_product}
    if device == "cpu":
        found[aten.native_layer_norm.default] = layer_norm_on_cpu
    return found


def kernels_in_python(setup: TrainSetup) -> dict[Any, Callable[..., Any]]:
    """Operator -> the Python that the device runs for it, to be traced in its place."""
    return optimizer_kernels(setup) | quantised_kernels(setup)


def grouped_product(func: Any, a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The meta kernel insists on bfloat16; the devices take other dtypes and return the same shape in them."""
    if a.dtype == torch.bfloat16:
        return func(a, b, *args, **kwargs)  # type: ignore[no-any-return]
    shape: Tensor = func(*(torch.empty_like(t, dtype=torch.bfloat16) for t in (a, b)), *args, **kwargs)
    return torch.empty(shape.shape, dtype=a.dtype, device=a.device)


def layer_norm_on_cpu(func: Any, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and deviation are in the input's dtype on the CPU, in float32 elsewhere."""
    out, mean, deviation = func(x, *args, **kwargs)
    return out, torch.empty_like(mean, dtype=x.dtype), torch.empty_like(deviation, dtype=x.dtype)
