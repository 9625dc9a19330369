"""What to measure: suites by name. Each is a function that takes a device and returns cases, the
same on every machine."""

from collections.abc import Callable, Mapping

from benchmarks.truth.cpu_suites import cpu_families, cpu_layers, tiny
from benchmarks.truth.h100_suite import h100_campaign
from lora_profiler.measuring.harness import Case
from lora_profiler.question.workload import Device

Suite = Callable[..., tuple[Case, ...]]


def suites() -> Mapping[str, Suite]:
    """Every suite by its name; called with the device to train on, such as
    `suites()["tiny"]("cpu")`."""
    return {suite.__name__: suite for suite in (tiny, cpu_families, cpu_layers, h100_campaign)}


def home_device(suite: str) -> Device:
    """The device that a suite is made for; on others it can be tried out."""
    return "cuda" if suite == h100_campaign.__name__ else "cpu"
