"""What torch and transformers would do on a real device where the meta device does something else:
scoped replacements.

Each is a context manager over one name of torch or transformers; `tests/trace/test_overrides.py`
fails when a name moves. Sources: torch `nn/functional.py`, transformers `masking_utils.py`,
`modeling_utils.py`.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_profiler.question.feature import part
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.support.generations import repeats_heads
from lora_profiler.question.support.sdpa import efficient_keeps_seeds
from lora_profiler.question.workload import TrainSetup, Workload
from lora_profiler.trace.attention import attention, safe_softmax
from lora_profiler.trace.autocast import Autocast
from lora_profiler.trace.kernels_on_meta import (
    fused_on_meta,
    int8_on_meta,
    optimizer_kernels,
    package_optimizer_on_meta,
    quantised_kernels,
)
from lora_profiler.trace.modeling.generations import heads_repeated
from lora_profiler.trace.patching import TORCH, replaced
from lora_profiler.trace.tracer import Tracer

aten = torch.ops.aten
_EFFICIENT = aten._scaled_dot_product_efficient_attention.default
_FALLBACK = re.compile(
    r"`(?P<function>\w+)` is falling back .* because `(?P<package>[^`]+)` is not installed"
)


@contextmanager
def device_rules(workload: Workload, kernels: set[str], tracer: Tracer) -> Iterator[None]:
    """Everything that makes a trace on the meta device speak for the device and the platform of
    `workload`.

    Kernels that attention takes go to `kernels`.
    """
    setup = workload.setup
    with ExitStack() as stack:
        lowered = None
        if setup.autocast_dtype:
            casts = Autocast(setup)
            stack.enter_context(casts.installed())
            lowered = casts.lowered
        else:
            stack.enter_context(no_autocast_on_meta())
        stack.enter_context(attention(workload, kernels, tracer, lowered))
        if during := part("kernels", setup.kernels, "stand_in", "during"):
            stack.enter_context(during())
        stack.enter_context(heads_repeated(repeats_heads(workload)))
        stack.enter_context(packed_sequences(setup.is_packed))
        stack.enter_context(padding_check_skipped())
        stack.enter_context(known_padding(tracer))
        stack.enter_context(fused_on_meta())
        stack.enter_context(int8_on_meta(setup))
        stack.enter_context(package_optimizer_on_meta(setup, tracer.see))
        stack.enter_context(
            generator_states(tracer.see) if setup.device == "cpu" else byte_dropout()
        )
        if setup.device == "cuda":
            stack.enter_context(in_cpp("softmax.int", softmax_of_float16))
        yield


@contextmanager
def fallbacks_noted(fallbacks: set[str]) -> Iterator[None]:
    """Notes which functions transformers runs in plain torch, because the package with their
    kernels is not installed here."""
    from transformers.integrations import hub_kernels

    def note(text: str, *rest: Any) -> None:
        if match := _FALLBACK.match(text):
            fallbacks.add(f"{match['function']} ({match['package']})")

    with replaced(hub_kernels.logger, "warning_once", note):
        yield


@contextmanager
def byte_dropout() -> Iterator[None]:
    """CUDA's dropout keeps a mask of one byte an element; the meta device keeps noise in the
    input's dtype, as the CPU does.

    The one that SDPA's math kernel calls lies in C++, where only the dispatcher can be told.
    """
    plain = F.dropout

    def of_bytes(input: Tensor, p: float, training: bool) -> Tensor:
        out: Tensor = torch.native_dropout(input, p, True)[0] if training and p else input
        return out

    def dropout(
        input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
    ) -> Tensor:
        return plain(input, p, training, inplace) if inplace else of_bytes(input, p, training)

    with in_cpp("dropout", of_bytes), replaced(F, "dropout", dropout):
        yield


@contextmanager
def in_cpp(operator: str, value: Callable[..., Tensor]) -> Iterator[None]:
    """Inside, `value` is what meta tensors run for an operator that torch makes of others."""
    library: Any = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    library.impl(operator, value, "AutogradMeta")
    try:
        yield
    finally:
        library._destroy()


def softmax_of_float16(scores: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """CUDA's kernel reads float16 and sums in float32, and its backward writes float16; the meta
    device makes float32 copies (torch `native/SoftMax.cpp`, half_to_float)."""
    reads_float16 = (scores.dtype, dtype) == (torch.float16, torch.float32)
    scores = scores if reads_float16 or dtype is None else scores.to(dtype)
    return aten._softmax(scores, dim, reads_float16)  # type: ignore[no-any-return]


@contextmanager
def packed_sequences(are_packed: bool) -> Iterator[None]:
    """transformers looks into the position ids for packed sequences; without data it is told
    whether there are any."""
    from transformers import masking_utils

    plain = masking_utils.find_packed_sequence_indices

    def find(position_ids: Tensor) -> Tensor | None:
        if not are_packed:
            return None
        with replaced(
            masking_utils, "is_tracing", lambda *args: True
        ):  # it then takes for granted that there are
            return plain(position_ids)

    with replaced(masking_utils, "find_packed_sequence_indices", find):
        yield


@contextmanager
def known_padding(tracer: Tracer) -> Iterator[None]:
    """transformers leaves a mask out where it masks nothing. Whether it does is known here, and
    cannot be read off one without data."""
    from transformers import masking_utils

    def told(name: str) -> Callable[..., bool]:
        plain = getattr(masking_utils, name)

        def ignored(padding_mask: Tensor | None, *args: Any, **kwargs: Any) -> bool:
            if padding_mask is not None and padding_mask.device.type == "cpu":
                return bool(plain(padding_mask, *args, **kwargs))
            return not (padding_mask is not None and tracer.masks(padding_mask)) and plain(
                None, *args, **kwargs
            )

        return ignored

    with ExitStack() as stack:
        for name in ("_ignore_causal_mask_sdpa", "_ignore_bidirectional_mask_sdpa"):
            stack.enter_context(replaced(masking_utils, name, told(name)))
        yield


@contextmanager
def padding_check_skipped() -> Iterator[None]:
    """transformers looks at the first and the last tokens, to warn of padding without a mask;
    without data it is kept from it."""
    from transformers import PreTrainedModel

    with replaced(
        PreTrainedModel, "warn_if_padding_and_no_attention_mask", lambda *args, **kwargs: None
    ):
        yield


@contextmanager
def generator_states(listener: Callable[[Tensor], object]) -> Iterator[None]:
    """The state of the CPU's generator comes from no operator. Checkpointing keeps one for every
    layer, and puts one aside while it computes a layer again, but for the meta device, of which
    torch holds that it has no random numbers.
    """
    plain, fork = torch.get_rng_state, torch.random.fork_rng

    def get_rng_state() -> Tensor:
        state = plain()
        listener(state)
        return state

    def fork_rng(
        devices: Any = None, enabled: bool = True, *, device_type: str, **kwargs: Any
    ) -> Any:
        return (
            fork([], enabled, **kwargs)
            if device_type == "meta"
            else fork(devices, enabled, device_type=device_type, **kwargs)
        )

    with (
        replaced(torch, "get_rng_state", get_rng_state),
        replaced(torch.random, "fork_rng", fork_rng),
    ):
        yield


@contextmanager
def no_autocast_on_meta() -> Iterator[None]:
    """PEFT turns autocast off around packed experts, for the device of the weights; torch knows
    none for the meta device."""
    plain = torch.autocast

    def autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
        return nullcontext() if device_type == "meta" else plain(device_type, *args, **kwargs)

    with replaced(torch, "autocast", autocast):
        yield


# --- operators whose meta kernel returns something else than the device's -------------------------


def substitutes(device: str, platform: Platform) -> dict[Any, Callable[..., Any]]:
    """Operator -> what the tracer calls in its place; it gets the operator and its arguments."""
    kernels: dict[Any, Callable[..., Any]] = {}
    if TORCH < (2, 15):
        kernels[aten._grouped_mm.default] = grouped_product
    if device == "cpu":
        kernels[aten.native_layer_norm.default] = layer_norm_on_cpu
    else:
        kernels[_EFFICIENT] = partial(efficient_attention, platform)
    return kernels


def kernels_in_python(setup: TrainSetup) -> dict[Any, Callable[..., Any]]:
    """Operator -> the Python that the device runs for it, to be traced in its place."""
    softmax: dict[Any, Callable[..., Any]] = {aten._safe_softmax.default: safe_softmax}
    if setup.device != "cpu":
        softmax[aten._softmax_backward_data.default] = softmax_backward_on_cuda
    return softmax | optimizer_kernels(setup) | quantised_kernels(setup)


def softmax_backward_on_cuda(
    gradient: Tensor, output: Tensor, dim: int, input_dtype: torch.dtype
) -> Tensor:
    """Gradient times output, a tensor of its own, is what CUDA's kernel works on (torch
    `native/cuda/SoftMax.cu`, softmax_backward_cuda_out)."""
    result = torch.empty_like(gradient, dtype=input_dtype)
    product = gradient * output
    return aten._softmax_backward_data.out(  # type: ignore[no-any-return]
        product, output, dim, input_dtype, grad_input=result
    )


def grouped_product(func: Any, a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The meta kernel insists on bfloat16 before torch 2.15; the devices take other dtypes and
    return the same shape in them."""
    if a.dtype == torch.bfloat16:
        return func(a, b, *args, **kwargs)  # type: ignore[no-any-return]
    shape: Tensor = func(
        *(torch.empty_like(t, dtype=torch.bfloat16) for t in (a, b)), *args, **kwargs
    )
    return torch.empty(shape.shape, dtype=a.dtype, device=a.device)


def efficient_attention(
    platform: Platform, func: Any, *args: Any, **kwargs: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The meta kernel makes seed and offset on the device, where the real one takes the CPU's."""
    out, log_sum_exp, seed, offset = func(*args, **kwargs)
    dropout = kwargs.get("dropout_p", args[5] if len(args) > 5 else 0.0)
    if not efficient_keeps_seeds(platform, dropout):
        seed, offset = (torch.empty_like(t, device="cpu") for t in (seed, offset))
    return out, log_sum_exp, seed, offset


def layer_norm_on_cpu(
    func: Any, x: Tensor, *args: Any, **kwargs: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and deviation are in the input's dtype on the CPU, in float32 elsewhere."""
    out, mean, deviation = func(x, *args, **kwargs)
    return out, torch.empty_like(mean, dtype=x.dtype), torch.empty_like(deviation, dtype=x.dtype)
