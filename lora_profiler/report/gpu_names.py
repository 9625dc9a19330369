"""GPUs as people call them: 'RTX 4090', 'H100', or 'H100 SXM5' next to 'H100 PCIe'."""

import re
from collections.abc import Iterable

from lora_profiler.catalog import Gpu

_MAKERS = ("NVIDIA ", "GeForce ", "AMD ", "Intel ", "Tesla ", "Instinct ", "Radeon ")
_SPOKEN_WITH_A_VOWEL = "AEFHILMNORSX"
"""Letters whose names begin with a vowel: an RTX 4090, an H100, a T4."""
_EXTRAS = (
    re.compile(r" (Edition|Generation|\(per GPU\))"),
    re.compile(r" (\(?\d+ ?GB\)?|HBM\w*)"),
    re.compile(r" (SXM\d?|PCIe|NVL|Blackwell|Workstation|Server)"),
)
"""What a name is left without, one after the other, while it tells the GPU from the others."""


def gpu_name(gpu: Gpu) -> str:
    """Without the maker and the memory: 'RTX 4090', 'H100 SXM5'."""
    return _names(gpu)[2]


def a_gpu(gpu: Gpu) -> str:
    """'an RTX 4090', 'a T4'."""
    name = gpu_name(gpu)
    has_vowel = name[:1] in ("AEIOU" if name[1:2].islower() else _SPOKEN_WITH_A_VOWEL)
    return f"{'an' if has_vowel else 'a'} {name}"


def short_gpu_names(gpus: Iterable[Gpu]) -> dict[str, str]:
    """By key the shortest names that tell these GPUs apart."""
    names = {gpu.key: _names(gpu) for gpu in gpus}
    for level in (3, 2, 1):
        short = {key: of_gpu[level] for key, of_gpu in names.items()}
        if len(set(short.values())) == len(short):
            return short
    return {key: of_gpu[0] for key, of_gpu in names.items()}


def _names(gpu: Gpu) -> list[str]:
    name = gpu.name
    if name.startswith("custom:"):
        return [f"{name.removeprefix('custom:')} GPU"] * (len(_EXTRAS) + 1)
    for maker in _MAKERS:
        name = name.removeprefix(maker)
    names = [name]
    for extra in _EXTRAS:
        names.append(extra.sub("", names[-1]))
    return names
