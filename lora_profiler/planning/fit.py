"""A card's verdict on a workload, with the reserve that tensors do not show; the largest sizes that
fit, and which batches and lengths around a question do."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from lora_profiler.errors import LoraProfilerError, NoProfileError, UsageError
from lora_profiler.facts.catalog import as_gpu, bundled_gpus
from lora_profiler.facts.catalog.gpus import Gpu
from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.engine import (
    engine_for_search,
    engines_for,
    on_card,
    peak_bytes_checked,
    predict,
    predict_checked,
    resized,
)
from lora_profiler.planning.reserve import Judged, Reserve, Verdict, held_bytes, judge, usable_bytes
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.option import MAX_SIZE
from lora_profiler.question.workload import TrainSetup, Workload

if TYPE_CHECKING:
    from lora_profiler.memory.compiled.allocator import Trials


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """One workload on one card.

    verdict: 'fits' = the simulated allocator completes the steps in what the card gives a program,
    less the driver's context; 'tight' = only expandable segments or luck would do; else
    'does_not_fit'. Where nothing can be simulated a bound on fragmentation decides between the
    first two: `reserve` says which. `largest_batch_size`, `longest_seq_len` and `highest_rank`,
    each with all else as asked, are the largest that fit: the batch as its own verdict is, the
    others by the bound, on the safe side; 0 where not even 1 fits, None where no other size than
    the one traced is known, and no rank without an adapter that has one. `longest_seq_len` knows
    memory only, not how long a sequence the model was made for; `highest_rank` of LoRA is no higher
    than the update of a weight can be, the smaller of its dimensions.

    Examples:
        >>> from lora_profiler import LoraConfig, TrainSetup, Workload, find_gpu, find_model, fit
        >>> model = find_model("meta-llama/Llama-3.1-8B")
        >>> workload = Workload(model=model, setup=TrainSetup(lora=LoraConfig()))
        >>> fit(workload, find_gpu("h100_sxm_80gb")).largest_batch_size
        2
    """

    gpu: Gpu
    usable_bytes: int
    peak_bytes: int
    verdict: Verdict
    judged: Judged = field(repr=False, compare=False)
    growth: "Growth" = field(repr=False, compare=False)

    @property
    def largest_batch_size(self) -> int | None:
        return self.growth.batch_size

    @property
    def longest_seq_len(self) -> int | None:
        return self.growth.seq_len

    @property
    def highest_rank(self) -> int | None:
        return self.growth.rank

    @property
    def reserve(self) -> Reserve:
        """What the verdict rests on: the least of a run that does not fit, else the most.
        Simulated where a tape is at hand, which takes some tenths of a second when first asked
        for."""
        return self.judged.reserve

    @property
    def least_reserve_bytes(self) -> int:
        return self.judged.bound.least.total_bytes

    @property
    def reserve_bytes(self) -> int:
        return self.reserve.total_bytes

    @property
    def headroom_bytes(self) -> int:
        """What is left after peak and reserve; negative: what is missing."""
        return self.usable_bytes - self.peak_bytes - self.reserve_bytes


def fit(
    workload: Workload,
    gpu: Gpu | str,
    engine: str = "auto",
    prediction: Prediction | None = None,
    *,
    may_trace: bool = True,
) -> Fit | None:
    """Whether `workload` fits on `gpu`, and how far batch, sequence and rank can grow; `prediction`
    saves asking for it again. Without `may_trace` no step is traced for another size.

    Returns None where the engine does not know the activations and what it knows alone would fit:
    then nobody can tell. Raises UsageError for a setup that does not run on a card (`device` cpu),
    and for a card sold with several memory sizes.

    Examples:
        >>> from lora_profiler import LoraConfig, TrainSetup, Workload, find_model, fit
        >>> model = find_model("meta-llama/Llama-3.1-8B")
        >>> workload = Workload(model=model, setup=TrainSetup(lora=LoraConfig()))
        >>> fit(workload, "rtx_4090").verdict
        'does_not_fit'
    """
    gpu = as_gpu(gpu)
    check_on_card(workload)
    usable = usable_bytes(gpu)
    workload = on_card(workload, gpu)
    if prediction is None:
        (engine,) = engines_for([workload], engine, may_trace=may_trace)
        prediction = predict_checked(workload, engine)
    judged = _judged(prediction, gpu, engine)
    if not prediction.is_whole and judged.verdict != "does_not_fit":
        return None
    return Fit(
        gpu=gpu,
        usable_bytes=usable,
        peak_bytes=prediction.peak.total_bytes,
        verdict=judged.verdict,
        judged=judged,
        growth=Growth(workload, prediction, judged, engine, may_trace),
    )


class Growth:
    """How far the sizes of a workload can grow until a GPU is full.

    Each is found when it is first read, by bisection: the predicted peak never falls when one of
    them grows; the last doubt about the batch is the simulated allocator's.
    Where other rules hold at other sizes (a batch of one, a sequence that fills a window), the
    profiles that are missing are traced first, if torch is installed.
    """

    def __init__(
        self,
        workload: Workload,
        prediction: Prediction,
        judged: Judged,
        engine: str,
        may_trace: bool,
    ) -> None:
        self._workload, self._prediction, self._judged = workload, prediction, judged
        self._given, self._may_trace = engine, may_trace

    @cached_property
    def batch_size(self) -> int | None:
        setup = self._workload.setup
        return self._most(self._fits_simulated, setup.batch_size)

    @cached_property
    def seq_len(self) -> int | None:
        setup = self._workload.setup
        return self._most(lambda size: self._fits(replace(setup, seq_len=size)), setup.seq_len)

    @cached_property
    def rank(self) -> int | None:
        setup, lora = self._workload.setup, self._workload.setup.lora
        if lora is None or not lora.has_rank:
            return None
        return self._most(
            lambda size: self._fits(replace(setup, lora=replace(lora, r=size))),
            lora.r,
            _full_rank(self._workload),
        )

    @cached_property
    def _engine(self) -> str | None:
        """Who answers for other sizes; None where a step traced at one size alone does."""
        engine = self._given
        if engine == "auto" and self._prediction.engine == "compiled":
            (engine,) = engines_for(
                [self._workload], engine, other_sizes=True, may_trace=self._may_trace
            )
        engine = engine_for_search(self._prediction, engine)
        try:
            peak_bytes_checked(self._workload, engine)
        except NoProfileError:
            return None
        return engine

    def _most(self, fits: Callable[[int], bool], size: int, limit: int = MAX_SIZE) -> int | None:
        if not self._prediction.is_whole:
            return 0
        return None if self._engine is None else largest(fits, guess=size, limit=limit)

    def _peak_of(self, changed: TrainSetup) -> int | None:
        """None at a size at which other rules hold, for which nobody has traced the step."""
        assert self._engine is not None
        try:
            return peak_bytes_checked(resized(self._workload, changed, self._engine), self._engine)
        except NoProfileError:
            return None

    def _fits(self, changed: TrainSetup) -> bool:
        peak, judged = self._peak_of(changed), self._judged
        if peak is None:
            return False
        most = peak + _doubt(self._prediction, peak)
        return judge(most, judged.usable, judged.gpu, judged.held) == "fits"

    def _fits_simulated(self, size: int) -> bool:
        judged, setup = self._judged, self._workload.setup
        changed = replace(setup, batch_size=size)
        if size == setup.batch_size:
            return judged.verdict == "fits"
        peak = self._peak_of(changed)
        if peak is None or self._engine is None:
            return False
        other = resized(self._workload, changed, self._engine)
        usable, gpu, held = judged.usable, judged.gpu, judged.held
        doubt = _doubt(self._prediction, peak)
        grown = Judged(other, peak, usable, gpu, self._engine, held=held, doubt=doubt)
        return grown.verdict == "fits"


def _full_rank(workload: Workload) -> int:
    """The highest rank that the update of an adapted weight can have: B A is (out, in). Other
    methods than LoRA are not bound by it."""
    from lora_profiler.question.adapters import adapters

    lora = workload.setup.lora
    if lora is None or lora.peft_type != "lora":
        return MAX_SIZE
    return max(min(a.in_features, a.out_features) for a in adapters(workload.model, lora))


def _doubt(prediction: Prediction, peak: int) -> int:
    """By how many bytes a peak at another size or on another GPU may be off, as that of
    `prediction`."""
    return int((prediction.modules_error or 0.0) * peak)


def judged_on(prediction: Prediction, gpu: Gpu, engine: str = "auto") -> Judged | None:
    """The verdict alone, of a prediction on `gpu`; None where `fit` has none. Raises UsageError for
    a card sold with several memory sizes."""
    judged = _judged(prediction, gpu, engine)
    return judged if prediction.is_whole or judged.verdict == "does_not_fit" else None


def _judged(prediction: Prediction, gpu: Gpu, engine: str) -> Judged:
    return Judged(
        prediction.workload,
        prediction.peak.total_bytes,
        usable_bytes(gpu),
        gpu,
        engine,
        _trials(prediction),
        held_bytes(prediction),
        prediction.doubt_bytes,
    )


def _trials(prediction: Prediction) -> "Trials | None":
    """Of what the allocator is asked for, of a step that was traced for this answer alone."""
    memory = prediction.details.device_memory if prediction.details else None
    if memory is None:
        return None
    from lora_profiler.memory.compiled.allocator import Trials

    return Trials(memory.sizes, memory.events)


def check_on_card(workload: Workload) -> None:
    """Raises UsageError for a setup that does not run on a card."""
    if workload.setup.device == "cpu":
        raise UsageError("--gpu and --device cpu exclude each other; leave out one of them.")


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


def predicted_largest_batch(workload: Workload, usable: int, card: Gpu | None = None) -> int | None:
    """The largest micro-batch whose predicted peak, with what `card` needs besides, stays within
    `usable` bytes; 0 if not even 1.

    Without a card the peak alone counts, as on a CPU with a budget. None where the engine does not
    know the activations.
    """
    prediction = predict(workload, may_trace=False)
    if prediction.saved_activation_bytes is None:
        return None
    held = held_bytes(prediction)

    def fits(size: int) -> bool:
        sized = replace(workload, setup=replace(workload.setup, batch_size=size))
        peak = peak_bytes_checked(sized, "auto")
        if card is None:
            return peak <= usable
        return Judged(sized, peak, usable, card, held=held).verdict == "fits"

    return largest(fits, guess=workload.setup.batch_size)


# --- the smallest cards that suffice --------------------------------------------------------------


NEAR = 0.9
"""A card whose memory is below this share of the peak on the usual card is not tried: kernels of
other capabilities hold more, hardly less."""


def smallest_cards(prediction: Prediction, engine: str = "auto") -> tuple[Gpu, ...]:
    """Of NVIDIA's cards that have the arithmetic of the workload, all of the smallest memory that
    it fits, each asked about with its own kernels, those with the most to use first; empty where no
    single card suffices, where the activations are not known, and for another device than cuda.

    Examples:
        >>> from lora_profiler import LoraConfig, TrainSetup, Workload
        >>> from lora_profiler import find_model, predict
        >>> from lora_profiler.planning.fit import smallest_cards
        >>> workload = Workload(model=find_model("gpt2"), setup=TrainSetup(lora=LoraConfig()))
        >>> smallest_cards(predict(workload))[0].memory_gib_marketed
        8.0
    """
    trial = _OnCards(prediction, engine)
    for cards in trial.by_memory:
        if fitting := [card for card in cards if trial.fits(card)]:
            return tuple(sorted(fitting, key=_most_usable))
    return ()


def smallest_card(prediction: Prediction, engine: str = "auto") -> Gpu | None:
    """The first of `smallest_cards`, without asking about the others; None where there is none."""
    trial = _OnCards(prediction, engine)
    ordered = (card for cards in trial.by_memory for card in sorted(cards, key=_most_usable))
    return next(filter(trial.fits, ordered), None)


class _OnCards:
    """A prediction's workload on the cards that can be asked about."""

    def __init__(self, prediction: Prediction, engine: str) -> None:
        workload, peak = prediction.workload, prediction.peak.total_bytes
        self._prediction = prediction
        self.by_memory: list[list[Gpu]] = []
        """From the smallest memory on; of one memory those with the least to use first, for what
        suffices there suffices on the others."""
        if prediction.saved_activation_bytes is None or workload.setup.device != "cuda":
            return
        self._workload, self._usual_peak = workload, peak
        self._answerer, self._held = engine_for_search(prediction, engine), held_bytes(prediction)
        self._peaks: dict[Platform, int | None] = {workload.platform: peak}
        self._room_of: dict[Platform, int] = {}  # least that was seen to suffice
        known = [c for c in bundled_gpus() if c.vendor == "nvidia" and c.usable_bytes]
        known.sort(key=lambda card: (_memory(card), card.usable_bytes))
        self.by_memory += [list(cards) for _, cards in groupby(known, _memory)]

    def fits(self, card: Gpu) -> bool:
        setup, usable = self._workload.setup, card.usable_bytes or 0
        own = on_card(self._workload, card)
        lacks = setup.needs_bfloat16 and not own.platform.has_bfloat16
        if lacks or usable < NEAR * self._usual_peak:
            return False
        peak = self._peak_on(own)
        if peak is None:
            return False
        doubt = _doubt(self._prediction, peak)
        judged = Judged(own, peak, usable, card, self._answerer, held=self._held, doubt=doubt)
        room = usable - judged.bound.context_bytes
        if room >= self._room_of.get(own.platform, 2 * usable):
            return True
        if judged.verdict == "fits":
            self._room_of.setdefault(own.platform, room)
            return True
        return False

    def _peak_on(self, own: Workload) -> int | None:
        from lora_profiler.memory.compiled.regime import regime_of

        if own.platform not in self._peaks:
            try:
                self._peaks[own.platform] = peak_bytes_checked(own, self._answerer)
            except LoraProfilerError:  # nobody knows the step with other kernels
                is_same = regime_of(own).kernels == regime_of(self._workload).kernels
                self._peaks[own.platform] = self._usual_peak if is_same else None
        return self._peaks[own.platform]


def _memory(card: Gpu) -> float:
    return card.memory_gib_marketed or 0


def _most_usable(card: Gpu) -> int:
    return -(card.usable_bytes or 0)


# --- sizes ----------------------------------------------------------------------------------------


BATCHES = tuple(2**n for n in range(7))
RANKS = tuple(2**n for n in range(10))
LONGEST_COLUMNS = 9
"""Lengths on a map; the longest ones that the model was made for."""
LENGTHS = tuple(2**n for n in range(7, 18))
BEYOND = 1
UNKNOWN_LENGTH = 8192
"""Up to here where a config does not say for what length its model was made."""


class SizeFit(NamedTuple):
    """One batch and length: its steady-state peak and the card's verdict, both None where the
    engine has no answer."""

    batch_size: int
    seq_len: int
    peak_bytes: int | None
    verdict: Verdict | None


def size_fits(prediction: Prediction, gpu: Gpu, engine: str = "auto") -> tuple[SizeFit, ...]:
    """The workload of `prediction` at every batch and length of a grid, its own among them, by
    batch and then by length.

    Each is predicted anew. The grid ends `BEYOND` steps after the last batch and the last length
    that fit at any other. Empty where the engine does not know the activations, and for a card sold
    with several sizes.
    """
    usable, workload = gpu.usable_bytes, prediction.workload
    if usable is None or prediction.saved_activation_bytes is None:
        return ()
    answerer, held = engine_for_search(prediction, engine), held_bytes(prediction)
    rows = []
    for batch in batches(workload.setup.batch_size):
        for length in lengths(workload.setup.seq_len, workload.model.trained_length):
            try:
                setup = replace(workload.setup, batch_size=batch, seq_len=length)
                other = resized(workload, setup, answerer)
                peak = peak_bytes_checked(other, answerer)
            except LoraProfilerError:
                # a size at which other rules hold, for which there is no profile
                rows.append(
                    SizeFit(batch_size=batch, seq_len=length, peak_bytes=None, verdict=None)
                )
                continue
            verdict = Judged(other, peak, usable, gpu, answerer, held=held).verdict
            rows.append(SizeFit(batch_size=batch, seq_len=length, peak_bytes=peak, verdict=verdict))
    requested = workload.setup.batch_size, workload.setup.seq_len
    return tuple(_to_the_border(rows, *requested))


def _to_the_border(rows: Sequence[SizeFit], batch_size: int, seq_len: int) -> list[SizeFit]:
    """Without what lies far beyond the last that fits, but for the size that was asked."""
    fitting = [row for row in rows if row.verdict == "fits"]
    near = _around(
        {row.batch_size for row in rows}, {row.batch_size for row in fitting}, batch_size
    )
    short = _around({row.seq_len for row in rows}, {row.seq_len for row in fitting}, seq_len)
    return [row for row in rows if row.batch_size in near and row.seq_len in short]


def _around(sizes: Collection[int], fitting: Collection[int], requested: int) -> set[int]:
    last = max(fitting, default=0)
    beyond = sorted(size for size in sizes if size > last)[:BEYOND]
    return {*(size for size in sizes if size <= last), *beyond, requested}


def batches(batch_size: int) -> Sequence[int]:
    """Powers of two, and the one that was asked."""
    return sorted({*BATCHES, batch_size})


def lengths(seq_len: int, made_for: int | None) -> Sequence[int]:
    """Powers of two up to what the model was made for, and the one that was asked."""
    usual = [length for length in LENGTHS if length <= (made_for or UNKNOWN_LENGTH)] or [LENGTHS[0]]
    return sorted({*usual[-LONGEST_COLUMNS:], seq_len})
