"""A card of the catalogue as the stub libraries pretend it."""

from dataclasses import dataclass

from lora_profiler.catalog import Gpu
from lora_profiler.catalog.contexts import processor_table
from lora_profiler.errors import UsageError
from lora_profiler.units import MIB

MOST_CARDS = 64
"""MOST_CARDS of stubs/device.h."""
_SIZES = {
    60: (65_536, 49_152, 2048, 32),
    70: (98_304, 98_304, 2048, 32),
    75: (65_536, 65_536, 1024, 16),
    80: (167_936, 166_912, 2048, 32),
    86: (102_400, 101_376, 1536, 16),
    89: (102_400, 101_376, 1536, 24),
    90: (233_472, 232_448, 2048, 32),
    100: (233_472, 232_448, 2048, 32),
    103: (233_472, 232_448, 2048, 32),
    120: (102_400, 101_376, 1536, 24),
    121: (102_400, 101_376, 1536, 24),
}
"""By compute capability: shared memory of a multiprocessor and of one block in bytes, threads and
blocks of a multiprocessor. Source: "Technical Specifications per Compute Capability" in NVIDIA's
CUDA programming guide."""
_USUAL_CAPABILITY, _USUAL_MULTIPROCESSORS, _USUAL_L2_MIB = 80, 108, 40
"""Of an A100, for custom:24GiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PretendedCard:
    """`context_bytes`: what the driver takes of it for each process, an estimate. `is_custom`: only
    its memory was given, all else is an A100's."""

    key: str
    name: str
    capability: int
    multiprocessors: int
    l2_bytes: int
    total_bytes: int
    context_bytes: int
    is_custom: bool = False

    def environment(self, count: int) -> dict[str, str]:
        """What `count` of them are told to the stub libraries by."""
        shared, shared_per_block, threads, blocks = _SIZES[self.capability]
        fields = {
            "name": self.name.replace("|", " "),
            "major": self.capability // 10,
            "minor": self.capability % 10,
            "multiprocessors": self.multiprocessors,
            "shared_per_multiprocessor": shared,
            "shared_per_block": shared_per_block,
            "threads_per_multiprocessor": threads,
            "blocks_per_multiprocessor": blocks,
            "l2_bytes": self.l2_bytes,
            "total_bytes": self.total_bytes,
            "context_bytes": self.context_bytes,
        }
        text = "|".join(f"{name}={value}" for name, value in fields.items())
        return {"LORA_PROFILER_CARD": text, "LORA_PROFILER_CARDS": str(count)}


def pretended(gpu: Gpu, context_bytes: int) -> PretendedCard:
    """Raises UsageError for a card that runs no CUDA, or of no fixed size."""
    usable = gpu.usable_bytes
    is_custom = gpu.vendor == "custom"
    capability = _USUAL_CAPABILITY if is_custom else gpu.capability
    if gpu.vendor not in ("custom", "nvidia") or capability not in _SIZES or usable is None:
        raise UsageError(
            f"{gpu.key} cannot be simulated; a rehearsal runs torch's CUDA build, for NVIDIA GPUs."
        )
    multiprocessors, l2_mib = processor_table().get(
        gpu.key, (_USUAL_MULTIPROCESSORS, _USUAL_L2_MIB)
    )
    return PretendedCard(
        key=gpu.key,
        name=gpu.name,
        capability=capability,
        multiprocessors=multiprocessors,
        l2_bytes=l2_mib * MIB,
        total_bytes=usable,
        context_bytes=context_bytes,
        is_custom=is_custom,
    )
