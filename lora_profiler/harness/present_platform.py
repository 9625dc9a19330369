"""The platform of this machine, before any process is started: the card that a child would use, and the torch it would import."""

from importlib.metadata import PackageNotFoundError, version

from lora_profiler.harness.nvml import open_device
from lora_profiler.platform import TORCH, Platform, version_of
from lora_profiler.workload import Device


def present_platform(device: Device) -> Platform:
    """What `device` is here; the usual platform for devices other than a CUDA card, and where NVML or pip cannot tell."""
    if device != "cuda":
        return Platform()
    with open_device() as card:
        capability = card.compute_capability()
    try:
        torch = version_of(version("torch"))
    except PackageNotFoundError:
        torch = None
    return Platform(capability=10 * capability[0] + capability[1] if capability else None, torch=torch or TORCH)
