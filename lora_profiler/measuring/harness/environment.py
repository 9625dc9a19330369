"""The machine and software of a run, and the code that it ran, as a record keeps them: no host
name, user name, path or token gets in.

torch is imported when asked for, in the measured process only.
"""

import hashlib
import os
import platform
import re
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

from lora_profiler._common.packages import __version__, installed_versions
from lora_profiler._common.process import cpu_model
from lora_profiler.measuring.harness.machine import memory_limit_bytes, physical_memory_bytes
from lora_profiler.measuring.harness.nvml import OF_DRIVER, Nvml, open_device, uuid_hash
from lora_profiler.measuring.harness.pretended import is_pretended, marked
from lora_profiler.measuring.records.record import Device, Environment

PACKAGE = Path(__file__).resolve().parents[2]
COMMIT_VARIABLE = "LORA_PROFILER_COMMIT"
"""Carries the commit where the files travelled without their repository."""

_GIT_SECONDS = 5.0
_LONGEST_WORD = 200
_SECRET_NAME = re.compile(r"token|secret|passw|credential|api.?key", re.IGNORECASE)
_SECRET = re.compile(
    r"\b(?:hf_|sk-|gh[a-z]_|github_pat_|glpat-|xox[a-z]-|AKIA|eyJ)\S+|(?=[A-Za-z]*\d)(?=\d*[A-Za-z])[A-Za-z0-9]{20,}"
)
"""Known prefixes of keys, and twenty letters and digits or more in one run: no option or model is
called that."""

_PATH = re.compile(r"(?:[A-Za-z]:)?(?:[\\/][\w.+\- ]+)+[\\/]([\w.+\-]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceVersion:
    """The source tree: its commit, whether the package differs from it, and 12 hex digits of the
    difference."""

    commit: str | None = None
    dirty: bool | None = None
    diff_hash: str | None = None


def source(package: Path = PACKAGE, environ: Mapping[str, str] | None = None) -> SourceVersion:
    """The commit of the repository that tracks `package`, or what `LORA_PROFILER_COMMIT` gives;
    nothing for an installed one.

    A repository that merely lies around the package, as around a virtual environment in a project's
    folder, is not asked.
    """
    env = os.environ if environ is None else environ
    if _git(package, env, "ls-files", "--error-unmatch", "--", "__init__.py") is None:
        given = env.get(COMMIT_VARIABLE, "").lower()
        return SourceVersion(commit=given if re.fullmatch("[0-9a-f]{7,40}", given) else None)
    commit = _git(package, env, "rev-parse", "HEAD")
    difference = _git(package, env, "diff", "HEAD", "--binary", "--", ".")
    untracked = _git(package, env, "ls-files", "--others", "--exclude-standard", "-z", "--", ".")
    if commit is None or difference is None or untracked is None:
        return SourceVersion()
    digest = hashlib.sha256(difference)
    new = [name for name in untracked.split(b"\0") if name]
    for name in new:
        digest.update(name + b"\0" + (package / os.fsdecode(name)).read_bytes())
    dirty = bool(difference or new)
    return SourceVersion(
        commit=commit.decode().strip(),
        dirty=dirty,
        diff_hash=digest.hexdigest()[:12] if dirty else None,
    )


def _git(folder: Path, environ: Mapping[str, str], *arguments: str) -> bytes | None:
    """What git says in `folder`; None if it refuses, is not there, or takes longer than a few
    seconds."""
    # without a hook's GIT_DIR, which is another's
    env = {name: value for name, value in environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(
            command,
            check=False,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def public_command(argv: Sequence[str]) -> str:
    """A command line that may be published: paths and addresses by their last part, what looks like
    a key as `***`."""
    words = (
        ["lora-profile" if Path(argv[0]).name == "__main__.py" else argv[0], *argv[1:]]
        if argv
        else []
    )
    public: list[str] = []
    hide_next = False
    for word in words:
        option, equals, value = (
            word.partition("=") if re.match(r"--[\w-]+=", word) else ("", "", word)
        )
        hide = hide_next or bool(equals and _SECRET_NAME.search(option))
        shown = "***" if hide else f"{option}{equals}{public_word(value)}"
        public += [option, shown] if hide and option else [shown]
        hide_next = not equals and word.startswith("-") and bool(_SECRET_NAME.search(word))
    return shlex.join(public)


def public_word(word: str) -> str:
    """`word` without folders, addresses, keys and the names of user and machine. A regular
    expression keeps its backslashes."""
    separator = "/" if word.startswith("re:") else r"[/\\]"
    names = {
        Path(os.path.expanduser("~")).name,
        platform.node(),
        *map(os.environ.get, ("USER", "LOGNAME", "USERNAME")),
    }
    without_addresses = re.sub(
        r"\w+://\S*",
        lambda match: re.split(r"[?#]", match[0])[0].rstrip("/").rpartition("/")[2],
        word,
    )
    parts = re.split(r"([,:;\s])", without_addresses)
    for i, part in enumerate(parts):
        last = re.split(separator, part.rstrip("/"))[-1]
        parts[i] = "***" if last and (last in names or "@" in last) else _SECRET.sub("***", last)
    return "".join(parts)[:_LONGEST_WORD]


def without_paths(text: str) -> str:
    """`text` with every absolute path cut to its last part."""
    return _PATH.sub(r"\1", text)


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
    of_driver = {name: getattr(nvml, name)() for name in OF_DRIVER}
    of_driver["uuid_hash"] = of_driver["uuid_hash"] or (uuid and uuid_hash(str(uuid)))
    return Device(
        kind="cuda",
        name=(nvml.name() if properties is None else str(properties.name)) or "unknown",
        total_bytes=nvml.total_bytes() if properties is None else int(properties.total_memory),
        compute_capability=capability,
        cuda=f"rocm {hip}" if hip else None if torch is None else torch.version.cuda,
        cudnn=None if cudnn is None else str(cudnn),
        **of_driver,
    )
