"""The attention kernel that a device would take: SDPA's choice, which torch makes by device, made
for tensors without data.

Sources: torch `aten/src/ATen/native/transformers/{attention.cpp,sdp_utils_cpp.cpp}`, for CUDA those
that `sdpa.py` names.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from lora_profiler.errors import UnbuildableError
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.support.packing import lengths
from lora_profiler.question.support.sdpa import (
    MASK_ALIGNMENT,
    SdpaCall,
    cuda_backend,
    efficient_takes_grouped,
    repeats_for_math,
    takes_single_head,
)
from lora_profiler.question.workload import Dtype, TrainSetup, Workload
from lora_profiler.trace.patching import TORCH, replaced
from lora_profiler.trace.tracer import Tracer

aten = torch.ops.aten
FLASH_ATTENTION_2 = "flash_attention_2"
FLASH_ALIGNMENT = 8
"""Head widths that are no multiple of it are padded, and the padded copies kept."""
_DTYPES: dict[torch.dtype, Dtype] = {
    torch.float32: "float32",
    torch.bfloat16: "bfloat16",
    torch.float16: "float16",
}


@contextmanager
def attention(
    workload: Workload,
    kernels: set[str],
    tracer: Tracer,
    lowered: Callable[..., list[Any]] | None = None,
) -> Iterator[None]:
    """SDPA calls the fused operator that the device would take; the meta device itself knows the
    math path alone.

    `lowered` casts what it gets, as autocast does before SDPA.
    """
    setup = workload.setup
    math = F.scaled_dot_product_attention
    unmasked = setup.is_flattened or (setup.is_flash_attention_2 and not setup.is_padded)
    packed = [0, *accumulate(lengths(setup) * setup.batch_size)] if setup.is_flattened else []
    begins = torch.tensor(
        packed, dtype=torch.int32
    )  # on the CPU, so that torch can count FLOPs of each sequence

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
        if setup.is_flattened:
            kernels.add("flash")
            longest = int(begins.diff().max())
            return _by_sequence(query, key, value, begins, longest, dropout_p, is_causal, scale)
        kernel = attention_kernel(workload, query, key, value, attn_mask, dropout_p, enable_gqa)
        kernels.add(kernel)
        if kernel == "math":
            with tracer.masking_in_place():
                return math(
                    query,
                    key,
                    value,
                    attn_mask,
                    dropout_p,
                    is_causal,
                    scale=scale,
                    enable_gqa=enable_gqa,
                )
        if kernel == "efficient" and key.shape[1] != query.shape[1]:
            if efficient_takes_grouped(workload.platform):
                _check_grouped_on_meta()
            else:
                groups = query.shape[1] // key.shape[1]
                key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
        return _fused(
            kernel, query, key, value, _additive(attn_mask, query), dropout_p, is_causal, scale
        )

    with (
        replaced(F, "scaled_dot_product_attention", sdpa),
        no_masks() if unmasked else nullcontext(),
        _of_towers(sdpa) if setup.images is not None else nullcontext(),
    ):
        yield


@contextmanager
def _of_towers(sdpa: Callable[..., Tensor]) -> Iterator[None]:
    """FlashAttention 2 of a vision tower: patches of all images in one call, told where each image
    or window begins where the tower says so; grouped as they are, without a mask."""
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def flash(
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        is_causal: bool | None = None,
        cu_seq_lens_q: Tensor | None = None,
        max_length_q: Tensor | int | None = None,
        **told: Any,
    ) -> tuple[Tensor, None]:
        causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
        if cu_seq_lens_q is None or max_length_q is None:
            out = sdpa(query, key, value, None, dropout, causal, scaling)
        else:
            begins = cu_seq_lens_q.to(torch.int32)
            longest = int(max_length_q)
            out = _by_sequence(query, key, value, begins, longest, dropout, causal, scaling)
        return out.transpose(1, 2), None

    ALL_ATTENTION_FUNCTIONS[FLASH_ATTENTION_2] = flash
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS[FLASH_ATTENTION_2]  # type: ignore[no-untyped-call]


def flash_tower(model: torch.nn.Module, setup: TrainSetup) -> None:
    """The vision tower of a model that was built with SDPA goes the way that it goes with
    FlashAttention 2, where that is asked for."""
    if setup.images is None or not setup.is_flash_attention_2:
        return
    for module in model.modules():
        config = getattr(getattr(module, "config", None), "vision_config", None)
        if config is not None:
            config._attn_implementation_internal = FLASH_ATTENTION_2


@contextmanager
def no_masks() -> Iterator[None]:
    """Masks as transformers makes them for FlashAttention 2: none, since the kernel knows windows
    and sequences itself."""
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flash_attention_mask

    ALL_MASK_ATTENTION_FUNCTIONS["sdpa"] = flash_attention_mask
    try:
        yield
    finally:
        del ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]  # type: ignore[no-untyped-call]


def attention_kernel(
    workload: Workload,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    enable_gqa: bool,
) -> str:
    """The kernel that torch takes for one call: "cpu", "flash", "efficient", "cudnn" or "math".

    CPU: its flash kernel, but for dropout, a mask that trains, and heads of unlike widths. CUDA:
    see `cuda_backend`. Broadcast heads are for math alone, but for one head of keys and values
    where `takes_single_head` holds, which the CPU's kernel shares. A kernel that was asked for and
    cannot take a mask gives way to the efficient one.
    """
    setup = workload.setup
    widths = {query.shape[-1], key.shape[-1], value.shape[-1]}
    grouped = query.shape[1] != key.shape[1]
    whole = query.ndim == 4 and query.shape[0] == key.shape[0] == value.shape[0]
    one_for_all = key.shape[1] == value.shape[1] == 1 and takes_single_head(workload.platform)
    if not whole or not (
        enable_gqa or one_for_all or query.shape[1] == key.shape[1] == value.shape[1]
    ):
        return "math"
    if setup.device == "cpu":
        refused = (
            setup.attention == "math"
            or dropout > 0
            or len(widths) > 1
            or (mask is not None and mask.requires_grad)
        )
        return "math" if refused else "cpu"
    if setup.device == "mps":
        return "math"
    implementation = "flash" if setup.is_flash_attention_2 else setup.attention
    if implementation in ("efficient", "cudnn", "math", "flash"):
        return "efficient" if implementation == "flash" and mask is not None else implementation
    if query.shape[-1] != key.shape[-1]:
        return "math"
    call = SdpaCall(
        dtype=_DTYPES[query.dtype],
        head_dim=query.shape[-1],
        value_dim=value.shape[-1],
        grouped=grouped,
        masked=mask is not None,
        mask_trains=mask is not None and mask.requires_grad,
        dropout=dropout,
        one_token=key.shape[-2] == 1,
    )
    chosen = cuda_backend(call, workload.platform)
    if chosen == "math" and grouped and repeats_for_math(setup):
        return cuda_backend(call._replace(grouped=False), workload.platform)
    return chosen


def _fused(
    kernel: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    dropout: float,
    causal: bool,
    scale: float | None,
) -> Tensor:
    qkv: tuple[Tensor, ...] = (query, key, value)
    out: Tensor
    if kernel == "cpu":
        out, *_ = aten._scaled_dot_product_flash_attention_for_cpu(
            *qkv, dropout, causal, attn_mask=mask, scale=scale
        )
    elif kernel == "flash":
        width = query.shape[-1]
        scale = scale or width**-0.5
        if width % FLASH_ALIGNMENT:
            qkv = tuple(F.pad(t, (0, -width % FLASH_ALIGNMENT)) for t in qkv)
        out, *_ = aten._scaled_dot_product_flash_attention(
            *qkv, dropout, causal, False, scale=scale
        )
        out = out[..., :width]
    elif kernel == "cudnn":
        out, *_ = aten._scaled_dot_product_cudnn_attention(
            *qkv, mask, True, dropout, causal, False, scale=scale
        )
    else:
        if mask is not None:
            mask = _aligned(mask).expand(
                query.shape[0], query.shape[1], query.shape[2], key.shape[2]
            )
        out, *_ = aten._scaled_dot_product_efficient_attention(
            *qkv, mask, True, dropout, causal, scale=scale
        )
    return out


def _check_grouped_on_meta() -> None:
    """Raises UnbuildableError where the installed torch is older than the efficient kernel's
    grouped heads."""
    if not efficient_takes_grouped(Platform(torch=TORCH)):
        raise UnbuildableError(
            f"efficient attention of the installed torch {torch.__version__} does not support"
            " grouped heads; install the version of --torch, or use --engine analytic."
        )


def _by_sequence(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    begins: Tensor,
    longest: int,
    dropout: float,
    causal: bool,
    scale: float | None,
) -> Tensor:
    """`flash_attn_varlen_func` on one row: torch's own operator of that kernel, on (tokens, heads,
    width) without the row.

    `begins` are the tokens at which sequences begin, and the end, `longest` the most between two.
    Grouped heads go in as they are.
    """
    width = query.shape[-1]
    tensors = [t.transpose(1, 2).flatten(0, 1) for t in (query, key, value)]
    if width % FLASH_ALIGNMENT:
        tensors = [F.pad(t, (0, -width % FLASH_ALIGNMENT)) for t in tensors]
    out, *_ = aten._flash_attention_forward(
        *tensors,
        begins,
        begins,
        longest,
        longest,
        dropout,
        causal,
        False,
        scale=scale or width**-0.5,
    )
    return out[..., :width].unflatten(0, (query.shape[0], query.shape[2])).transpose(1, 2)  # type: ignore[no-any-return]


def _aligned(mask: Tensor) -> Tensor:
    """As `preprocess_mask` does before the efficient kernel: rows of a padded copy begin at
    multiples of `MASK_ALIGNMENT`."""
    *outer, inner = mask.stride()
    if inner == 1 and not any(stride % MASK_ALIGNMENT for stride in outer):
        return mask
    width = mask.shape[-1]
    return F.pad(mask, (0, MASK_ALIGNMENT - width % MASK_ALIGNMENT))[..., :width]


def _additive(mask: Tensor | None, query: Tensor) -> Tensor | None:
    """As `convert_boolean_attn_mask` does before a fused kernel: one more mask, in the dtype of the
    query. Numbers that the first one has are left behind, or each layer's would be held here."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    if mask.device != query.device:
        with _disable_current_modes():
            mask = torch.empty_like(mask, device=query.device)
    least = torch.scalar_tensor(float("-inf"), dtype=query.dtype, device=query.device)
    return torch.where(mask, 0.0, least)


def safe_softmax(scores: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """What the math path's one operator is made of: rows that are masked as a whole become
    zeros."""
    out = torch.softmax(scores, dim, dtype)
    masked = torch.isneginf(scores)
    rows = masked.all(dim, keepdim=True)
    zero = torch.scalar_tensor(0.0, dtype=out.dtype, device=out.device)
    return aten.where.self_out(rows, zero, out, out=out)  # type: ignore[no-any-return]
