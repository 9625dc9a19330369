"""Which attention kernels a workload runs: what is asked for, or what torch takes for device, card,
dtype and heads."""

from typing import NamedTuple

from lora_profiler.analytic.families import family_of
from lora_profiler.analytic.families.blocks import heads_of
from lora_profiler.analytic.persistent import rest_dtype
from lora_profiler.support.generations import repeats_heads
from lora_profiler.support.model_types import type_of
from lora_profiler.support.sdpa import FLASH_MAX_HEAD_DIM, SdpaCall, cuda_backend
from lora_profiler.workload import Workload


class AttentionKernels(NamedTuple):
    """The kernel of layers without a mask and of those with one: "eager", "cpu" (torch's flash
    kernel for CPU), "flash", "efficient", "cudnn" or "math"."""

    plain: str
    masked: str


def attention_kernels(workload: Workload, *, trains: bool = True) -> AttentionKernels:
    """What the layers of `workload` run; without dropout where nothing `trains`.

    Without a mask transformers hands grouped heads of up to 256 features to SDPA as they are
    (`enable_gqa`), with one it repeats them first; which kernel torch takes then
    `sdpa.cuda_backend` says. A filled sliding window and packed rows bring masks. A flash kernel
    that was asked for gives way to the efficient one where there is a mask; FlashAttention 2
    itself gets one of padding alone, which stands for what it does there. Some types run eager
    whatever is asked.
    """
    setup, model = workload.setup, workload.model
    if family_of(model) is None:
        return AttentionKernels(setup.attention, setup.attention)
    if setup.attention == "eager" or type_of(model).eager_only:
        return AttentionKernels("eager", "eager")
    if setup.device == "cpu":
        kernel = "math" if setup.attention == "math" else "cpu"
        return AttentionKernels(kernel, kernel)
    if setup.is_flash_attention_2:
        return AttentionKernels("flash", "efficient")
    if setup.attention != "auto":
        return AttentionKernels(
            setup.attention, "efficient" if setup.attention == "flash" else setup.attention
        )
    if setup.device == "mps":
        return AttentionKernels("math", "math")
    heads = heads_of(model.config)
    dtype = setup.lowered_dtype or rest_dtype(setup)
    call = SdpaCall(
        dtype=dtype,
        head_dim=heads.dim,
        value_dim=heads.dim,
        dropout=model.config.get("attention_dropout", 0.0) if trains else 0.0,
        one_token=setup.seq_len == 1,
    )
    grouped = heads.groups > 1 and heads.dim <= FLASH_MAX_HEAD_DIM
    plain = cuda_backend(
        call._replace(grouped=grouped and not repeats_heads(workload)), workload.platform
    )
    if plain == "math" and setup.kernels == "unsloth":
        # it repeats heads rather than let SDPA come to that (2026.10.9,
        # `utils/attention_dispatch.py`, _sdpa_takes_gqa)
        plain = cuda_backend(call, workload.platform)
    return AttentionKernels(plain, cuda_backend(call._replace(masked=True), workload.platform))
