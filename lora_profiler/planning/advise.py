"""What makes a workload fit a card: the sets of changes that suffice, the quickest first."""

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.catalog import Gpu, as_gpu
from lora_profiler.facts.stacks import Trainer
from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.engine import (
    engine_for_search,
    engines_for,
    on_card,
    peak_bytes_checked,
    predict_checked,
)
from lora_profiler.planning.memory_savings import Departure, MemoryChange, changes, smaller_batches
from lora_profiler.planning.reserve import Judged, held_bytes, judge, usable_bytes
from lora_profiler.question.support.check import check
from lora_profiler.question.workload import TrainSetup, Workload

if TYPE_CHECKING:
    from lora_profiler.planning.timing import TimedStep

MOST_CHANGES = 3
"""In one set; a person can still see what each is for."""
MOST_TIMED = 6
"""Sets whose step is timed, those that change the update least first."""
MOST_GROWN = 3
"""Sets that do not suffice yet and are tried with one change more: those of the lowest peaks."""


class Remedy(NamedTuple):
    """Changes that together make a workload fit: each one's name, option and price in words, how
    far they take the update from what it was, the workload that they end in, its peak, and its step
    where the time is known.

    Examples:
        >>> from lora_profiler import LoraConfig, TrainSetup, Workload, find_model
        >>> from lora_profiler.planning.advise import advise
        >>> model = find_model("meta-llama/Llama-3.1-8B")
        >>> workload = Workload(model=model, setup=TrainSetup(lora=LoraConfig()))
        >>> advise(workload, "rtx_4090")[0].options
        ('--checkpointing',)
    """

    names: tuple[str, ...]
    options: tuple[str, ...]
    prices: tuple[str, ...]
    departure: Departure
    workload: Workload
    peak_bytes: int
    step: "TimedStep | None"

    @property
    def learns_the_same(self) -> bool:
        """Whether the update stays the same but for rounding."""
        return self.departure == Departure.NONE

    @property
    def tokens_per_second(self) -> float | None:
        return self.step.time.tokens_per_second if self.step else None


def advise(
    workload: Workload,
    gpu: Gpu | str,
    engine: str = "auto",
    prediction: Prediction | None = None,
    *,
    besides: Collection[str] = (),
    trainer: Trainer | None = None,
) -> tuple[Remedy, ...]:
    """The sets of at most `MOST_CHANGES` changes that make `workload` fit `gpu`: those that change
    the update least first, of these the one with the most tokens a second. Each is predicted anew,
    and fits by the bound on fragmentation; none holds a change that it does not need, and a
    micro-batch is the largest that fits. Empty where the workload fits as it is, where nothing
    suffices, and where the engine does not know the activations.

    Changes to a method in `besides` are left out, and those that `trainer`, whose defaults the
    workload has, cannot make. `prediction` is that of the same workload on the card, where there is
    one already. Raises UsageError for a card sold with several memory sizes, and what `predict`
    raises.

    Examples:
        >>> from lora_profiler import LoraConfig, TrainSetup, Workload, find_model
        >>> from lora_profiler.planning.advise import advise
        >>> workload = Workload(model=find_model("gpt2"), setup=TrainSetup(lora=LoraConfig()))
        >>> advise(workload, "rtx_4090")
        ()
    """
    gpu = as_gpu(gpu)
    usable = usable_bytes(gpu)
    workload = on_card(workload, gpu)
    if prediction is None:
        (engine,) = engines_for([workload], engine, other_sizes=True)
        prediction = predict_checked(workload, engine)
    if (
        prediction.saved_activation_bytes is None
        or _judged(workload, prediction, usable, gpu, engine).verdict == "fits"
    ):
        return ()
    answerer = engine_for_search(prediction, engine)
    search = _Search(gpu, usable, answerer, besides, trainer)
    sufficient = search.sufficient(workload, prediction)
    remedies = [
        Remedy(
            names=tuple(change.name for change in tried.changes),
            options=tuple(change.option for change in tried.changes),
            prices=tuple(dict.fromkeys(change.price for change in tried.changes)),
            departure=_departure(tried),
            workload=tried.workload,
            peak_bytes=tried.peak_bytes,
            step=_timed(tried.workload, gpu, engine),
        )
        for tried in sufficient[:MOST_TIMED]
    ]
    return tuple(sorted(remedies, key=lambda r: (r.departure, -(r.tokens_per_second or 0))))


def _judged(
    workload: Workload, prediction: Prediction, usable: int, gpu: Gpu, engine: str
) -> Judged:
    peak, held = prediction.peak.total_bytes, held_bytes(prediction)
    return Judged(workload, peak, usable, gpu, engine, held=held, doubt=prediction.doubt_bytes)


class _Tried(NamedTuple):
    """A workload after some changes."""

    changes: tuple[MemoryChange, ...]
    workload: Workload
    peak_bytes: int


class _Search(NamedTuple):
    """For sets of changes that suffice on a card."""

    gpu: Gpu
    usable: int
    engine: str
    besides: Collection[str]
    trainer: Trainer | None

    def sufficient(self, workload: Workload, prediction: Prediction) -> list[_Tried]:
        """Sets that fit and of which no part does, those that change the update least first, of
        these the smallest. They are grown one change at a time, until some fit and one of these
        learns the same."""
        if _lasting_bytes(prediction, self.besides) > self.usable:
            return []
        growing = [_Tried((), workload, prediction.peak.total_bytes)]
        tried_setups: set[TrainSetup] = {workload.setup}
        sufficient: list[_Tried] = []
        for _ in range(MOST_CHANGES):
            grown: list[_Tried] = []
            for start in growing:
                for tried in self.grown(start, tried_setups):
                    (sufficient if self.fits(tried) else grown).append(tried)
            if len(sufficient) >= 2 and any(_departure(t) == Departure.NONE for t in sufficient):
                break
            growing = sorted(grown, key=lambda t: (_departure(t) > 0, t.peak_bytes))[:MOST_GROWN]
        needed = (
            self.with_largest_batch(tried, workload)
            for tried in sufficient
            if not any(_options(other) < _options(tried) for other in sufficient)
        )
        return sorted(needed, key=_departure)

    def grown(self, start: _Tried, tried_setups: set[TrainSetup]) -> Iterator[_Tried]:
        """`start` with one change more, each that lowers its peak."""
        try:
            prediction = predict_checked(start.workload, self.engine)
        except LoraProfilerError:
            return
        for change in changes(start.workload, prediction, self.besides, self.trainer):
            if change.setup in tried_setups:
                continue
            tried_setups.add(change.setup)
            changed = replace(start.workload, setup=change.setup)
            try:
                check(changed, self.engine)
                peak = peak_bytes_checked(changed, self.engine)
            except LoraProfilerError:  # this change does not exist for this model
                continue
            if peak < start.peak_bytes:
                kept = tuple(c for c in start.changes if _flag(c) != _flag(change))
                yield _Tried((*kept, change), changed, peak)

    def fits(self, tried: _Tried) -> bool:
        """By the bound on fragmentation."""
        if judge(tried.peak_bytes, self.usable, self.gpu, held=tried.peak_bytes) != "fits":
            return False  # not even if all of it were held
        prediction = predict_checked(tried.workload, self.engine)
        most = tried.peak_bytes + prediction.doubt_bytes
        return judge(most, self.usable, self.gpu, held_bytes(prediction)) == "fits"

    def with_largest_batch(self, tried: _Tried, before: Workload) -> _Tried:
        """With the largest micro-batch that fits, where a smaller one is among the changes."""
        place = next((n for n, c in enumerate(tried.changes) if _flag(c) == "-b"), None)
        if place is None:
            return tried
        rows = self.trainer.stack.rows if self.trainer else 1
        change, setup = tried.changes[place], before.setup
        for size, times in reversed(smaller_batches(setup.batch_size, rows)):
            steps = setup.accumulation * times
            sized = replace(tried.workload.setup, batch_size=size, accumulation=steps)
            workload = replace(tried.workload, setup=sized)
            largest = tried._replace(
                workload=workload, peak_bytes=peak_bytes_checked(workload, self.engine)
            )
            if self.fits(largest):
                written = f"-b {size // rows} --accumulation {steps}"
                name = f"micro-batch {size // rows}"
                changed = change._replace(name=name, option=written, setup=sized)
                each = (*tried.changes[:place], changed, *tried.changes[place + 1 :])
                return largest._replace(changes=each)
        return tried


def _lasting_bytes(prediction: Prediction, besides: Collection[str]) -> int:
    """What no set of `changes` takes away: weights that neither another method nor another format
    makes smaller, and of full fine-tuning the gradients that its optimizer is given at once."""
    setup, sizes = prediction.workload.setup, prediction.persistent_bytes
    methods = {"full": {"lora"}, "lora": {"qlora"}, "qlora": set[str]()}[setup.method]
    if not methods <= set(besides) or setup.dtype == "float32":
        return 0
    at_once = setup.method == "full" and not setup.optimizer_in_bwd
    return sizes["parameters"] + at_once * sizes["gradients"]


def _flag(change: MemoryChange) -> str:
    return change.option.split()[0]


def _departure(tried: _Tried) -> Departure:
    return max((change.departure for change in tried.changes), default=Departure.NONE)


def _options(tried: _Tried) -> frozenset[str]:
    return frozenset(change.option for change in tried.changes)


def _timed(workload: Workload, gpu: Gpu, engine: str) -> "TimedStep | None":
    from lora_profiler.planning.timing import step_time  # where nothing helps, nothing is timed

    return step_time(workload, gpu, "auto" if engine == "traced" else engine).step
