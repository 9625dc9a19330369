"""What a card holds of a training beside its tensors, and the verdict on a peak."""

from dataclasses import dataclass
from typing import Literal, Protocol

from lora_profiler.catalog.contexts import context_of
from lora_profiler.errors import UsageError
from lora_profiler.platform import Platform
from lora_profiler.prediction import Prediction
from lora_profiler.support.library_memory import WORKSPACES
from lora_profiler.units import MIB

Verdict = Literal["fits", "tight", "does_not_fit"]

_MIB_32 = 32 * MIB
_MIB_128 = 128 * MIB
_WORKSPACE_BYTES = {
    "hopper": _MIB_32,
    "blackwell": _MIB_32,
    "blackwell_dc": _MIB_32,
    "cdna2": _MIB_32,
    "rdna3": _MIB_32,
    "cdna3": _MIB_128,
    "cdna4": _MIB_128,
}
_OLDER_WORKSPACE_BYTES = 8_519_680
"""One BLAS workspace, per handle and stream: torch's aten/src/ATen/cuda/CUDABlas.cpp
(parseChosenWorkspaceSize)."""

FRAGMENTATION_PERCENT, FRAGMENTATION_BYTES = 25, 256 * MIB
"""What the caching allocator loses to rounding and holes where no tape can be replayed: a share of
what comes and goes in a step, and some bytes. At least 19 in 20 of the simulated questions of
`benchmarks/results/fragmentation.md` lose less. Most lose far less, so that a verdict by this bound
is more often 'tight'."""


class Card(Protocol):
    """What a verdict needs to know of a card; `catalog.find_gpu` gives one."""

    @property
    def key(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def vendor(self) -> str: ...
    @property
    def architecture(self) -> str: ...
    @property
    def capability(self) -> int | None: ...
    def platform(self, torch: tuple[int, int]) -> Platform: ...
    @property
    def usable_bytes(self) -> int | None: ...
    @property
    def usable_is_estimated(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """Memory that no tensor shows, in bytes: kept free by a verdict of 'fits', and told apart by
    cause.

    `context_bytes` is the most that is published of the card's class, `least_context_bytes` the
    least. `fragmentation_bytes` is what the simulated allocator needs beyond peak and workspaces
    where `is_simulated`, else a bound.
    """

    context_bytes: int
    least_context_bytes: int
    workspace_bytes: int
    fragmentation_bytes: int
    is_simulated: bool = False

    @property
    def total_bytes(self) -> int:
        return self.context_bytes + self.workspace_bytes + self.fragmentation_bytes


def usable_bytes(gpu: Card) -> int:
    """What a program can have of `gpu`. Raises UsageError for a card sold with several memory
    sizes."""
    if gpu.usable_bytes is None:
        raise UsageError(
            f"{gpu.key} is sold with several memory sizes; say which, as in --gpu custom:24GiB."
        )
    return gpu.usable_bytes


def held_bytes(prediction: Prediction) -> int:
    """What lives through every step, at one place: weights, adapters and optimizer states."""
    sizes = prediction.persistent_bytes
    return sum(size for name, size in sizes.items() if name != "gradients")


def reserve_for(gpu: Card, peak: int, held: int = 0) -> Reserve:
    """What to keep free on `gpu` beside a peak of `peak` bytes, with the bound on fragmentation;
    `held` of them live through every step, which costs no holes."""
    return Reserve(
        context_bytes=_contexts(gpu)[1],
        least_context_bytes=_contexts(gpu)[0],
        workspace_bytes=workspaces_of(gpu),
        fragmentation_bytes=(peak - held) * FRAGMENTATION_PERCENT // 100 + FRAGMENTATION_BYTES,
    )


def _contexts(gpu: Card) -> tuple[int, int]:
    if gpu.vendor == "apple":  # one memory for everything: no context of its own
        return 0, 0
    context = context_of(gpu.key)
    return context.least_bytes, context.most_bytes


def workspaces_of(gpu: Card) -> int:
    """Bytes of BLAS workspaces."""
    if gpu.vendor == "apple":
        return 0
    return WORKSPACES * _WORKSPACE_BYTES.get(gpu.architecture, _OLDER_WORKSPACE_BYTES)


def judge(peak: int, usable: int, gpu: Card, held: int = 0) -> Verdict:
    """The verdict on a peak of `peak` bytes, `held` of them through every step, on `gpu`, of which
    a program can have `usable` bytes, by the bound alone: 'fits' with the whole reserve, 'tight'
    without fragmentation and with the least context, else 'does_not_fit'."""
    reserve = reserve_for(gpu, peak, held)
    if peak + reserve.total_bytes <= usable:
        return "fits"
    least = peak + reserve.workspace_bytes + reserve.least_context_bytes
    return "tight" if least <= usable else "does_not_fit"
