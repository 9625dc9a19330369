"""Where a step runs, as far as its memory depends on it: the card's compute capability and the
version of torch."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lora_profiler.errors import UsageError

CUDNN: Mapping[tuple[int, int], int] = {
    (2, 11): 91900,
    (2, 13): 92000,
    (2, 14): 92400,
    (2, 15): 92600,
}
"""torch -> the cuDNN that its CUDA wheel on PyPI asks for, as cuDNN counts (9.20.0 is 92000):
`Requires-Dist` of the wheels. A version that is not here has the one of the version before."""
TORCH = (2, 13)
"""The torch that is answered for unless another is named: rules were held against its CUDA
build."""
CUDA_RULES = "Checked against PyTorch's CUDA allocator without a GPU; not yet on one."
OLDEST_TORCH, NEWEST_TORCH = min(CUDNN), max(CUDNN)
SMALL_MEMORY_BYTES = 49 << 29
"""24.5 GiB: the memory of a card up to which Unsloth's loss makes tiles (2026.10.9,
`fused_losses/fused_linear.py`, _SMALL_CARD_BYTES)."""
BFLOAT16_CAPABILITY = 80
"""The first compute capability with arithmetic of bfloat16; before it torch imitates it, or
refuses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Platform:
    """`capability`: the card's compute capability times ten, 75 for sm_75; None where no NVIDIA
    card is named: answers then hold for cards from sm_80 to sm_89. `torch`: major and minor
    version. `has_small_memory`: at most SMALL_MEMORY_BYTES.

    Examples:
        >>> from lora_profiler import Platform
        >>> Platform(capability=90).capability_text
        'sm_90'
    """

    capability: int | None = None
    torch: tuple[int, int] = TORCH
    has_small_memory: bool = False

    @property
    def has_bfloat16(self) -> bool:
        """Whether products in bfloat16 run on the card itself."""
        return self.capability is None or self.capability >= BFLOAT16_CAPABILITY

    @property
    def cudnn(self) -> int:
        return CUDNN[max((known for known in CUDNN if known <= self.torch), default=OLDEST_TORCH)]

    @property
    def torch_text(self) -> str:
        return version_text(self.torch)

    @property
    def compute_capability(self) -> str | None:
        """As NVIDIA and torch's properties write it: 7.5."""
        return (
            None if self.capability is None else f"{self.capability // 10}.{self.capability % 10}"
        )

    @property
    def capability_text(self) -> str | None:
        """As torch writes it: sm_75."""
        return None if self.capability is None else f"sm_{self.capability}"


def version_text(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def capability_of(text: str | None) -> int | None:
    """90 for the compute capability "9.0", None for none and for another vendor's architecture
    ("gfx942")."""
    match = re.fullmatch(r"(\d{1,2})\.(\d)", text or "")
    return None if match is None else 10 * int(match[1]) + int(match[2])


def version_of(text: str) -> tuple[int, int] | None:
    """(major, minor) of a version as packages write it, None for another text."""
    match = re.match(r"(\d{1,3})\.(\d{1,3})(?!\d)", text.strip())
    return None if match is None else (int(match[1]), int(match[2]))


def parse_torch(text: str) -> tuple[int, int]:
    """(major, minor) of a version that is asked about. Raises UsageError for another text, and for
    a version without rules."""
    version = version_of(text)
    if version is None:
        raise UsageError(f"torch's version is {text!r}; write it as in 2.13.")
    if not OLDEST_TORCH <= version <= NEWEST_TORCH:
        known = f"{version_text(OLDEST_TORCH)} to {version_text(NEWEST_TORCH)}"
        raise UsageError(f"torch {text.strip()} is not known here; versions {known} are.")
    return version
