"""A card's verdict on a workload, with the reserve that tensors do not show, and the largest sizes
that fit, from which a search that really trains begins."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from lora_profiler.errors import NoProfileError, UsageError
from lora_profiler.option import MAX_SIZE
from lora_profiler.planning.engine import (
    engine_for_search,
    engines_for,
    on_card,
    peak_bytes_checked,
    predict,
    predict_checked,
    resized,
)
from lora_profiler.prediction import Prediction
from lora_profiler.units import GIB, MIB
from lora_profiler.workload import TrainSetup, Workload

Verdict = Literal["fits", "tight", "does_not_fit"]

CONTEXT_BYTES = round(0.6 * GIB)
CONTEXT_BAND_BYTES = round(0.4 * GIB)
"""What the driver takes for context and kernels, outside the allocator. Public reports lie between
107 MiB (RTX 4060 Ti) and 612 MiB (B200) with recent torch and up to 843 MB with older; it differs
by card and torch, hence the band."""

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
WORKSPACES = 2
"""The forward pass and autograd's own thread each hold one."""

FRAGMENTATION_PERCENT = 6
"""Share of the peak that the caching allocator loses to rounding and holes. In a simulation of
torch's allocator over whole steps, the smallest card that completed two steps was 1.4 % (8B LoRA),
3.6 % (8B full) and 5.9 % (0.5B full) above the peak."""


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
    @property
    def usable_bytes(self) -> int | None: ...
    @property
    def usable_is_estimated(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """Memory that no tensor shows, in bytes: kept free by a verdict of 'fits', and told apart by
    cause."""

    context_bytes: int
    workspace_bytes: int
    fragmentation_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.context_bytes + self.workspace_bytes + self.fragmentation_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One workload on one card.

    verdict: 'fits' = peak + reserve within the card's usable bytes; 'tight' = the peak fits but not
    with the reserve; else 'does_not_fit'. `largest_batch_size`, `longest_seq_len` and
    `highest_rank`, each with all else as asked, are the largest whose own verdict is 'fits'; 0
    where not even 1 fits, None where no other size than the one traced is known, and no rank
    without an adapter. `longest_seq_len` knows memory only, not how long a sequence the model was
    made for.

    Examples:
        >>> from lora_profiler import LoraConfig, TrainSetup, Workload, find_gpu, find_model, fit
        >>> model = find_model("meta-llama/Llama-3.1-8B")
        >>> workload = Workload(model=model, setup=TrainSetup(lora=LoraConfig()))
        >>> fit(workload, find_gpu("h100_sxm_80gb")).largest_batch_size
        2
    """

    gpu: Card
    usable_bytes: int
    peak_bytes: int
    reserve: Reserve
    verdict: Verdict
    largest_batch_size: int | None
    longest_seq_len: int | None
    highest_rank: int | None

    @property
    def reserve_bytes(self) -> int:
        return self.reserve.total_bytes

    @property
    def headroom_bytes(self) -> int:
        """What is left after peak and reserve; negative: what is missing."""
        return self.usable_bytes - self.peak_bytes - self.reserve_bytes


def reserve_for(gpu: Card, peak: int) -> Reserve:
    """What to keep free on `gpu` beside a peak of `peak` bytes."""
    if gpu.vendor == "apple":  # one memory for everything: no context of its own, no BLAS workspace
        context = workspace = 0
    else:
        context = CONTEXT_BYTES
        workspace = WORKSPACES * _WORKSPACE_BYTES.get(gpu.architecture, _OLDER_WORKSPACE_BYTES)
    return Reserve(
        context_bytes=context,
        workspace_bytes=workspace,
        fragmentation_bytes=peak * FRAGMENTATION_PERCENT // 100,
    )


def fit(
    workload: Workload, gpu: Card, engine: str = "auto", prediction: Prediction | None = None
) -> Fit | None:
    """Whether `workload` fits on `gpu`, and how far batch, sequence and rank can grow; `prediction`
    saves asking for it again.

    Sizes are found by bisection over the full predictor, whose peak never falls when one of them
    grows. Returns None where the engine does not know the activations and what it knows alone would
    fit: then nobody can tell. Raises UsageError for a setup that does not run on a card (`device`
    cpu), and for a card sold with several memory sizes.

    Examples:
        >>> from lora_profiler import LoraConfig, TrainSetup, Workload, find_gpu, find_model, fit
        >>> model = find_model("meta-llama/Llama-3.1-8B")
        >>> workload = Workload(model=model, setup=TrainSetup(lora=LoraConfig()))
        >>> fit(workload, find_gpu("rtx_4090")).verdict
        'does_not_fit'
    """
    if workload.setup.device == "cpu":
        raise UsageError(
            "a card was named, but the device is cpu; leave out one of --gpu and --device cpu."
        )
    usable = gpu.usable_bytes
    if usable is None:
        raise UsageError(
            f"{gpu.key} is sold with several memory sizes; say which, as in --gpu custom:24GiB."
        )
    workload = on_card(workload, gpu)
    if prediction is None:
        (engine,) = engines_for([workload], engine, other_sizes=True)
        prediction = predict_checked(workload, engine)
    peak = prediction.peak.total_bytes
    verdict = judge(peak, usable, gpu)
    batch_size: int | None = 0
    seq_len: int | None = 0
    lora = workload.setup.lora
    rank = None if lora is None else 0
    setup, answerer = workload.setup, engine_for_search(prediction, engine)
    if prediction.saved_activation_bytes is None:
        if verdict != "does_not_fit":
            return None
    elif not _knows(workload, answerer):
        batch_size = seq_len = rank = None
    else:

        def fits(changed: TrainSetup) -> bool:
            try:
                peak = peak_bytes_checked(resized(workload, changed, answerer), answerer)
            except (
                NoProfileError
            ):  # a size at which other rules hold, for which nobody has traced the step
                return False
            return judge(peak, usable, gpu) == "fits"

        batch_size = largest(
            lambda size: fits(replace(setup, batch_size=size)), guess=setup.batch_size
        )
        seq_len = largest(lambda size: fits(replace(setup, seq_len=size)), guess=setup.seq_len)
        if lora is not None:
            rank = largest(
                lambda size: fits(replace(setup, lora=replace(lora, r=size))), guess=lora.r
            )
    return Fit(
        gpu=gpu,
        usable_bytes=usable,
        peak_bytes=peak,
        reserve=reserve_for(gpu, peak),
        verdict=verdict,
        largest_batch_size=batch_size,
        longest_seq_len=seq_len,
        highest_rank=rank,
    )


def _knows(workload: Workload, engine: str) -> bool:
    """Whether a search has somebody to ask: a step traced at one size alone says nothing of
    others."""
    try:
        peak_bytes_checked(workload, engine)
    except NoProfileError:
        return False
    return True


def judge(peak: int, usable: int, gpu: Card) -> Verdict:
    """The verdict on a peak of `peak` bytes on `gpu`, of which a program can have `usable` bytes:
    see `Fit`."""
    if peak + reserve_for(gpu, peak).total_bytes <= usable:
        return "fits"
    return "tight" if peak <= usable else "does_not_fit"


def largest(accepts: Callable[[int], bool], guess: int = 1, limit: int = MAX_SIZE) -> int:
    """The largest whole number from 1 to `limit` that `accepts` takes, 0 if it takes none.

    `accepts` must be monotone: once it refuses a number it refuses every larger one. Doubles away
    from `guess`, then bisects: about 2 log2(answer / guess) questions.
    """
    low, high = 0, limit + 1  # low is accepted (or 0), high is refused (or out of range)
    probe = min(max(guess, 1), limit)
    if accepts(probe):
        low = probe
        while low < limit:
            probe = min(2 * low, limit)
            if not accepts(probe):
                high = probe
                break
            low = probe
    else:
        high = probe
    while high - low > 1:
        middle = (low + high) // 2
        if accepts(middle):
            low = middle
        else:
            high = middle
    return low


def predicted_largest_batch(
    workload: Workload, usable_bytes: int, card: Card | None = None
) -> int | None:
    """The largest micro-batch whose predicted peak, with what `card` needs besides, stays within
    `usable_bytes`; 0 if not even 1.

    Without a card the peak alone counts, as on a CPU with a budget. None where the engine does not
    know the activations.
    """
    if predict(workload, may_trace=False).saved_activation_bytes is None:
        return None

    def fits(size: int) -> bool:
        sized = replace(workload, setup=replace(workload.setup, batch_size=size))
        peak = peak_bytes_checked(sized, "auto")
        return peak <= usable_bytes if card is None else judge(peak, usable_bytes, card) == "fits"

    return largest(fits, guess=workload.setup.batch_size)
