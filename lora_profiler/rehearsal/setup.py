"""A private environment for rehearsals: torch's CUDA build, what it imports, and none of NVIDIA's
packages, which would be several GB that nothing here opens."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lora_profiler.errors import RehearsalError
from lora_profiler.rehearsal.environment import CudaEnvironment, check_platform, read_environment

OF_HARNESS = ("transformers", "peft", "accelerate", "msgspec")
"""What most scripts and the harness' own case import beside torch."""
_UNFINISHED = ".unfinished"
_NVIDIA = re.compile(r"(nvidia|cuda)-")
_REQUIREMENT = re.compile(r"([\w.-]+)\s*(?:\[([^\]]*)\])?\s*([^;]*)")
_ASK = (
    "import importlib.metadata as m, json, sysconfig; "
    "print(json.dumps([m.requires('torch') or [], sysconfig.get_path('purelib')]))"
)


def set_up(folder: Path, say: Callable[[str], None]) -> CudaEnvironment:
    """The environment in `folder`: made now, or as an earlier call has left it. One that fails or
    is interrupted leaves nothing; pip's cache makes the next one short.

    Raises RehearsalError where it cannot be made.
    """
    check_platform()
    python = folder.absolute() / "bin" / "python"
    unfinished = folder / _UNFINISHED
    if unfinished.exists():  # of a process that was killed
        shutil.rmtree(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if python.exists():
            return read_environment(python)
        raise RehearsalError(f"{folder} is there and is no environment; name a new folder.")
    with _removed_unless_finished(folder, unfinished), _pip_variables() as variables:
        say("1 of 4: a new environment of Python")
        _run([sys.executable, "-m", "venv", str(folder)], variables, f"an environment in {folder}")
        say("2 of 4: torch, a wheel of about 0.5 GB")
        _pip(python, ["--no-deps", "torch"], variables)
        requirements, site = _torch_requirements(python)
        own = [each for each in requirements if _is_own(each)]
        write_stand_ins(Path(site), filter(_is_nvidias, requirements))
        say("3 of 4: what torch imports, and Triton with CUDA's headers")
        _pip(python, own, variables)
        say(f"4 of 4: {', '.join(OF_HARNESS)}")
        _pip(python, OF_HARNESS, variables)
        environment = read_environment(python)
    return environment


@contextmanager
def _removed_unless_finished(folder: Path, unfinished: Path) -> Iterator[None]:
    """Scripts of an environment name its place, so that it cannot be made beside it and moved."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        unfinished.touch()
    except OSError as error:
        raise RehearsalError(f"{folder} cannot be written: {error.strerror}.") from None
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    unfinished.unlink()


@contextmanager
def _pip_variables() -> Iterator[dict[str, str]]:
    """pip as it is configured here, but for folders of wheels and constraints: those are often of
    CPU builds, which pip prefers to the index'."""
    with tempfile.TemporaryDirectory() as empty:
        constraints = Path(empty) / "constraints"
        constraints.touch()
        yield os.environ | {
            "PIP_FIND_LINKS": empty,
            "PIP_CONSTRAINT": str(constraints),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PYTHONPATH": "",
        }


def _pip(python: Path, packages: Sequence[str], variables: Mapping[str, str]) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", *packages]
    _run(command, variables, " ".join(packages))


def _run(command: Sequence[str], variables: Mapping[str, str], what: str) -> None:
    """What it says goes to stderr. Raises RehearsalError."""
    if subprocess.run(command, env=variables, stdout=2, check=False).returncode:
        raise RehearsalError(f"{what} could not be installed; the reason stands above.")


def _torch_requirements(python: Path) -> tuple[list[str], str]:
    """What torch asks for, and the folder of the environment's packages."""
    done = subprocess.run([python, "-c", _ASK], check=True, capture_output=True, text=True)
    requirements, site = json.loads(done.stdout)
    return requirements, site


def _is_nvidias(requirement: str) -> bool:
    return _NVIDIA.match(requirement) is not None and "extra ==" not in requirement


def _is_own(requirement: str) -> bool:
    return _NVIDIA.match(requirement) is None and "extra ==" not in requirement


def write_stand_ins(site: Path, requirements: Iterator[str]) -> None:
    """For each an entry in pip's list of what is installed, and no file beside it: so that pip
    installs a package that needs torch, and not NVIDIA's with it."""
    for requirement in requirements:
        match = _REQUIREMENT.match(requirement)
        assert match is not None
        name, extras, versions = match.groups()
        version = re.search(r"[=>]=\s*([\w.]+)", versions)
        number = version[1] if version else "0"
        entry = site / f"{name.replace('-', '_')}-{number}.dist-info"
        entry.mkdir()
        lines = [
            "Metadata-Version: 2.1",
            f"Name: {name}",
            f"Version: {number}",
            "Summary: Stands in for a package that a rehearsal does not need; holds nothing",
            *(f"Provides-Extra: {extra.strip()}" for extra in (extras or "").split(",") if extra),
        ]
        (entry / "METADATA").write_text("\n".join(lines) + "\n", "utf-8")
        (entry / "INSTALLER").write_text("lora-profiler\n", "utf-8")
        files = ("METADATA", "INSTALLER", "RECORD")
        (entry / "RECORD").write_text("".join(f"{entry.name}/{f},,\n" for f in files), "utf-8")
