"""From the name that a driver reports to the card of the catalogue: every word has to fit, or there
is no match."""

import re

from lora_profiler.catalog.gpus import Gpu, bundled_gpus
from lora_profiler.units import GIB

_SILENT = frozenset({"nvidia", "amd", "geforce", "tesla", "instinct", "radeon", "gpu"})
"""Words that drivers write or leave out for the same card."""

LEAST_USABLE, MOST_USABLE = 0.88, 1.03
"""Share of the printed GiB that a device reports: ECC costs up to 9 % (T4, A10), some cards hold a
little more than printed."""


def match_device(name: str, total_bytes: int | None = None) -> Gpu | None:
    """The card that torch or NVML calls `name`, None for any doubt: a guessed card would give a
    guessed utilisation.

    The words of the name must be those of one spelling in the catalogue, in any order and without
    case, so that an L40S is neither an L40 nor an L4, and a laptop's chip, a Max-Q or NVL variant,
    a MIG slice or a share of a card is no card at all. `total_bytes` is what the device reports: it
    tells apart cards that share a name, and refuses a card whose memory it cannot be. Without it a
    name that fits several cards fits none.
    """
    words = _words(name)
    fitting = [
        gpu
        for gpu in bundled_gpus()
        if words and words in [_words(spelling) for spelling in (gpu.name, *gpu.aliases)]
    ]
    if total_bytes is not None:
        fitting = [gpu for gpu in fitting if _may_hold(gpu, total_bytes)]
    return fitting[0] if len(fitting) == 1 else None


def _words(name: str) -> list[str]:
    return sorted(
        word for word in re.split(r"[^a-z0-9]+", name.lower()) if word and word not in _SILENT
    )


def _may_hold(gpu: Gpu, total_bytes: int) -> bool:
    if gpu.memory_gib_marketed is None:
        return True
    return LEAST_USABLE <= total_bytes / (gpu.memory_gib_marketed * GIB) <= MOST_USABLE
