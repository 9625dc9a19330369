"""The platform of this machine, before any process is started: the card that a child would use, and
the torch it would import."""

from lora_profiler._versions import installed_version
from lora_profiler.harness.nvml import open_device
from lora_profiler.platform import TORCH, Platform, version_of
from lora_profiler.workload import Device


def present_platform(device: Device) -> Platform:
    """What `device` is here: no capability where it is no CUDA card or NVML cannot tell, the usual
    torch where pip cannot."""
    torch = version_of(installed_version("torch") or "")
    capability = None
    if device == "cuda":
        with open_device() as card:
            found = card.compute_capability()
        capability = 10 * found[0] + found[1] if found else None
    return Platform(capability=capability, torch=torch or TORCH)
