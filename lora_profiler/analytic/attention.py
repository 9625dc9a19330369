"""Which attention kernel a workload runs: what is asked for, or what torch takes for device, dtype, heads and mask."""

from lora_profiler.analytic.families import family_of
from lora_profiler.analytic.families.blocks import heads_of
from lora_profiler.analytic.persistent import rest_dtype
from lora_profiler.analytic.tensors import ITEMSIZE
from lora_profiler.workload import Workload

FLASH_MAX_HEAD_DIM = 256
EFFICIENT_ALIGNMENT_BYTES = 16


def resolve_kernel(workload: Workload) -> str:
    """ "eager", "cpu" (torch's flash kernel for CPU), "flash", "efficient", "cudnn" or "math".

    CUDA prefers flash, then efficient, then math; flash takes 16-bit inputs only. Without a mask transformers hands grouped
    heads to SDPA as they are (`enable_gqa`), which the efficient kernel does not take: float32 with grouped heads falls to
    math. The mask of a filled sliding window is decided layer by layer; packed rows have one in every layer, for which
    transformers repeats grouped heads, and the efficient kernel loads them in pieces of 16 bytes. transformers runs Gemma 2 eager
    whatever is asked.
    """
    setup, model = workload.setup, workload.model
    if family_of(model) is None:
        return setup.attention
    heads = heads_of(model.config)
    dtype = "bfloat16" if setup.precision == "amp" else rest_dtype(setup)
    if setup.attention == "eager" or model.model_type == "gemma2":
        return "eager"
    if setup.device == "cpu":
        return "math" if setup.attention == "math" else "cpu"
    if setup.attention != "auto":
        return setup.attention
    if setup.device == "mps":
        return "math"
    if setup.is_packed:
        return "math" if heads.dim * ITEMSIZE[dtype] % EFFICIENT_ALIGNMENT_BYTES else "efficient"
    if dtype != "float32" and heads.dim <= FLASH_MAX_HEAD_DIM:
        return "flash"
    grouped = heads.groups > 1 and heads.dim <= FLASH_MAX_HEAD_DIM
    return "math" if grouped else "efficient"
