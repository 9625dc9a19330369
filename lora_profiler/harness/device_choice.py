"""Which device a run takes where nobody named one, the accelerator that is there, else the CPU; and
the platform that it is. Neither imports torch nor makes a context in this process.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

from lora_profiler._common.packages import installed_version
from lora_profiler.harness.nvml import open_device
from lora_profiler.harness.preflight import MeasurementError
from lora_profiler.platform import TORCH, Platform, version_of
from lora_profiler.workload import Device

CPU_BUILD = "+cpu"
"""How torch's own version ends where it was built without any accelerator."""
_DEVICE_FILES = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg", "/dev/dri")
"""What Linux shows where NVIDIA (dxg: under Windows), AMD or Intel devices can be used."""
_QUESTION = (
    "import torch; found = torch.accelerator.current_accelerator(check_available=True); print(found"
    " and found.type)"
)
_ANSWER_SECONDS = 120.0


def present_device(
    platform: str = sys.platform,
    exists: Callable[[str], bool] = lambda path: Path(path).exists(),
    ask: Callable[[], str | None] | None = None,
) -> Device:
    """The accelerator that torch would train on here, "cpu" where there is none.

    Most machines tell at once; where a device is there but not NVIDIA's to tell of, torch is asked
    in a process of its own.
    """
    if torch_version().endswith(CPU_BUILD):
        return "cpu"
    with open_device() as nvml:
        if nvml.available:
            return "cuda"
    if platform == "linux" and not any(map(exists, _DEVICE_FILES)):
        return "cpu"
    accelerator = (ask or _torch_accelerator)()
    return accelerator if accelerator in get_args(Device) else "cpu"  # type: ignore[return-value]  # one of the four by now


def present_platform(device: Device) -> Platform:
    """What `device` is here: no capability where it is no CUDA card or NVML cannot tell, the usual
    torch where pip cannot."""
    torch = version_of(torch_version())
    capability = None
    if device == "cuda":
        with open_device() as card:
            version = card.compute_capability()
        capability = 10 * version[0] + version[1] if version else None
    return Platform(capability=capability, torch=torch or TORCH)


def check_device(device: Device) -> None:
    """Raises MeasurementError where the installed torch was built without the device."""
    if device != "cpu" and torch_version().endswith(CPU_BUILD):
        raise MeasurementError(
            f"torch {torch_version()} is built for the CPU alone and has no {device}; take --device"
            " cpu."
        )


def torch_version() -> str:
    """The installed torch's version; "" if there is none."""
    return installed_version("torch") or ""


def _torch_accelerator() -> str | None:
    """What torch names as its accelerator in a process of its own; None where it has none, or where
    that process fails."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _QUESTION],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_ANSWER_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
