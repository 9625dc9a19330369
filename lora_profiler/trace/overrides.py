"""What torch and transformers would do on a real device where the meta device does something else:
scoped replacements.

Each is a context manager over one name of torch or transformers; `tests/trace/test_overrides.py`
fails when a name moves. Sources: torch `nn/functional.py`, transformers `masking_utils.py`,
`modeling_utils.py`."""

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lora_profiler.errors import UnbuildableError
from lora_profiler.question.feature import part
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.support.generations import repeats_heads
from lora_profiler.question.support.sdpa import efficient_keeps_seeds
from lora_profiler.question.workload import TrainSetup, Workload
from lora_profiler.trace.attention import attention, safe_softmax
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

# --- autocast -------------------------------------------------------------------------------------

# Autocast for tensors without data: torch has none for the meta device, so that the rules of a real
# device are applied to it.
#
# torch casts in kernels of its own, one per operator and device, above autograd and below Python.
# The same is done here under the dispatch key of a device that nobody has. Which operators take
# part torch itself is asked; what each of them does is its `aten/src/ATen/autocast_mode.{h,cpp}`:
# weights are cast once in a forward pass, frozen ones every time. The switch is that of CPU
# autocast, because checkpointing puts that one back where it computes again, whatever the device.
#
# Fake tensors on the CPU would be cast by torch itself, but only by the CPU's rules: CUDA's have
# other lists (layer norms, sums, softmax and powers run in float32 there), and their dispatches
# take twice as long.
#
# `tests/trace/test_overrides.py` compares the lists with torch's header and with what real autocast
# does.

# --- which operators: those named have a rule of their own, others run in float32 ----------------

LISTS = {"cuda": "AutocastCUDA", "cpu": "AutocastCPU"}
"""Device -> the dispatch key under which torch has its kernels."""
_COMMON_LOWER = """
    _convolution.deprecated addbmm addmm baddbmm bmm conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d.input
    conv_transpose3d.input linalg_vecdot linear matmul mm prelu scaled_dot_product_attention
"""  # noqa: E501
_CPU_LOWER = (
    "_addmm_activation _native_multi_head_attention conv1d.padding conv2d.padding conv3d.padding"
    " mkldnn_rnn_layer"
)
_CUDA_LOWER = """
    _convolution _scaled_dot_product_flash_attention _thnn_fused_gru_cell _thnn_fused_lstm_cell addmv addr chain_matmul
    convolution cudnn_convolution cudnn_convolution_transpose einsum gru_cell linalg_multi_dot lstm_cell mv rnn_relu_cell
    rnn_tanh_cell
"""  # noqa: E501
_CUDA_PROMOTED = (
    "addcdiv addcmul atan2 bilinear cross dot grid_sampler index_put scatter_add tensordot vdot"
)
_CUDA_FLOAT_RESULT = """
    cumprod cumsum linalg_matrix_norm linalg_matrix_norm.str_ord linalg_vector_norm log_softmax.int prod prod.dim_int softmax.int
    sum sum.dim_IntList
"""  # noqa: E501
LOWER = {
    "cpu": frozenset((_COMMON_LOWER + _CPU_LOWER).split()),
    "cuda": frozenset((_COMMON_LOWER + _CUDA_LOWER).split()),
}
"""Operators that run in bfloat16."""
PROMOTED = {
    "cpu": frozenset({"cat", "index_copy", "stack"}),
    "cuda": frozenset(_CUDA_PROMOTED.split()),
}
"""Operators that run in the widest dtype among their inputs."""
FLOAT_RESULT = {"cpu": frozenset[str](), "cuda": frozenset(_CUDA_FLOAT_RESULT.split())}
"""Operators that read what they get and, unless told otherwise, give float32."""
REFUSED = frozenset({"_cudnn_rnn", "binary_cross_entropy", "norm.Scalar", "norm.ScalarOpt_dim"})
"""Operators that torch refuses under autocast, or runs by a rule of their own that no model needs.
Only a build with cuDNN has `_cudnn_rnn` (`autocast_mode/autocast_RNN.cpp`)."""


@cache
def operators(device: str) -> tuple[str, ...]:
    """The operators that autocast changes on `device`, as torch has registered them."""
    names = torch._C._dispatch_get_all_op_names()
    has = torch._C._dispatch_has_kernel_for_dispatch_key
    return tuple(
        sorted(
            n.removeprefix("aten::")
            for n in names
            if n.startswith("aten::") and has(n, LISTS[device])
        )
    )


# --- the casts ------------------------------------------------------------------------------------

SPARE_KEY = "AutocastIPU"
Cast = Callable[[Any, tuple[Any, ...], dict[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]]


class Autocast:
    """Casts by the rules of the device of `setup`; the weights cast so far are kept as long as
    torch would keep them."""

    def __init__(self, setup: TrainSetup) -> None:
        if setup.device not in LISTS:
            raise UnbuildableError(
                f"autocast on {setup.device} cannot be traced; on {' and '.join(LISTS)} it can."
            )
        self._device = setup.device
        self._dtype: torch.dtype = getattr(torch, setup.autocast_dtype or "bfloat16")
        self._weights: dict[int, tuple[Tensor, Tensor]] = {}
        self._keys = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, SPARE_KEY))

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Inside, `torch.autocast` for the device or for "meta" casts tensors on the meta
        device."""
        included, excluded = (
            torch._C._dispatch_tls_local_include_set(),
            torch._C._dispatch_tls_local_exclude_set(),
        )
        with ExitStack() as stack:
            everything = stack.enter_context(torch.library._scoped_library("_", "IMPL"))
            everything.fallback(torch.library.fallthrough_kernel, SPARE_KEY)
            library = stack.enter_context(torch.library._scoped_library("aten", "IMPL"))
            for name in operators(self._device):
                library.impl(name, self._kernel(name), SPARE_KEY)
            stack.enter_context(self._switches())
            stack.enter_context(
                torch._C._ForceDispatchKeyGuard(included | self._keys, excluded - self._keys)
            )
            yield

    def lowered(self, *tensors: Tensor | None) -> list[Any]:
        """`tensors` as an operator of `LOWER` gets them."""
        return (
            [self._cast(t, self._dtype) for t in tensors]
            if torch.is_autocast_enabled("cpu")
            else list(tensors)
        )

    @contextmanager
    def _switches(self) -> Iterator[None]:
        """torch's functions that turn autocast on and tell of it, and transformers' own, which
        leaves the meta device out."""
        plain, enabled, forget = (
            torch.autocast,
            torch.is_autocast_enabled,
            torch.clear_autocast_cache,
        )
        ours = (self._device, "meta")

        def autocast(device_type: str, *args: Any, **kwargs: Any) -> Any:
            return plain("cpu" if device_type in ours else device_type, *args, **kwargs)

        def is_autocast_enabled(device_type: str | None = None) -> bool:
            if device_type is None:  # torch means CUDA
                return self._device == "cuda" and enabled("cpu")
            return enabled("cpu" if device_type in ours else device_type)

        def clear_autocast_cache() -> None:
            self._weights.clear()
            forget()

        with ExitStack() as stack:
            stack.enter_context(replaced(torch, "autocast", autocast))
            stack.enter_context(replaced(torch, "is_autocast_enabled", is_autocast_enabled))
            stack.enter_context(replaced(torch, "clear_autocast_cache", clear_autocast_cache))
            stack.enter_context(_everywhere("maybe_autocast", autocast))
            yield

    def _kernel(self, name: str) -> Callable[..., Any]:
        packet, _, overload = name.partition(".")
        operator = getattr(getattr(torch.ops.aten, packet), overload or "default")
        cast = self._rule(name)

        def kernel(*args: Any, **kwargs: Any) -> Any:
            with torch._C._ExcludeDispatchKeyGuard(self._keys):
                if torch.is_autocast_enabled("cpu"):
                    args, kwargs = cast(operator, args, kwargs)
                return operator(*args, **kwargs)

        return kernel

    def _rule(self, name: str) -> Cast:
        if name in LOWER[self._device]:
            return lambda op, args, kwargs: self._all(args, kwargs, self._dtype)
        if name in PROMOTED[self._device]:
            return lambda op, args, kwargs: self._all(args, kwargs, _widest(args))
        if name in FLOAT_RESULT[self._device]:
            return _float_result
        if name in REFUSED:
            return _refused
        return lambda op, args, kwargs: self._all(args, kwargs, torch.float32)

    def _all(self, args: Any, kwargs: Any, dtype: torch.dtype) -> Any:
        return torch.utils._pytree.tree_map_only(
            Tensor, lambda t: self._cast(t, dtype), (args, kwargs)
        )

    def _cast(self, tensor: Any, dtype: torch.dtype) -> Any:
        if tensor is None or not _eligible(tensor) or tensor.dtype == dtype:
            return tensor
        weight = (
            tensor.is_leaf
            and tensor.requires_grad
            and not tensor._is_view()
            and tensor.dtype == torch.float32
        )
        if not weight or dtype != self._dtype or not torch.is_autocast_cache_enabled():
            return tensor.to(dtype)
        known = self._weights.get(id(tensor))
        if known is None:
            known = self._weights[id(tensor)] = (tensor, tensor.to(dtype))
        return known[1]


def _eligible(tensor: Tensor) -> bool:
    return (
        tensor.is_floating_point()
        and tensor.dtype != torch.float64
        and tensor.device.type == "meta"
    )


def _widest(args: Any) -> torch.dtype:
    leaves = torch.utils._pytree.tree_leaves(args)
    wide = any(
        isinstance(leaf, Tensor) and _eligible(leaf) and leaf.dtype == torch.float32
        for leaf in leaves
    )
    return torch.float32 if wide else torch.bfloat16


def _float_result(
    operator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    place = [argument.name for argument in operator._schema.arguments].index("dtype")
    given = args[place] if place < len(args) else kwargs.get("dtype")
    if given is not None or not _eligible(args[0]):
        return args, kwargs
    return args[:place], kwargs | {"dtype": torch.float32}


def _refused(operator: Any, args: Any, kwargs: Any) -> Any:
    raise UnbuildableError(f"{operator} under autocast cannot be traced.")


@contextmanager
def _everywhere(name: str, value: Any) -> Iterator[None]:
    """transformers' function `name` replaced in every module that has imported it."""
    from transformers.utils import generic

    plain = getattr(generic, name)
    with ExitStack() as stack:
        for module in list(sys.modules.values()):
            if vars(module).get(name) is plain:
                stack.enter_context(replaced(module, name, value))
        yield


# --- overrides ------------------------------------------------------------------------------------

aten = torch.ops.aten
_EFFICIENT = aten._scaled_dot_product_efficient_attention.default
_FALLBACK = re.compile(
    r"`(?P<function>\w+)` is falling back .* because `(?P<package>[^`]+)` is (?:either )?not"
    " installed"
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
        stack.enter_context(finite_values())
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


class _Holds(Tensor):
    """A tensor that is true as a bool, and so is each that is computed from it."""

    def __bool__(self) -> bool:
        return True


@contextmanager
def finite_values() -> Iterator[None]:
    """Layers of BART and its like clamp float16 values after `if not torch.isfinite(x).all()`,
    which a tensor without data cannot answer. A step that trains has finite values."""
    plain = torch.isfinite

    def isfinite(tensor: Tensor) -> Tensor:
        return plain(tensor).as_subclass(_Holds)

    with replaced(torch, "isfinite", isfinite):
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
