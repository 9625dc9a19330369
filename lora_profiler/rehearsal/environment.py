"""The environment whose torch is rehearsed: its Python, its torch, and the libraries that go over
NVIDIA's. Imports no torch."""

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from lora_profiler.errors import RehearsalError
from lora_profiler.question.gpu_platform import CUDNN, version_of, version_text

_OVER_CUDA = ("bitsandbytes", "flash_attn", "torchvision", "torchao", "xformers")
_OLDEST_PYTHON = (3, 10)
_MACHINES = ("x86_64", "aarch64")
STAND_IN_INSTALLER = "lora-profiler"
"""Who installed an entry that stands in for a package of NVIDIA's; `--setup` writes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CudaEnvironment:
    """`cuda`: as torch writes it, "13.0". `headers`: a folder with cuda.h and cuda_runtime_api.h of
    that major version.

    `cudnn` and `nccl` are the versions that the wheel asks for, as those libraries count.
    `missing`: what the harness' own case imports and the environment lacks.
    """

    python: Path
    torch: str
    cuda: str
    cudnn: int
    nccl: int
    libraries: tuple[Path, ...]
    driver_sources: tuple[Path, ...]
    headers: Path
    missing: frozenset[str] = frozenset()

    @property
    def cuda_major(self) -> int:
        return int(self.cuda.partition(".")[0])

    @property
    def caution(self) -> str | None:
        """What to say of a torch that no rehearsal was tried with."""
        version = version_of(self.torch)
        if version is None or version in CUDNN:
            return None
        known = ", ".join(version_text(each) for each in CUDNN)
        return f"Rehearsals were tried with torch {known}; this is {self.torch}."


def check_platform() -> None:
    """Raises RehearsalError anywhere but on Linux."""
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        raise RehearsalError(
            "A rehearsal loads torch's Linux build over libraries of its own, on x86-64 or "
            "aarch64; this is "
            f"{platform.system()} on {platform.machine()}. In a Linux container or under WSL it "
            "runs."
        )


def find_python(command: Sequence[str], python: str | None) -> Path:
    """The Python of the environment: `python`, else that which `command` begins with or which lies
    beside it, else this one.

    Raises RehearsalError for one that is not there.
    """
    if python is not None:
        program = shutil.which(python)
        if program is None:
            raise RehearsalError(f"There is no Python {python}; name another with --python.")
        return Path(os.path.abspath(program))
    program = shutil.which(command[0])
    if program is None:
        return Path(sys.executable)
    if is_python(command[0]):
        return Path(os.path.abspath(program))
    beside = Path(os.path.abspath(program)).with_name("python")
    return beside if beside.exists() else Path(sys.executable)


def is_python(word: str) -> bool:
    return re.fullmatch(r"python(3(\.\d+)?)?", Path(word).name) is not None


def read_environment(python: Path) -> CudaEnvironment:
    """Raises RehearsalError where that Python has no CUDA build of torch, or no headers to build
    for it."""
    done = subprocess.run([python, _probe()], check=False, capture_output=True, text=True, cwd="/")
    try:
        installed = json.loads(done.stdout)
    except json.JSONDecodeError:
        last = done.stderr.strip().rpartition("\n")[2]
        raise RehearsalError(f"{python} does not run: {last or 'it says nothing'}.") from None
    if tuple(installed["version"]) < _OLDEST_PYTHON:
        raise RehearsalError(
            f"{python} is Python {'.'.join(map(str, installed['version']))}; a rehearsal needs "
            "3.10 or later."
        )
    folders = {name: Path(folder) for name, folder in installed["folders"].items() if folder}
    if "torch" not in folders:
        raise RehearsalError(f"{python} has no torch. {_install_hint(python)}")
    torch, cuda = _versions(folders["torch"])
    if cuda is None:
        raise RehearsalError(
            f"{python} has torch {torch}, which is not a CUDA build. {_install_hint(python)}"
        )
    sources = (
        [folders["triton"] / "backends" / "nvidia" / "driver.c"] if "triton" in folders else []
    )
    return CudaEnvironment(
        python=python,
        torch=torch,
        cuda=cuda,
        cudnn=_pinned(installed["requires"], "nvidia-cudnn-cu") or CUDNN[max(CUDNN)],
        nccl=_pinned(installed["requires"], "nvidia-nccl-cu") or 22900,
        libraries=_libraries(folders, cuda),
        driver_sources=tuple(source for source in sources if source.exists()),
        headers=_headers(folders, torch, cuda, python),
        missing=frozenset(installed["missing"]),
    )


def _probe() -> str:
    return str(files("lora_profiler.rehearsal") / "inside" / "probe.py")


def was_set_up(python: Path) -> bool:
    """Whether `rehearse --setup` made the environment of this Python."""
    sites = python.parent.parent.glob("lib/python3*/site-packages")
    return any(stand_ins(site) for site in sites)


def stand_ins(site: Path) -> list[Path]:
    """The entries in `site` that stand in for packages of NVIDIA's."""
    return [
        installer.parent
        for installer in site.glob("*.dist-info/INSTALLER")
        if installer.read_text("utf-8").strip() == STAND_IN_INSTALLER
    ]


def _install_hint(python: Path) -> str:
    if was_set_up(python):
        folder = shlex.quote(str(python.parent.parent))
        return (
            f"Another package replaced it. Put it back:\n  lora-profile rehearse --setup {folder}"
        )
    return (
        "Make an environment with one, without a GPU: `lora-profile rehearse --setup rehearsal`\n"
        "Then: `lora-profile rehearse --python rehearsal/bin/python --gpu KEY -- COMMAND`"
    )


def _versions(torch: Path) -> tuple[str, str | None]:
    """torch's version and that of its CUDA, None for another build."""
    text = (torch / "version.py").read_text("utf-8")
    version = re.search(r"""^__version__.*?=.*?['"]([^'"]+)['"]""", text, re.MULTILINE)
    cuda = re.search(r"""^cuda\b.*?=\s*['"]([^'"]+)['"]""", text, re.MULTILINE)
    return version[1] if version else "of no known version", cuda[1] if cuda else None


def _pinned(requires: Sequence[str], name: str) -> int | None:
    """As cuDNN and NCCL count: 92000 of nvidia-cudnn-cu13==9.20.0.48."""
    for requirement in requires:
        version = re.match(re.escape(name) + r"\d+==(\d+)\.(\d+)\.(\d+)", requirement)
        if version:
            major, minor, patch = map(int, version.groups())
            return (100 * major + minor) * 100 + patch
    return None


def _libraries(folders: dict[str, Path], cuda: str) -> tuple[Path, ...]:
    """torch's own, and those of packages that call CUDA themselves; of several builds that for
    torch's version of CUDA."""
    from lora_profiler.rehearsal.elf import read_library

    runtime = f"libcudart.so.{cuda.partition('.')[0]}"
    libraries = sorted((folders["torch"] / "lib").glob("*.so"))
    for name in _OVER_CUDA:
        for path in sorted(folders[name].rglob("*.so")) if name in folders else ():
            try:
                needed = read_library(path).needed
            except ValueError:
                continue
            if runtime in needed:
                libraries.append(path)
    return tuple(libraries)


def _headers(folders: dict[str, Path], torch: str, cuda: str, python: Path) -> Path:
    """Those that Triton brings, or nvidia-cuda-runtime. Structs differ between major versions of
    CUDA, so that has to agree."""
    places = [folders["triton"] / "backends" / "nvidia" / "include"] if "triton" in folders else []
    if "nvidia" in folders:
        places += sorted(folders["nvidia"].glob("*/include"))
    major = int(cuda.partition(".")[0])
    for place in places:
        runtime = place / "cuda_runtime_api.h"
        if not runtime.exists() or not (place / "cuda.h").exists():
            continue
        version = re.search(
            r"#define\s+CUDART_VERSION\s+(\d+)", runtime.read_text("utf-8", "replace")
        )
        if version and int(version[1]) // 1000 == major:
            return place
    names = (
        ("nvidia-cuda-runtime", "nvidia-cuda-crt")
        if major >= 13
        else (f"nvidia-cuda-runtime-cu{major}", f"nvidia-cuda-nvcc-cu{major}")
    )
    packages = " ".join(f"'{name}=={major}.*'" for name in names)
    raise RehearsalError(
        f"torch {torch} was built for CUDA {cuda}; its headers are missing. Install them: "
        f"`{python} -m pip install {packages}`"
    )
