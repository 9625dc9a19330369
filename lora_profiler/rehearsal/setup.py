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
from dataclasses import dataclass
from pathlib import Path

from lora_profiler.errors import RehearsalError
from lora_profiler.rehearsal.environment import (
    STAND_IN_INSTALLER,
    CudaEnvironment,
    check_platform,
    read_environment,
    stand_ins,
    was_set_up,
)

OF_HARNESS = ("transformers", "peft", "accelerate", "msgspec")
"""What most scripts and the harness' own case import beside torch."""
_UNFINISHED = ".unfinished"
_NVIDIA = re.compile(r"(nvidia|cuda)-")
_REQUIREMENT = re.compile(r"([\w.-]+)\s*(?:\[([^\]]*)\])?\s*([^;]*)")
_CONSTRAINTS = "constraints.txt"
_ASK = (
    "import importlib.metadata as m, json, sysconfig; print(json.dumps("
    "[m.version('torch'), m.requires('torch') or [], sysconfig.get_path('purelib')]))"
)


Tell = Callable[[str, int, int], None]
"""What is being done, how many steps are done, and of how many."""
_STEPS = 4


def set_up(folder: Path, tell: Tell) -> CudaEnvironment:
    """The environment in `folder`: made now, or as an earlier call has left it, with torch put back
    where something replaced it. A new one that fails or is interrupted leaves nothing; pip's cache
    makes the next one short.

    Raises RehearsalError where it cannot be made.
    """
    check_platform()
    folder = folder.absolute()
    python = folder / "bin" / "python"
    unfinished = folder / _UNFINISHED
    if unfinished.exists():  # of a process that was killed
        shutil.rmtree(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not python.exists():
            raise RehearsalError(f"{folder} is there and is no environment; name a new folder.")
        if was_set_up(python):
            _mend(folder, python, tell)
        return read_environment(python)
    with _removed_unless_finished(folder, unfinished), _pip_variables(folder) as variables:
        tell("a new environment of Python", 0, _STEPS)
        _run([sys.executable, "-m", "venv", str(folder)], variables, f"an environment in {folder}")
        _install(folder, python, tell, variables)
        environment = read_environment(python)
    return environment


def _mend(folder: Path, python: Path, tell: Tell) -> None:
    """An environment that an earlier version made has no constraint of its own yet."""
    try:
        read_environment(python)
    except RehearsalError:
        tell("the environment exists, with another torch than at first", 0, _STEPS)
        with _pip_variables(folder) as variables:
            _install(folder, python, tell, variables)
    else:
        _keep_torch(folder, _installed_torch(python).version)


def _install(folder: Path, python: Path, tell: Tell, variables: dict[str, str]) -> None:
    tell("torch, a wheel of about 0.5 GB", 1, _STEPS)
    no_further_index = {"PIP_EXTRA_INDEX_URL": variables["PIP_FIND_LINKS"]}
    _pip(python, ["--no-deps", "--force-reinstall", "torch"], variables | no_further_index)
    torch = _installed_torch(python)
    _keep_torch(folder, torch.version)
    write_stand_ins(torch.site, filter(_is_nvidias, torch.requirements))
    tell("what torch imports, and Triton with CUDA's headers", 2, _STEPS)
    _pip(python, [each for each in torch.requirements if _is_own(each)], variables)
    tell(", ".join(OF_HARNESS), 3, _STEPS)
    _pip(python, OF_HARNESS, variables)


def _keep_torch(folder: Path, version: str) -> None:
    """The environment's own pip configuration, which overrides the user's and the system's: a
    constraint there, or a folder of CPU wheels, would have pip replace this torch as it installs
    something else. `===` admits no 2.15.0+cpu for 2.15.0."""
    constraints = folder / _CONSTRAINTS
    constraints.write_text(f"torch==={version}\n", "utf-8")
    # a URL, as pip splits the value at spaces
    (folder / "pip.conf").write_text(f"[install]\nconstraint = {constraints.as_uri()}\n", "utf-8")


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
def _pip_variables(folder: Path) -> Iterator[dict[str, str]]:
    """pip as it is configured here, but for folders of wheels and constraints: those are often of
    CPU builds, which pip prefers to the index'. What the environment in `folder` keeps is kept."""
    with tempfile.TemporaryDirectory() as name:
        empty, constraints = Path(name), folder / _CONSTRAINTS
        (empty / "torch").mkdir()  # so that it is an index without a torch, too
        (empty / "torch" / "index.html").touch()
        if not constraints.exists():
            constraints = empty / "constraints"
            constraints.touch()
        yield os.environ | {
            "PIP_FIND_LINKS": empty.as_uri(),
            "PIP_CONSTRAINT": constraints.as_uri(),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PYTHONPATH": "",
        }


def _pip(python: Path, packages: Sequence[str], variables: Mapping[str, str]) -> None:
    command = [str(python), "-m", "pip", "install", "--quiet", *packages]
    _run(command, variables, " ".join(each for each in packages if not each.startswith("-")))


def _run(command: Sequence[str], variables: Mapping[str, str], what: str) -> None:
    """What it says goes to stderr. Raises RehearsalError."""
    if subprocess.run(command, env=variables, stdout=2, check=False).returncode:
        raise RehearsalError(f"{what} could not be installed; see the reason above.")


@dataclass(frozen=True, slots=True)
class _Torch:
    """`site`: the folder of the environment's packages."""

    version: str
    requirements: list[str]
    site: Path


def _installed_torch(python: Path) -> _Torch:
    done = subprocess.run([python, "-c", _ASK], check=True, capture_output=True, text=True)
    version, requirements, site = json.loads(done.stdout)
    return _Torch(version, requirements, Path(site))


def _is_nvidias(requirement: str) -> bool:
    return _NVIDIA.match(requirement) is not None and "extra ==" not in requirement


def _is_own(requirement: str) -> bool:
    return _NVIDIA.match(requirement) is None and "extra ==" not in requirement


def write_stand_ins(site: Path, requirements: Iterator[str]) -> None:
    """For each an entry in pip's list of what is installed, and no file beside it: so that pip
    installs a package that needs torch, and not NVIDIA's with it. In place of those of another
    torch; a package that is there stays."""
    for entry in stand_ins(site):
        shutil.rmtree(entry)
    for requirement in requirements:
        match = _REQUIREMENT.match(requirement)
        assert match is not None
        name, extras, versions = match.groups()
        version = re.search(r"[=>]=\s*([\w.]+)", versions)
        number = version[1] if version else "0"
        stem = name.replace("-", "_")
        if any(site.glob(f"{stem}-*.dist-info")):
            continue
        entry = site / f"{stem}-{number}.dist-info"
        entry.mkdir()
        lines = [
            "Metadata-Version: 2.1",
            f"Name: {name}",
            f"Version: {number}",
            "Summary: Empty replacement of a package that a rehearsal does not need",
            *(f"Provides-Extra: {extra.strip()}" for extra in (extras or "").split(",") if extra),
        ]
        (entry / "METADATA").write_text("\n".join(lines) + "\n", "utf-8")
        (entry / "INSTALLER").write_text(f"{STAND_IN_INSTALLER}\n", "utf-8")
        files = ("METADATA", "INSTALLER", "RECORD")
        (entry / "RECORD").write_text("".join(f"{entry.name}/{f},,\n" for f in files), "utf-8")
