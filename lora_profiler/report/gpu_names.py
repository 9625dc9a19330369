"""The shortest names that tell some GPUs apart: 'H100', or 'H100 SXM5' next to 'H100 PCIe'."""

import re
from collections.abc import Iterable

from lora_profiler.catalog import Gpu
from lora_profiler.report.answer.verdicts import gpu_name

_EXTRAS = (
    re.compile(r" (Edition|Generation|\(per GPU\))|^(Tesla|Instinct|Radeon) "),
    re.compile(r" (\(?\d+ ?GB\)?|HBM\w*)"),
    re.compile(r" (SXM\d?|PCIe|NVL|Blackwell|Workstation|Server)"),
)
"""What a name is left without, one after the other, while it tells the GPU from the others."""


def short_gpu_names(gpus: Iterable[Gpu]) -> dict[str, str]:
    """By key."""
    names = {gpu.key: _names(gpu) for gpu in gpus}
    for level in (3, 2, 1):
        short = {key: of_gpu[level] for key, of_gpu in names.items()}
        if len(set(short.values())) == len(short):
            return short
    return {key: of_gpu[0] for key, of_gpu in names.items()}


def _names(gpu: Gpu) -> list[str]:
    names = [gpu_name(gpu)]
    for extra in _EXTRAS:
        names.append(extra.sub("", names[-1]))
    return names
