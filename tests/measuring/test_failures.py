"""What torch and its libraries say when they fail, and the status that a record makes of it."""

import pytest
import torch

from lora_profiler.measuring.harness.failures import failure_of, status_of
from lora_profiler.measuring.records.record import Status

ALLOCATOR, SYMMETRIC = (
    f"/pytorch/{path}.cpp"
    for path in ("c10/cuda/CUDACachingAllocator", "torch/csrc/distributed/c10d/SymmetricMemory")
)
FAILED = 'INTERNAL ASSERT FAILED at "{}":{}'
NO_MEMORY = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.18 GiB"
)
OF_CUDNN = "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if the input is not"
OF_FRONTEND = "cuDNN Frontend error: No execution plans support the graph."


def nvml(call: str, line: int, file: str = ALLOCATOR) -> str:
    return f"NVML_SUCCESS == {call} {FAILED.format(file, line)}"


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (NO_MEMORY, "oom"),
        ("cuBLAS error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "oom"),
        (nvml("r", 1154), "oom"),  # pytorch issues 112377, 197312
        (nvml("DriverAPI::get()->nvmlInit_v2_()", 830), "oom"),  # pytorch issue 130486
        (f"{OF_CUDNN} contiguous.", "unsupported"),
        (f"{OF_FRONTEND} CUDNN_STATUS_NOT_SUPPORTED", "unsupported"),
        ("\"addmm_impl_cpu_\" not implemented for 'Half'", "unsupported"),
        (f"captures_underway == 0 {FAILED.format(ALLOCATOR, 3)}", "crash"),
        (nvml("r", 3, SYMMETRIC), "crash"),
    ],
)
def test_what_a_library_says_is_told_apart(said: str, status: Status) -> None:
    error = RuntimeError(said)
    assert status_of(error) == status
    assert (failure_of(error, "forward", 2).log is None) == (status == "oom")


def test_errors_with_a_class_of_their_own() -> None:
    assert status_of(torch.OutOfMemoryError("of any text")) == "oom"
    assert status_of(KeyboardInterrupt()) == "interrupted"
    assert status_of(NotImplementedError("nobody wrote it")) == "unsupported"
    assert status_of(ValueError("out of memory")) == "crash"
