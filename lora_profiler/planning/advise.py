"""What makes a workload fit a card: the sets of changes that suffice, the quickest first."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from lora_profiler.catalog import Gpu
from lora_profiler.errors import LoraProfilerError
from lora_profiler.planning.engine import (
    engine_for_search,
    engines_for,
    on_card,
    peak_bytes_checked,
    predict_checked,
)
from lora_profiler.planning.memory_savings import MemoryChange, changes
from lora_profiler.planning.reserve import held_bytes, judge, usable_bytes
from lora_profiler.planning.simulated import Judged
from lora_profiler.planning.timing import TimedStep, step_time
from lora_profiler.prediction import Prediction
from lora_profiler.support.check import check
from lora_profiler.workload import TrainSetup, Workload

MOST_CHANGES = 3
"""In one set; a person can still see what each is for."""
MOST_TIMED = 6
"""Sets whose step is timed, those of the fewest changes first."""
MOST_GROWN = 3
"""Sets that do not suffice yet and are tried with one change more: those of the lowest peaks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Remedy:
    """Changes that together make a workload fit: each one's name, option and price in words,
    whether the update stays the same but for rounding, the workload that they end in, its peak, and
    its step where the time is known.

    Examples:
        >>> from lora_profiler import LoraConfig, TrainSetup, Workload
        >>> from lora_profiler import advise, find_gpu, find_model
        >>> model = find_model("meta-llama/Llama-3.1-8B")
        >>> workload = Workload(model=model, setup=TrainSetup(lora=LoraConfig()))
        >>> advise(workload, find_gpu("rtx_4090"))[0].options
        ('--checkpointing',)
    """

    names: tuple[str, ...]
    options: tuple[str, ...]
    prices: tuple[str, ...]
    learns_the_same: bool
    workload: Workload
    peak_bytes: int
    step: TimedStep | None

    @property
    def tokens_per_second(self) -> float | None:
        return self.step.time.tokens_per_second if self.step else None


def advise(
    workload: Workload,
    gpu: Gpu,
    engine: str = "auto",
    prediction: Prediction | None = None,
    *,
    besides: Collection[str] = (),
) -> tuple[Remedy, ...]:
    """The sets of at most `MOST_CHANGES` changes that make `workload` fit `gpu`: the one with the
    most tokens a second first among those that learn the same, and then among the others. Each is
    predicted anew, and fits by the bound on fragmentation; none holds a change that it does not
    need. Empty where the workload fits as it
    is, where nothing suffices, and where the engine does not know the activations.

    Changes to a method in `besides` are left out. `prediction` is that of the same workload on the
    card, where there is one already. Raises UsageError for a card sold with several memory sizes,
    and what `predict` raises.

    Examples:
        >>> from lora_profiler import LoraConfig, TrainSetup, Workload
        >>> from lora_profiler import advise, find_gpu, find_model
        >>> workload = Workload(model=find_model("gpt2"), setup=TrainSetup(lora=LoraConfig()))
        >>> advise(workload, find_gpu("rtx_4090"))
        ()
    """
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
    sufficient = _sufficient(workload, prediction, gpu, usable, answerer, besides)
    remedies = [
        Remedy(
            names=tuple(change.name for change in tried.changes),
            options=tuple(change.option for change in tried.changes),
            prices=tuple(dict.fromkeys(change.price for change in tried.changes)),
            learns_the_same=_learns_the_same(tried),
            workload=tried.workload,
            peak_bytes=tried.peak_bytes,
            step=_timed(tried.workload, gpu, engine),
        )
        for tried in sufficient[:MOST_TIMED]
    ]
    return tuple(
        sorted(remedies, key=lambda r: (not r.learns_the_same, -(r.tokens_per_second or 0)))
    )


def _judged(
    workload: Workload, prediction: Prediction, usable: int, gpu: Gpu, engine: str
) -> Judged:
    peak, held = prediction.peak.total_bytes, held_bytes(prediction)
    return Judged(workload, peak, usable, gpu, engine, held=held)


class _Tried(NamedTuple):
    """A workload after some changes."""

    changes: tuple[MemoryChange, ...]
    workload: Workload
    peak_bytes: int


def _sufficient(
    workload: Workload,
    prediction: Prediction,
    gpu: Gpu,
    usable: int,
    engine: str,
    besides: Collection[str],
) -> list[_Tried]:
    """Sets that fit and of which no part does, the smallest first. They are grown one change at a
    time, until some fit and one of these learns the same."""
    if _lasting_bytes(prediction, besides) > usable:
        return []
    growing = [_Tried((), workload, prediction.peak.total_bytes)]
    tried_setups: set[TrainSetup] = {workload.setup}
    sufficient: list[_Tried] = []
    for _ in range(MOST_CHANGES):
        grown: list[_Tried] = []
        for start in growing:
            for tried in _grown(start, engine, besides, tried_setups):
                fits = _fits(tried, usable, gpu, engine)
                (sufficient if fits else grown).append(tried)
        if len(sufficient) >= 2 and any(map(_learns_the_same, sufficient)):
            break
        growing = sorted(grown, key=lambda t: (not _learns_the_same(t), t.peak_bytes))[:MOST_GROWN]
    return [
        tried
        for tried in sufficient
        if not any(_options(other) < _options(tried) for other in sufficient)
    ]


def _lasting_bytes(prediction: Prediction, besides: Collection[str]) -> int:
    """What no set of `changes` takes away: weights that neither another method nor another format
    makes smaller, and of full fine-tuning the gradients that its optimizer is given at once."""
    setup, sizes = prediction.workload.setup, prediction.persistent_bytes
    methods = {"full": {"lora"}, "lora": {"qlora"}, "qlora": set[str]()}[setup.method]
    if not methods <= set(besides) or (setup.dtype == "float32" and setup.precision == "pure"):
        return 0
    at_once = setup.method == "full" and not setup.optimizer_in_bwd
    return sizes["parameters"] + at_once * sizes["gradients"]


def _grown(
    start: _Tried, engine: str, besides: Collection[str], tried_setups: set[TrainSetup]
) -> Iterator[_Tried]:
    """`start` with one change more, each that lowers its peak."""
    try:
        prediction = predict_checked(start.workload, engine)
    except LoraProfilerError:
        return
    for change in changes(start.workload, prediction, besides):
        if change.setup in tried_setups:
            continue
        tried_setups.add(change.setup)
        changed = replace(start.workload, setup=change.setup)
        try:
            check(changed, engine)
            peak = peak_bytes_checked(changed, engine)
        except LoraProfilerError:  # this change does not exist for this model
            continue
        if peak < start.peak_bytes:
            kept = tuple(c for c in start.changes if _flag(c) != _flag(change))
            yield _Tried((*kept, change), changed, peak)


def _fits(tried: _Tried, usable: int, gpu: Gpu, engine: str) -> bool:
    """By the bound on fragmentation."""
    if judge(tried.peak_bytes, usable, gpu, held=tried.peak_bytes) != "fits":
        return False  # not even if all of it were held
    held = held_bytes(predict_checked(tried.workload, engine))
    return judge(tried.peak_bytes, usable, gpu, held) == "fits"


def _flag(change: MemoryChange) -> str:
    return change.option.split()[0]


def _learns_the_same(tried: _Tried) -> bool:
    return all(change.learns_the_same for change in tried.changes)


def _options(tried: _Tried) -> frozenset[str]:
    return frozenset(change.option for change in tried.changes)


def _timed(workload: Workload, gpu: Gpu, engine: str) -> TimedStep | None:
    return step_time(workload, gpu, "auto" if engine == "traced" else engine).step
