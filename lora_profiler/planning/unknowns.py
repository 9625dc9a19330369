"""What a question leaves open, and what each of that is worth for it: the peak is predicted anew
with every value that the run may have had.

Nothing here knows a trainer or an option by name, but for what an answer states in its first lines.
An option declares the values that runs differ in (`Declaration.alternatives`), a trainer what its
scripts decide (`Stack.leaves`), what its users often set (`Stack.variants`) and its older versions.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from lora_profiler.errors import LoraProfilerError
from lora_profiler.planning.engine import answers_without_trace, peak_bytes_checked
from lora_profiler.planning.setups import DEFAULTS, changed, written_options
from lora_profiler.stacks.stack import (
    BARE,
    GUIDE,
    Options,
    Stack,
    Trainer,
    as_guided,
    find_stack,
    versions,
)
from lora_profiler.support.check import check
from lora_profiler.workload import OPTIONS, Workload, setup_dict

LOOPS: Final = ("loop", "transformers", "trl-sft", "axolotl", "torchtune", "unsloth")
"""Who may train where a question names nobody."""
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


class Spread(NamedTuple):
    """The peaks of all that the question may mean, and what each unknown is worth."""

    low_bytes: int
    high_bytes: int
    unknowns: tuple[Worth, ...]


def spread(
    workload: Workload, peak: int, trainer: Trainer | None, given: Collection[str] | None
) -> Spread:
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
    return Spread(
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
            version_of(stack), tuple(_loop(stack, each, workload, given) for each in older)
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
    left = {name for loop in LOOPS for name in find_stack(loop).leaves or ()}
    if trainer is not None and trainer.stack.name == BARE:
        left |= OF_OWN_LOOPS
    return {*left, "transformers", *APART} - (STATED - {"seq_len"})


def version_of(stack: Stack) -> str:
    """What an answer calls a version that is not given."""
    return f"the version of {stack.library}"


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
    for stack in map(find_stack, LOOPS):
        own = _loop(mine, as_guided(stack) if mine.name == GUIDE else stack, workload, given)
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
    return {n: v for n, v in options.items() if n not in {*given, *STATED, *APART}}
