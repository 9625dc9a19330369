"""The machine and software of a run, as a record keeps them: no host name, user name, path or token
gets in.

torch is imported when asked for, in the measured process only.
"""

import os
import platform
from collections.abc import Mapping
from importlib import import_module
from operator import attrgetter
from typing import Any

from lora_profiler._common.packages import __version__, installed_versions
from lora_profiler._common.process import cpu_model
from lora_profiler.harness.machine import memory_limit_bytes, physical_memory_bytes
from lora_profiler.harness.nvml import Nvml, open_device, uuid_hash
from lora_profiler.harness.pretended import is_pretended, marked
from lora_profiler.harness.provenance import public_word, source
from lora_profiler.records.environment import Device, Environment

PACKAGES = (
    "accelerate", "bitsandbytes", "datasets", "numpy", "nvidia-ml-py", "peft", "torch",
    "transformers", "triton", "trl",
)  # fmt: skip
"""Distributions whose version is kept, beside this program's own."""

VARIABLES = (
    "ATEN_CPU_CAPABILITY", "CUBLASLT_WORKSPACE_SIZE", "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_DEVICE_MAX_CONNECTIONS", "CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING",
    "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "DNNL_DEFAULT_FPMATH_MODE", "DNNL_MAX_CPU_ISA",
    "GOMP_CPU_AFFINITY", "HSA_OVERRIDE_GFX_VERSION", "KMP_AFFINITY", "KMP_BLOCKTIME", "LD_PRELOAD",
    "MALLOC_ARENA_MAX", "MALLOC_CONF", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_",
    "MKL_NUM_THREADS", "NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS", "OMP_PLACES", "OMP_PROC_BIND",
    "ONEDNN_DEFAULT_FPMATH_MODE", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_NUM_THREADS",
    "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ENABLE_MPS_FALLBACK",
    "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_MPS_HIGH_WATERMARK_RATIO", "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "TORCHDYNAMO_DISABLE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "TORCH_BLAS_PREFER_CUBLASLT",
    "TORCH_COMPILE_DISABLE", "TORCH_CUDNN_SDPA_ENABLED",
)  # fmt: skip
"""Environment variables that change bytes, time or numbers; of files among their values only the
name is kept."""

_SETTINGS = {
    "deterministic_algorithms": "are_deterministic_algorithms_enabled",
    "float32_matmul_precision": "get_float32_matmul_precision",
}
_CPU_SETTINGS = {"cpu_capability": "backends.cpu.get_cpu_capability"}
_CUDA_SETTINGS = {
    "cudnn.allow_tf32": "backends.cudnn.allow_tf32",
    "cudnn.benchmark": "backends.cudnn.benchmark",
    "cudnn.deterministic": "backends.cudnn.deterministic",
    "matmul.allow_bf16_reduced_precision": (
        "backends.cuda.matmul.allow_bf16_reduced_precision_reduction"
    ),
    "matmul.allow_tf32": "backends.cuda.matmul.allow_tf32",
    "matmul.fp32_precision": "backends.cuda.matmul.fp32_precision",
}
"""torch's switches that are kept among the variables, and where in torch they are."""


def environment(
    setup_device: str,
    *,
    command: str | None,
    import_torch: bool = True,
    environ: Mapping[str, str] | None = None,
) -> Environment:
    """Of this process, for training on `setup_device` ("cuda", "cpu", "xpu" or "mps"); `command` as
    `public_command` makes it.

    Without `import_torch`, or without torch, its threads, allocator and settings are left out, and
    the device is what the driver says of it: enough to describe a run that never started, but not
    the same `key`. Makes no CUDA context.
    """
    env = os.environ if environ is None else environ
    torch = _torch() if import_torch else None
    cuda = (
        torch.cuda
        if torch is not None and setup_device == "cuda" and torch.cuda.is_available()
        else None
    )
    tree = source(environ=env)
    described = Environment(
        python=platform.python_version(),
        platform=platform.platform(),
        packages=packages(),
        device=_device(setup_device, torch, env),
        cpu=cpu_model(),
        logical_cpus=os.cpu_count(),
        threads=None if torch is None else torch.get_num_threads(),
        memory_bytes=physical_memory_bytes(),
        memory_limit_bytes=memory_limit_bytes(),
        allocator=None if cuda is None else _allocator(cuda),
        variables={name: public_word(env[name]) for name in VARIABLES if name in env}
        | _settings(torch, setup_device),
        commit=tree.commit,
        dirty=tree.dirty,
        diff_hash=tree.diff_hash,
        command=command,
    )
    return marked(described) if setup_device == "cuda" and is_pretended() else described


def _torch() -> Any:
    try:
        return import_module("torch")
    except ImportError:
        return None


_ALLOCATOR_DEFAULTS = {
    "expandable_segments": False,
    "max_split_size": -1,
    "garbage_collection_threshold": 0.0,
}
"""The settings whose values torch tells, and those that change nothing (max_split_size in bytes, -1
for no limit)."""


def _allocator(cuda: Any) -> str:
    """The backend, and what torch says is in force beside its defaults: some versions ignore what a
    variable asks for.

    The snapshot is private to torch, other backends have none, and before the device was used there
    is nothing to ask.
    """
    parts = [str(cuda.get_allocator_backend())]
    if cuda.is_initialized():
        try:
            settings = cuda.memory._snapshot()["allocator_settings"]
            parts += [
                f"{name}:{settings[name]}"
                for name, default in _ALLOCATOR_DEFAULTS.items()
                if settings[name] != default
            ]
        except (RuntimeError, AttributeError, KeyError, TypeError):
            parts = parts[:1]
    return ", ".join(parts)


def packages() -> dict[str, str]:
    """Installed versions of `PACKAGES`, and the version of the code that runs, which need not be
    what is installed."""
    return dict(sorted({"lora-profiler": __version__, **installed_versions(PACKAGES)}.items()))


def _settings(torch: Any, kind: str) -> dict[str, str]:
    """What of torch's own switches changes numbers or speed, as it stands now."""
    if torch is None:
        return {}
    settings = {}
    for name, place in (_SETTINGS | (_CUDA_SETTINGS if kind == "cuda" else _CPU_SETTINGS)).items():
        try:
            value = attrgetter(place)(torch)
            settings[name] = str(value() if callable(value) else value)
        except (
            RuntimeError,
            AttributeError,
        ):  # torch refuses to tell by the older switches what the newer ones set; or too new
            continue
    return settings


# --- the device -----------------------------------------------------------------------------------


def _device(kind: str, torch: Any, environ: Mapping[str, str]) -> Device:
    if kind == "cuda":
        return _cuda_device(torch, environ)
    name, total = cpu_model() or "unknown", physical_memory_bytes()
    driver = None
    if torch is not None and kind == "xpu" and torch.xpu.is_available():
        properties = torch.xpu.get_device_properties()
        name, total = str(properties.name), int(properties.total_memory)
        driver = str(properties.driver_version)
    if torch is not None and kind == "mps" and torch.backends.mps.is_available():
        total = int(torch.mps.recommended_max_memory())
    return Device(kind=kind, name=name, total_bytes=total, driver=driver)


def _cuda_device(torch: Any, environ: Mapping[str, str]) -> Device:
    """CUDA's device, or ROCm's under the same name. What only the driver knows comes from NVML."""
    properties = (
        torch.cuda.get_device_properties()
        if torch is not None and torch.cuda.is_available()
        else None
    )
    uuid = getattr(properties, "uuid", None)
    with open_device(None if uuid is None else str(uuid), environ=environ) as nvml:
        return _described(torch, properties, uuid, nvml)


def _described(torch: Any, properties: Any, uuid: Any, nvml: Nvml) -> Device:
    hip = None if torch is None else torch.version.hip
    cudnn = None if torch is None else torch.backends.cudnn.version()
    capability = None
    if properties is not None:
        capability = (
            properties.gcnArchName.partition(":")[0]
            if hip
            else f"{properties.major}.{properties.minor}"
        )
    return Device(
        kind="cuda",
        name=(nvml.name() if properties is None else str(properties.name)) or "unknown",
        total_bytes=nvml.total_bytes() if properties is None else int(properties.total_memory),
        uuid_hash=nvml.uuid_hash() or (None if uuid is None else uuid_hash(str(uuid))),
        compute_capability=capability,
        driver=nvml.driver(),
        cuda=f"rocm {hip}" if hip else None if torch is None else torch.version.cuda,
        cudnn=None if cudnn is None else str(cudnn),
        vbios=nvml.vbios(),
        ecc=nvml.ecc(),
        mig=nvml.mig(),
        power_limit_watts=nvml.power_limit_watts(),
        clocks_locked=nvml.clocks_locked(),
    )
