"""What a machine must have for a suite to be measured on it, asked before the first case and not
once a case."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import invalidate_caches
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import BadZipFile, ZipFile

from lora_profiler.errors import UsageError
from lora_profiler.harness import MeasurementError, environment_of
from lora_profiler.harness.preflight import NEEDED
from lora_profiler.records.record import Environment

LEAST_VERSIONS = {"torch": (2, 11), "transformers": (5, 17)}


def usable_environment(device: str, installed: Callable[[str], object] = find_spec) -> Environment:
    """The environment in which cases will run. Raises MeasurementError where something that every
    case needs is missing."""
    missing = [name for name in NEEDED if installed(name) is None]
    if missing:
        raise MeasurementError(
            f"this machine lacks {', '.join(missing)}, without which nothing can be measured."
        )
    _try_imports()
    environment = environment_of(device)
    for name, least in LEAST_VERSIONS.items():
        found = environment.packages.get(name, "0")
        if _version(found) < least:
            raise MeasurementError(
                f"{name} is {found} here; it must be {'.'.join(map(str, least))} or later."
            )
    if (
        device == "cuda" and environment.device.compute_capability is None
    ):  # torch's alone: NVML gives name and size without it
        torch, shown = environment.packages["torch"], environment.device.total_bytes is not None
        though = (
            f", though the driver shows {environment.device.name}: is this a build of torch for"
            " CUDA?"
            if shown
            else "."
        )
        raise MeasurementError(f"torch {torch} sees no cuda device on this machine{though}")
    return environment


def _try_imports() -> None:
    """Imports what every case needs, in a process of its own. Raises MeasurementError: better now
    than once a case."""
    command = [sys.executable, "-c", f"import {', '.join(NEEDED)}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise MeasurementError(
            f"{', '.join(NEEDED)} cannot all be imported on this machine: {reason}"
        )


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.partition("+")[0].split(".")[:2] if part.isdigit())


@contextmanager
def importable(wheel: Path | None) -> Iterator[None]:
    """Inside, this process and those that it starts can import what is in the wheel."""
    if wheel is None:
        yield
        return
    with TemporaryDirectory(prefix="lora-profiler-wheel-") as folder:
        try:
            with ZipFile(wheel) as archive:
                archive.extractall(folder)
        except (OSError, BadZipFile) as e:
            raise UsageError(f"{wheel} is no wheel that can be unpacked: {e}.") from None
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, before)))
        sys.path.insert(0, folder)
        invalidate_caches()
        try:
            yield
        finally:
            sys.path.remove(folder)
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before
