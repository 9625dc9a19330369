"""Which kernel torch's scaled_dot_product_attention takes on a CUDA card. No torch.

Source of every condition: torch `aten/src/ATen/native/transformers/cuda/sdp_utils.cpp`, functions
named beside it. The whole was held against the CUDA builds of torch themselves:
`benchmarks/truth/sdpa_choices.py`, `tests/data/sdpa_choices.json`.
"""

from collections.abc import Collection
from typing import Literal, NamedTuple

from lora_profiler.errors import UsageError
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.kernel_set import kernel_set
from lora_profiler.question.loop import loop_facts
from lora_profiler.question.workload import Dtype, TrainSetup, Workload

Backend = Literal["cudnn", "flash", "efficient", "math"]

USUAL_CAPABILITY = 80
"""What holds without a card: sm_80 to sm_89 take the same kernels but for heads of 193 to 256
features."""
FLASH_MAX_HEAD_DIM = 256
MASK_ALIGNMENT = 8
"""Of whose multiples in tokens a mask's rows must be long for the efficient kernel, or they are
padded (`aligned_tensor` in attention.cpp, preprocess_mask)."""
_CUDNN_FIRST = 91500
_CUDNN_WIDE = 92200


class SdpaCall(NamedTuple):
    """One call in training: q and k are `head_dim` wide, v `value_dim`; q, k and v have `dtype`.

    `grouped`: k and v have fewer heads than q. `masked`: a mask is given, which trains or not.
    `one_token`: one token a sequence.
    """

    dtype: Dtype
    head_dim: int
    value_dim: int
    grouped: bool = False
    masked: bool = False
    mask_trains: bool = False
    dropout: float = 0.0
    one_token: bool = False

    @property
    def is_half(self) -> bool:
        return self.dtype != "float32"


def cuda_backend(call: SdpaCall, platform: Platform) -> Backend:
    """The first kernel, in torch's order, that takes `call` on `platform` (select_sdp_backend).

    cuDNN comes before flash on sm_90 and sm_10x, where it is newer than 9.15.0
    (check_prefer_cudnn_attention) and TORCH_CUDNN_SDPA_DEPRIORITIZED is not set. Fewer heads of k
    and v than of q are refused before, unless `enable_gqa` is set or `takes_single_head` holds.
    """
    capability = platform.capability or USUAL_CAPABILITY
    prefers_cudnn = capability // 10 in (9, 10) and platform.cudnn > _CUDNN_FIRST
    if prefers_cudnn and _cudnn_takes(call, capability, platform):
        return "cudnn"
    if _flash_takes(call, capability):
        return "flash"
    grouped = call.grouped and not efficient_takes_grouped(platform)
    return "efficient" if not grouped and _efficient_takes(call, capability) else "math"


def check_platform(workload: Workload) -> None:
    """Raises UsageError for a kernel that was asked for and that the card does not have: flash and
    cuDNN's need sm_80 (check_flash_attention_hardware_support, check_cudnn_hardware_support), the
    efficient one for bfloat16 too. So do the products of bfloat16 with float32 sums that TRL's loss
    is made of (rehearsed: benchmarks/results/rehearsed_trainers.md).
    """
    setup, platform = workload.setup, workload.platform
    if setup.device != "cuda" or platform.capability is None or platform.capability >= 80:
        return
    half = (setup.lowered_dtype or setup.dtype) == "bfloat16"
    fast = setup.attention in ("flash", "cudnn", "flash_attention_2")
    if fast or (setup.attention == "efficient" and half):
        of = "" if fast else " in bfloat16"
        raise UsageError(
            f"{setup.attention} attention{of} needs a GPU from sm_80, and this one is"
            f" {platform.capability_text}; leave --attention out for torch's choice."
        )
    if half and setup.loss == "trl":
        narrow = setup.quantization is not None and setup.quantization.recipe == "trl"
        able = "--precision pure --dtype float16" if narrow else "--precision amp-float16"
        raise UsageError(
            "TRL's loss in bfloat16 needs a GPU from sm_80, and this one is"
            f" {platform.capability_text}: torch refuses its products; use {able}."
        )


def efficient_takes_grouped(platform: Platform) -> bool:
    """Whether the efficient kernel takes heads of which several share k and v (`supports_gqa` in
    can_use_mem_efficient_attention)."""
    return platform.torch >= (2, 14)


def repeats_for_math(setup: TrainSetup) -> bool:
    """Whether keys and values are repeated to all heads where SDPA would take its math kernel."""
    of_loop = loop_facts(setup.loop_state).repeats_for_math
    return of_loop or kernel_set(setup.kernels).repeats_for_math


def efficient_keeps_seeds(platform: Platform, dropout: float) -> bool:
    """Whether the efficient kernel leaves its seed and offset, 8 bytes each, on the card; else they
    are the CPU's, as are those of dropout in every version. Seen on torch's CUDA builds 2.11, 2.13,
    2.14 and 2.15 by asking the operator for its outputs' devices."""
    return platform.torch >= (2, 14) and not dropout


def takes_single_head(platform: Platform) -> bool:
    """Whether the fused kernels take one head of k and v for all of q without `enable_gqa`
    (`supports_mqa` in check_batch_size_and_num_heads_dense)."""
    return platform.torch >= (2, 14)


def _cudnn_takes(call: SdpaCall, capability: int, platform: Platform) -> bool:
    """check_dtypes_low_precision, check_cudnn_tensor_shapes, check_cudnn_dropout (since 2.13) and
    check_cudnn_d256_bprop_head_dim (since 2.14) on sm_90 and sm_10x. Masks that do not train and
    grouped heads are taken.
    """
    widths = call.head_dim, call.value_dim
    if not call.is_half or call.mask_trains or call.one_token or any(w % 8 for w in widths):
        return False
    if platform.torch >= (2, 13) and call.dropout * 16 != int(call.dropout * 16):
        return False
    if platform.torch >= (2, 14) and platform.cudnn > _CUDNN_WIDE:
        return max(widths) <= 128 or widths in ((192, 128), (256, 256))
    return max(widths) <= (256 if capability == 90 else 128) or widths == (192, 128)


def _flash_takes(call: SdpaCall, capability: int) -> bool:
    """check_dtypes_low_precision, check_for_attn_mask, check_head_dim_size_flash,
    check_flash_attention_hardware_support; and on sm_86, sm_89 and sm_12x
    check_requires_grad_and_head_dim_gt192_constraints_on_sm86_89_or_120."""
    width = call.head_dim
    if (
        capability < 80
        or not call.is_half
        or call.masked
        or width != call.value_dim
        or width > FLASH_MAX_HEAD_DIM
    ):
        return False
    trains_any_width = not (86 <= capability <= 89 or capability >= 120)
    return trains_any_width or width <= 192 or (width > 224 and call.dropout == 0)


def _efficient_takes(call: SdpaCall, capability: int) -> bool:
    """check_head_dim_size_mem_efficient with minimum_gemm_alignment, and the dtypes of
    can_use_mem_efficient_attention."""
    if call.dtype == "bfloat16" and capability < 80:
        return False
    alignments = (
        {70: 8} if call.is_half else {80: 4}
    )  # elements that are loaded at once, by the capability from which on
    alignment = max((size for least, size in alignments.items() if capability >= least), default=1)
    return not (call.head_dim % alignment or call.value_dim % alignment)


def kernel_words(workload: Workload, kernels: Collection[str]) -> tuple[str, ...]:
    """What an answer takes for granted of attention's `kernels` on CUDA, a sentence each; nothing
    of other devices."""
    setup, platform = workload.setup, workload.platform
    if setup.device != "cuda":
        return ()
    sentences = []
    if setup.attention == "auto" and "eager" not in kernels:
        of_torch = f"torch {platform.torch_text}"
        if platform.capability is None:
            sentences.append(
                f"Attention kernels: those of {of_torch} on NVIDIA sm_80 to sm_89 and sm_12x."
                f" Before"
                " sm_80 there is no flash attention; sm_90 and sm_10x use cuDNN. Name the GPU with"
                " --gpu."
            )
        else:
            sentences.append(
                f"Attention runs the kernels that {of_torch} takes on {platform.capability_text}."
            )
    if "math" in kernels:
        sentences.append(
            "SDPA's math kernel keeps the scores: batch x heads x sequence x sequence."
        )
    if "cudnn" in kernels:
        sentences.append(
            "cuDNN's own workspace is not known and left out. TORCH_CUDNN_SDPA_DEPRIORITIZED=1"
            " brings flash attention back."
        )
    return tuple(sentences)
