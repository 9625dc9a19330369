"""What a card holds of a training beside its tensors, and the verdict on a peak, by the simulated
allocator where a tape of the step is at hand."""

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Literal

from lora_profiler.errors import UsageError
from lora_profiler.facts.catalog.gpus import Gpu, context_of, most_multiprocessors
from lora_profiler.memory.prediction import Prediction
from lora_profiler.question.support.check import profile_unsupported_reason
from lora_profiler.question.support.library_memory import WORKSPACES, product_scratch_bytes
from lora_profiler.question.workload import Workload
from lora_profiler.units import MIB

Verdict = Literal["fits", "tight", "does_not_fit"]

_MIB_32 = 32 * MIB
_MIB_128 = 128 * MIB
_WORKSPACE_BYTES = {
    "hopper": _MIB_32, "blackwell": _MIB_32, "blackwell_dc": _MIB_32, "cdna2": _MIB_32,
    "rdna3": _MIB_32, "cdna3": _MIB_128, "cdna4": _MIB_128,
}  # fmt: skip
_OLDER_WORKSPACE_BYTES = 8_519_680
"""One BLAS workspace, per handle and stream: torch's aten/src/ATen/cuda/CUDABlas.cpp
(parseChosenWorkspaceSize)."""

FRAGMENTATION_PERCENT, FRAGMENTATION_BYTES = 25, 256 * MIB
"""What the caching allocator loses to rounding and holes where no tape can be replayed: a share of
what comes and goes in a step, and some bytes. At least 19 in 20 of the simulated questions of
`benchmarks/results/fragmentation.md` lose less. Most lose far less, so that a verdict by this bound
is more often 'tight'."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """Memory that no tensor shows, in bytes, by cause.

    Of a run that fits or may, `context_bytes` is the most that is published of the card's class,
    and `fragmentation_bytes` what the simulated allocator reserves beyond peak and workspaces where
    `is_simulated`, else a bound; of one that only may, what it needs. Of a run that does not fit it
    is the `least`.
    """

    context_bytes: int
    least_context_bytes: int
    workspace_bytes: int
    fragmentation_bytes: int
    is_simulated: bool = False

    @property
    def total_bytes(self) -> int:
        return self.context_bytes + self.workspace_bytes + self.fragmentation_bytes

    @property
    def least(self) -> "Reserve":
        """What any run needs: the smallest context, and no fragmentation."""
        least = self.least_context_bytes
        return replace(self, context_bytes=least, fragmentation_bytes=0, is_simulated=False)


def usable_bytes(gpu: Gpu) -> int:
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


def reserve_for(gpu: Gpu, peak: int, held: int = 0) -> Reserve:
    """What to keep free on `gpu` beside a peak of `peak` bytes, with the bound on fragmentation;
    `held` of them live through every step, which costs no holes."""
    return Reserve(
        context_bytes=_contexts(gpu)[1],
        least_context_bytes=_contexts(gpu)[0],
        workspace_bytes=workspaces_of(gpu),
        fragmentation_bytes=(peak - held) * FRAGMENTATION_PERCENT // 100 + FRAGMENTATION_BYTES,
    )


def _contexts(gpu: Gpu) -> tuple[int, int]:
    if gpu.vendor == "apple":  # one memory for everything: no context of its own
        return 0, 0
    context = context_of(gpu.key)
    return context.least_bytes, context.most_bytes


def workspaces_of(gpu: Gpu) -> int:
    """Bytes of BLAS workspaces."""
    if gpu.vendor == "apple":
        return 0
    return WORKSPACES * _WORKSPACE_BYTES.get(gpu.architecture, _OLDER_WORKSPACE_BYTES)


def judge(peak: int, usable: int, gpu: Gpu, held: int = 0) -> Verdict:
    """The verdict on a peak of `peak` bytes, `held` of them through every step, on `gpu`, of which
    a program can have `usable` bytes, by the bound alone: 'fits' with the whole reserve, 'tight'
    without fragmentation and with the least context, else 'does_not_fit'."""
    reserve = reserve_for(gpu, peak, held)
    if peak + reserve.total_bytes <= usable:
        return "fits"
    return "tight" if peak + reserve.least.total_bytes <= usable else "does_not_fit"


# --- scratch of reductions ------------------------------------------------------------------------


_THREADS, _BLOCKS = 128, 16
WORDS = (
    "Adafactor's mean over rows needs scratch memory, about 1 MiB per multiprocessor; it is left"
    " out."
)


def with_reductions(prediction: Prediction) -> Prediction:
    """An estimate, with the most that Adafactor's mean over a matrix's rows can take for itself on
    a card, where that may make the peak; else the prediction as it is.

    No rule and no trace shows it: it grows with the number of multiprocessors. torch 2.13
    `aten/src/ATen/native/cuda/Reduce.cuh` (setReduceConfig, global_memory_size): blocks of 128
    threads, each over 128 columns, 16 to a multiprocessor; every one of them leaves a float32 for
    each of its 128 threads in every column: about a mebibyte a multiprocessor, whatever the matrix.
    It is there beside one float32 copy of the matrix fewer than the rules count (transformers
    `optimization.py`, Adafactor.step), so that it is the larger where that is small. On cards with
    fewer threads to a multiprocessor than sm_80 and sm_90 it is less.
    """
    setup, platform = prediction.workload.setup, prediction.workload.platform
    if setup.device != "cuda":
        return prediction
    step = max(
        (m.total_bytes for m in prediction.moments if m.moment == "optimizer_step"), default=0
    )
    blocks = _BLOCKS * most_multiprocessors(platform.capability or 0)
    if setup.lora is not None:  # narrow matrices, and one block's columns are not full
        highest = step + _THREADS * _THREADS * 4 * blocks
    else:
        copies = 2 if setup.dtype == "float32" else 4
        shapes = [w.shape for _, m in prediction.workload.model.modules() for w in m.weights]
        matrices = [(4 * prod(shape), shape[-1]) for shape in shapes if len(shape) > 1]
        counted = copies * max(size for size, _ in matrices)
        highest = (step - counted) + max(
            (copies - 1) * size + scratch_bytes(columns, blocks) for size, columns in matrices
        )
    return _at_most(prediction, highest, WORDS)


def _at_most(prediction: Prediction, highest: int, words: str) -> Prediction:
    """An estimate where something that is left out may make the peak `highest` bytes."""
    if highest <= prediction.peak.total_bytes:
        return prediction
    bound = highest / prediction.peak.total_bytes - 1
    if prediction.exactness == "estimate":
        bound = max(bound, prediction.error_bound or 0.0)
    return replace(
        prediction,
        exactness="estimate",
        error_bound=bound,
        assumptions=(*prediction.assumptions, words),
    )


def scratch_bytes(columns: int, blocks: int) -> int:
    """Of the mean over many rows of so many float32 columns, by as many blocks as a card holds."""
    across = -(-columns // _THREADS)
    return 4 * columns * _THREADS * -(-blocks // across)


# --- workspaces of products -----------------------------------------------------------------------


_IN_LAYERS = frozenset({"last_layer_forward", "last_layer_backward", "first_layer_backward"})
_IN_LOSS = frozenset({"end_of_forward", "loss_backward"})
PRODUCT_WORDS = (
    "From torch 2.15 on each matrix product takes a workspace and gives it back; one at the peak is"
    " not counted."
)


def with_product_workspaces(prediction: Prediction) -> Prediction:
    """An estimate where the workspace that each product takes may make the peak; else the
    prediction as it is. Before torch 2.15 workspaces stay, and the reserve has them.

    Layers multiply at any of their moments. The head does so before the loss has float32 copies of
    the logits, and after backward has dropped them.
    """
    workload = prediction.workload
    setup, scratch = workload.setup, product_scratch_bytes(workload.platform)
    if not scratch:
        return prediction
    head = dict(workload.model.modules()).get(workload.model.output_embedding or "")
    copies = 0
    if setup.loss == "plain" and head is not None and head.out_features:
        copies = 4 * setup.batch_size * setup.seq_len * head.out_features
    room = {name: 0 for name in _IN_LAYERS} | {name: copies for name in _IN_LOSS}
    highest = max(
        (m.total_bytes + scratch - room[m.moment] for m in prediction.moments if m.moment in room),
        default=0,
    )
    return _at_most(prediction, highest, PRODUCT_WORDS)


# --- simulated ------------------------------------------------------------------------------------


if TYPE_CHECKING:
    from lora_profiler.memory.compiled.allocator import Trials

SURE = 2
"""With so many times the bound on fragmentation to spare nothing is simulated."""
PART = 200
"""Of the peak: how finely the reserve of a tight run is told."""


class Judged:
    """The verdict on one workload, whose peak is `peak` bytes, `held` of them through every step,
    on `gpu`, of which a program can have `usable` bytes.

    'fits' where the simulated allocator completes its steps with the context at its most; 'tight'
    where the tensors and the context at its least would have room, so that only expandable segments
    or luck would do; else 'does_not_fit'. Without a tape a bound stands for the allocator: see
    `reserve.judge`. `engine` "analytic" has none. `trials` are of what the allocator is asked for,
    where that is known already. With `doubt` bytes more and less the verdict must be the same, or
    it is 'tight'.
    """

    def __init__(
        self,
        workload: Workload,
        peak: int,
        usable: int,
        gpu: Gpu,
        engine: str = "auto",
        trials: "Trials | None" = None,
        held: int = 0,
        doubt: int = 0,
    ) -> None:
        self._workload, self._peak = workload, peak
        self.gpu, self.usable, self.held = gpu, usable, held
        self._engine, self._known = engine, trials
        self.bound = reserve_for(gpu, peak, held)
        """The reserve with a bound on fragmentation, at once."""
        sizes = (peak - doubt, peak, peak + doubt)
        verdicts = {judge(size, usable, gpu, held) for size in sizes}
        self._by_bound: Verdict = verdicts.pop() if len(verdicts) == 1 else "tight"

    @cached_property
    def verdict(self) -> Verdict:
        spare = self.usable - self._peak - self.bound.total_bytes
        is_sure = spare >= (SURE - 1) * self.bound.fragmentation_bytes
        if is_sure or self._by_bound == "does_not_fit" or self._trials is None:
            return self._by_bound
        room = self.usable - self.bound.context_bytes
        return "fits" if self._trials.completes(room) else "tight"

    @property
    def has_tape(self) -> bool:
        """Whether there is something to simulate."""
        return self._trials is not None

    @cached_property
    def reserve(self) -> Reserve:
        """What the verdict rests on: the least of a run that does not fit; else with what the
        simulated allocator reserves on this card, as `torch.cuda.max_memory_reserved` tells it, or
        where that is not enough needs, by bisection to a part of the peak; or the bound where no
        tape is at hand."""
        if self.verdict == "does_not_fit":
            return self.bound.least
        if self._trials is None:
            return self.bound
        from lora_profiler.memory.compiled.allocator import GRAIN

        room = self.usable - self.bound.context_bytes
        card = self._trials.reserved_on(room) if self.verdict == "fits" else None
        if card is None:
            card = self._trials.smallest_capacity(max(GRAIN, self._peak // PART))
        needed = card - self._peak - self.bound.workspace_bytes
        return replace(self.bound, fragmentation_bytes=max(0, needed), is_simulated=True)

    @cached_property
    def _trials(self) -> "Trials | None":
        return self._known or _trials(self._workload, self._engine)


def _trials(workload: Workload, engine: str) -> "Trials | None":
    """Of what `workload` asks the allocator for; None where no tape is at hand."""
    if (
        engine == "analytic"
        or workload.setup.device != "cuda"
        or profile_unsupported_reason(workload)
    ):
        return None
    from lora_profiler.memory.compiled.requests import trials_for

    return trials_for(workload)
