"""Autocast for tensors without data: torch has none for the meta device, so that the rules of a
real device are applied to it.

torch casts in kernels of its own, one per operator and device, above autograd and below Python. The
same is done here under the dispatch key of a device that nobody has. Which operators take part
torch itself is asked; what each of them does is its `aten/src/ATen/autocast_mode.{h,cpp}`: weights
are cast once in a forward pass, frozen ones every time. The switch is that of CPU autocast, because
checkpointing puts that one back where it computes again, whatever the device.

Fake tensors on the CPU would be cast by torch itself, but only by the CPU's rules: CUDA's have
other lists (layer norms, sums, softmax and powers run in float32 there), and their dispatches take
twice as long.

`tests/trace/test_overrides.py` compares the lists with torch's header and with what real autocast
does.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lora_profiler.errors import UnbuildableError
from lora_profiler.question.workload import TrainSetup
from lora_profiler.trace.patching import replaced

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
