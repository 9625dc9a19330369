"""What a question leaves open, and what each of that is worth for it: the peak is predicted anew
with every value that the run may have had. Beside it, how far public measurements were off.

Nothing here knows a trainer or an option by name, but for what an answer states in its first lines.
An option declares the values that runs differ in (`Declaration.alternatives`), a trainer what its
scripts decide (`Stack.leaves`), what its users often set (`Stack.variants`) and its older versions.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.evidence import (
    CommandShare,
    Description,
    Interval,
    MeasuredMemory,
    command_shares,
    interval,
    nearest_peak,
)
from lora_profiler.facts.stacks import guided_trainers
from lora_profiler.facts.stacks.stack import (
    BARE,
    GUIDE,
    Options,
    Stack,
    Trainer,
    as_guided,
    find_stack,
    versions,
)
from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.engine import (
    answers_without_trace,
    has_newer_layers,
    peak_bytes_checked,
)
from lora_profiler.planning.setups import DEFAULTS, changed, written_options
from lora_profiler.question.support.check import check
from lora_profiler.question.support.library_memory import workspaces_bytes
from lora_profiler.question.workload import OPTIONS, Workload, setup_dict

WHO: Final = "the trainer"
STATED: Final = frozenset({
    "batch_size", "seq_len", "accumulation", "dtype", "optimizer", "checkpointing", "rank", "alpha",
    "max_completion_length",
})  # fmt: skip
"""Options that the answer's first lines state: another trainer or version does not change them."""
OF_OWN_LOOPS: Final = frozenset({"hold_outputs", "use_reentrant"})
"""What a plain loop is written with in either way."""
APART: Final = frozenset({"targets", "dropout", "optimizer_impl"})
"""Unknown by themselves, whoever trains."""
LEAST: Final = 0.0005
"""What changes the peak by a smaller share is not named."""


class Unknown(NamedTuple):
    """What is not given, as 'the k-bit recipe', and the options that a run may have had in place of
    those answered for."""

    what: str
    alternatives: tuple[Options, ...]


class Worth(NamedTuple):
    """The lowest and the highest peak over the alternatives of one unknown, the answer's own among
    them, with all else as answered. `is_priced`: all of them are known; of others a trace would
    have to be made."""

    what: str
    low_bytes: int
    high_bytes: int
    is_priced: bool = True


class PeakSpread(NamedTuple):
    """The peaks of all that the question may mean, and what each unknown is worth."""

    low_bytes: int
    high_bytes: int
    unknowns: tuple[Worth, ...]


def spread(
    workload: Workload, peak: int, trainer: Trainer | None, given: Collection[str] | None
) -> PeakSpread:
    """Of an answer of `peak` bytes. `given` are the names of the options that the question has,
    None for those that are not at their default.

    Each unknown is taken by itself, and then, in order of what it is worth, together with those
    before it. What the package refuses is left out.
    """
    known = named(workload) if given is None else given
    found, lowest, highest = [], [], []
    nearly = round(LEAST * peak)
    for what, alternatives in unknowns(workload, trainer, known):
        able = [pair for each in alternatives if (pair := _able(workload, each)) is not None]
        priced = [(p, options) for other, options in able if (p := _peak(other)) is not None]
        low, high = (f((peak, *(p for p, _ in priced))) for f in (min, max))
        if high - low > nearly or len(priced) < len(able):
            found.append(Worth(what, low, high, is_priced=len(priced) == len(able)))
        if not priced:
            continue
        least, most = min(priced, key=_first), max(priced, key=_first)
        lowest += [least] if least[0] <= peak + nearly else []
        highest += [most] if most[0] >= peak - nearly else []
    found.sort(key=lambda worth: worth.low_bytes - worth.high_bytes)
    return PeakSpread(
        low_bytes=_furthest(workload, peak, sorted(lowest, key=_first), min),
        high_bytes=_furthest(workload, peak, sorted(highest, key=_first)[::-1], max),
        unknowns=tuple(found),
    )


def _first(pair: tuple[int, Options]) -> int:
    return pair[0]


def _furthest(
    workload: Workload,
    peak: int,
    pairs: Sequence[tuple[int, Options]],
    further: Callable[[int, int], int],
) -> int:
    """The peak with all changes at once; where that is refused, or not as far as the first alone,
    with each beside those before it that go further than without."""
    if not pairs or further(pairs[0][0], peak) == peak:
        return peak
    every = {name: value for _, change in reversed(pairs) for name, value in change.items()}
    if (found := _peak_with(workload, every)) and further(found, pairs[0][0]) == found:
        return found
    peak, options = pairs[0]
    for _, change in pairs[1:]:
        found = _peak_with(workload, {**options, **change})
        if found is not None and further(found, peak) != peak:
            options, peak = {**options, **change}, found
    return peak


def _peak_with(workload: Workload, options: Options) -> int | None:
    able = _able(workload, options)
    return _peak(able[0]) if able else None


def _able(workload: Workload, options: Options) -> tuple[Workload, Options] | None:
    """The workload with other options, beside them; None where these go with nothing."""
    try:
        other = changed(workload, options)
        check(other, "auto")
    except LoraProfilerError:
        return None
    return None if other == workload else (other, options)


def _peak(workload: Workload) -> int | None:
    """None where only a trace would tell."""
    if not answers_without_trace(workload):
        return None
    try:
        return peak_bytes_checked(workload, "auto")
    except LoraProfilerError:
        return None


def named(workload: Workload) -> frozenset[str]:
    """The options of a setup that are not at their default."""
    values = setup_dict(workload.setup)
    return frozenset(
        option.name
        for option in OPTIONS
        if option.name in values and values[option.name] not in (option.default, [])
    )


def unknowns(
    workload: Workload, trainer: Trainer | None, given: Collection[str]
) -> Iterator[Unknown]:
    """What the question leaves open, whatever it is worth."""
    setup = workload.setup
    if workload.model.stored is not None:  # the checkpoint decides
        given = {*given, "quant_type", "double_quant"}
    stack = find_stack(BARE) if trainer is None else trainer.stack
    if _is_open(trainer):
        yield Unknown(WHO, tuple(_loops(stack, workload, given)))
    elif trainer is not None and not trainer.is_pinned and (older := older_versions(stack)):
        yield Unknown(
            stack.version_words, tuple(_loop(stack, each, workload, given) for each in older)
        )
    is_file = trainer is not None and bool(trainer.file_options)
    for variant in () if is_file else stack.variants:
        options = {n: v for n, v in variant.options.items() if n not in given}
        if options and variant.holds(setup):
            yield Unknown(variant.what, (options,))
    for gap in () if trainer is None else trainer.gaps(setup):
        if gap.alternatives:
            yield Unknown(f"what {gap.missing} saves", gap.alternatives)
    values = written_options(setup)
    left = _left_open(trainer)
    for option in OPTIONS:
        name, others = option.name, option.declared.alternatives
        if not others or name not in values or (left is not None and name not in left):
            continue
        is_said = name in given or (is_file and name in stack.defaults[setup.method])
        if is_said and not _is_cap(name, workload, trainer):
            continue
        value = values[name]
        others = others(values) if callable(others) else others
        yield Unknown(option.declared.unknown, tuple({name: v} for v in others if v != value))


def _is_open(trainer: Trainer | None) -> bool:
    """Whether nobody is named."""
    return trainer is None or trainer.stack.name == GUIDE


def _left_open(trainer: Trainer | None) -> Collection[str] | None:
    """The options that the trainer does not decide; None for all. Where nobody is named all that
    each of them leaves, and what the versions of transformers differ in."""
    if trainer is not None and not _is_open(trainer) and trainer.stack.name != BARE:
        return trainer.stack.leaves
    left = {name for stack in map(find_stack, guided_trainers()) for name in stack.leaves or ()}
    if trainer is not None and trainer.stack.name == BARE:
        left |= OF_OWN_LOOPS
    return {*left, "transformers", *APART} - (STATED - {"seq_len"})


def older_versions(stack: Stack) -> tuple[Stack, ...]:
    """Those before it of the same trainer, the newest first."""
    if not stack.version:
        return ()
    every = versions(stack.name)
    keys = [each.key for each in every]
    return every[keys.index(stack.key) + 1 :]


def _is_cap(name: str, workload: Workload, trainer: Trainer | None) -> bool:
    """Whether it is a trainer's file that gives the length, which samples are cut at."""
    is_files = trainer is not None and name in trainer.file_options
    return is_files and name == "seq_len" and not workload.setup.is_packed


def _loops(mine: Stack, workload: Workload, given: Collection[str]) -> Iterator[Options]:
    """What each of those who may train sets, as guides pass it where `mine` is theirs, and what
    under this sharding comes with it."""
    for stack in map(find_stack, guided_trainers()):
        if not stack.trains(workload.model):
            continue
        other = as_guided(stack) if mine.name == GUIDE else stack
        own = _loop(mine, other, workload, given)
        yield own
        for variant in stack.variants:
            if variant.shardings and variant.holds(workload.setup):
                yield {**own, **{n: v for n, v in variant.options.items() if n not in given}}


def _loop(
    mine: Stack, other: Stack, workload: Workload, given: Collection[str]
) -> Mapping[str, Any]:
    """What `other` sets of the options that neither the question gives nor the answer states, and
    the default of those that `mine` alone sets."""
    method = workload.setup.method
    reset = {name: DEFAULTS[name] for name in mine.defaults[method]}
    options = {**reset, **other.defaults[method]}
    if options.get("precision") == "amp" and not workload.platform.has_bfloat16:
        options["precision"] = "pure" if options.get("recipe") == "trl" else "amp-float16"
    return {n: v for n, v in options.items() if n not in {*given, *STATED, *APART}}


# --- empirical interval ---------------------------------------------------------------------------


DESCRIBED: Description = "nearly"
"""How well, at least, options describe the public runs that an answer is held to: a user's
libraries are of other versions than the answer's, mostly, and those described exactly are of two
sources alone."""


@dataclass(frozen=True, kw_only=True)
class PeakInterval:
    """Where a CUDA allocator's peak lies, nine times in ten, from `low_bytes` to `high_bytes`: over
    all that the question leaves open, and at either end as far beyond as the predictions of public
    runs that options describe, exactly or but for the versions of libraries, were off.

    `unknowns` are what is not given and changes the peak, that first which does most; empty where
    the question says all that ran. Where only a trace would price some of it, neither end is known.
    `half_width` is that error, as a share of the measured peak. BLAS' workspaces are in the
    interval, which a counter counts.

    `described` is how well options describe these runs, and `command` how far off the command's
    answers were for them.
    """

    workload: Workload
    described: Description
    command: CommandShare
    half_width: float
    low_bytes: int | None
    high_bytes: int | None
    unknowns: tuple[Worth, ...]

    @cached_property
    def nearest(self) -> MeasuredMemory:
        """The measured peak that is most like the question."""
        return nearest_peak(self.workload)

    @property
    def interval(self) -> Interval:
        """How far off predictions are that know the libraries and kernels that ran."""
        return interval()


def peak_interval(
    prediction: Prediction, trainer: Trainer | None = None, given: Collection[str] | None = None
) -> PeakInterval | None:
    """None for a lower bound, and for devices whose memory no public row tells. `given` are the
    names of the options that the question has; without them, those that are not at their default.

    Where the trainer's loop holds what no option prices, or a newer model stands for an older one,
    the error is that of public runs with kernels that none names. An estimate's own bound widens
    the interval, as errors add up at worst.
    With an error of at most w either way the measured peak is between predicted / (1 + w) and
    predicted / (1 - w), BLAS' workspaces among what is predicted.
    """
    workload = prediction.workload
    if prediction.saved_activation_bytes is None or workload.setup.device != "cuda":
        return None
    has_gaps = trainer is not None and bool(trainer.gaps(workload.setup))
    described: Description = "not" if has_gaps or has_newer_layers(workload) else DESCRIBED
    known = command_shares()[described]
    bound = max(prediction.error_bound or 0.0, prediction.modules_error or 0.0)
    width = known.half_width + bound
    meant = spread(workload, prediction.peak.total_bytes, trainer, given)
    workspaces = workspaces_bytes(workload)
    is_known = all(each.is_priced for each in meant.unknowns)
    return PeakInterval(
        workload=workload,
        described=described,
        command=known,
        half_width=width,
        low_bytes=round((meant.low_bytes + workspaces) / (1 + width)) if is_known else None,
        high_bytes=round((meant.high_bytes + workspaces) / (1 - width)) if is_known else None,
        unknowns=meant.unknowns,
    )
