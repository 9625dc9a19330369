"""Can this be answered? Asked once, when a workload is made ready. No torch."""

from lora_profiler.errors import UsageError
from lora_profiler.support.adapters import check_adapters
from lora_profiler.support.generations import check_generation, check_traceable
from lora_profiler.support.liger import check_kernels
from lora_profiler.support.losses import check_loss
from lora_profiler.support.packing import check_packing
from lora_profiler.support.profiles import why_unprofiled
from lora_profiler.support.sdpa import check_platform
from lora_profiler.support.tensor_parallel import check_tensor_parallel
from lora_profiler.workload import Workload


def check(workload: Workload, engine: str) -> None:
    """Raises UsageError for a workload that no engine answers, or not the one that is asked.

    Holds for other batches, ranks and lengths of `workload` too, as long as `is_packed` does.
    """
    check_model(workload)
    check_platform(workload)
    if engine == "compiled" and (reason := why_unprofiled(workload.setup)):
        raise UsageError(reason)
    if engine == "traced":
        check_traceable(workload)
    else:
        check_tensor_parallel(workload)


def check_model(workload: Workload) -> None:
    """Raises UsageError for adapters, a loss, packed rows or kernels that the model does not take,
    wherever it runs."""
    check_adapters(workload)
    check_loss(workload)
    check_packing(workload)
    check_kernels(workload)
    check_generation(workload)
