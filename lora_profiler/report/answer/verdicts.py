"""The verdict on a GPU in words and numbers, worded once for every face: whether each method fits,
how much it needs, and one thing to do."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Final

from lora_profiler.facts.catalog import Gpu
from lora_profiler.facts.stacks import GUIDE
from lora_profiler.memory.prediction import Category, Prediction
from lora_profiler.planning.answers import Answer
from lora_profiler.question.workload import Method
from lora_profiler.report.blocks import Paragraph, Sign, VerdictLine, advice
from lora_profiler.report.labels import capital, method_label, way_label
from lora_profiler.units import byte_unit, count_text, short_in_unit

if TYPE_CHECKING:
    from lora_profiler.planning.advise import Remedy
    from lora_profiler.planning.over_data import LongSamples
    from lora_profiler.planning.placement import Communication
    from lora_profiler.planning.timing import TimedStep
    from lora_profiler.steptime import StepTime


# --- verdicts -------------------------------------------------------------------------------------

_MOST_GPUS: Final = 2
_ORDER: Final[Sequence[Sign]] = ("fits", "tight", "", "does_not_fit")
_SPOKEN_WITH_A_VOWEL: Final = "AEFHILMNORSX8"
"""Letters whose names begin with one: an RTX 4090, an H100, a T4."""


def gpu_name(gpu: "Gpu") -> str:
    """'RTX 4090': without the maker; '24 GiB GPU' where a size is all that is known."""
    name = gpu.name
    if name.partition(" ")[0] == gpu.key:  # `custom:24GiB` or `24GiB`, as typed
        less = name.partition(" ")[2]  # what vLLM has of it
        return f"{gpu.memory_gib_marketed:.4g} GiB GPU {less}".rstrip()
    for maker in ("NVIDIA ", "GeForce ", "AMD ", "Intel "):
        name = name.removeprefix(maker)
    return name


def a_gpu(gpu: "Gpu", count: int = 1) -> str:
    """'an RTX 4090', 'a Tesla V100', 'an 8 GiB GPU', '2 × RTX 4090'."""
    name = gpu_name(gpu)
    if count > 1:
        return f"{count} × {name}"
    vowels = "AEIOU" if name[1:2].islower() else _SPOKEN_WITH_A_VOWEL
    has_vowel = name[:1] in vowels or name[:2] in ("11", "18")
    return f"{'an' if has_vowel else 'a'} {name}"


def size_text(count: int) -> str:
    """'36.8 GiB', 'about' three digits."""
    unit, size = byte_unit(count)
    return f"{short_in_unit(count, size)} {unit}"


def rate_title(predictions: Iterable[Prediction]) -> str:
    """Of a column of tokens per second: those of one GPU."""
    is_shared = any(p.workload.setup.world_size > 1 for p in predictions)
    return "tokens/s each" if is_shared else "tokens/s"


def with_sending(time: "StepTime", sent: float) -> tuple[float, float]:
    """Seconds of a step of that `time` that sends for `sent` seconds: hidden behind compute at
    best, after it at worst."""
    return max(time.low, sent), time.high + sent


def rate_words(step: "TimedStep | None", sent: "Communication | None") -> str:
    """Tokens per second of one GPU, with what the ranks send each other, where that is known."""
    if step is None:
        return ""
    time, rates = step.time, [step.time.tokens_per_second]
    if sent is not None and sent.seconds:
        bounds = with_sending(time, sent.seconds)
        rates = [time.tokens_per_second * time.seconds / seconds for seconds in bounds[::-1]]
    return " to ".join(f"{rate:,.0f}" for rate in rates)


def method_name(answer: Answer) -> str:
    """'Full', 'LoRA r16': as a sentence begins with it."""
    return capital(way_label(answer.prediction.workload.setup))


def joined(names: Sequence[str], word: str = "and") -> str:
    """'a', 'a and b', 'a, b and c'."""
    *first, last = names
    return f"{', '.join(first)} {word} {last}" if first else last


def verdict_blocks(answers: Sequence[Answer], subject: str = "") -> list[VerdictLine]:
    """A line for each verdict that there is among the methods, the best one first; of a single
    method about `subject`, the name of a file, where there is one."""
    groups = [list(members) for _, members in groupby(best_first(answers), sign_of)]
    return [
        _verdict(group, subject if len(answers) == 1 else "", has_gpu=not place)
        for place, group in enumerate(groups)
    ]


def gpu_count(answer: Answer) -> int:
    """How many GPUs train: one rank on each."""
    return answer.prediction.workload.setup.world_size


def on_each(count: int) -> str:
    return " on each" * (count > 1)


def best_first(answers: Sequence[Answer]) -> list[Answer]:
    return sorted(answers, key=lambda answer: _ORDER.index(sign_of(answer)))


def sign_of(answer: Answer) -> Sign:
    """The verdict; '' where it cannot be known."""
    return answer.fit.verdict if answer.fit else ""


def worded(sign: Sign, who: str, gpu: str, *, several: bool = False, more: str = "") -> str:
    """'LoRA fits an RTX 4090', 'train.py may run out of memory on 8 × H100': a verdict in words;
    without `gpu` one that a line above names."""
    on = f" {gpu}" if gpu else ""
    if sign == "tight":
        return f"{who} may run out of memory{' on' * bool(on)}{on}{more}"
    if sign == "fits":
        return f"{who} fit{'' if several else 's'}{on}{more}"
    return f"{who} do{'' if several else 'es'} not fit{on}{more}"


def _verdict(answers: Sequence[Answer], subject: str, *, has_gpu: bool) -> VerdictLine:
    """`has_gpu`: whether the line names the GPU, as the first one does."""
    gpu = answers[0].gpu
    assert gpu is not None
    names, one = subject or joined([method_name(a) for a in answers]), len(answers) == 1
    count = gpu_count(answers[0])
    on, need = a_gpu(gpu, count) * has_gpu, "needs" if one else "need"
    usable = f"{'~' * gpu.usable_is_estimated}{size_text(gpu.usable_bytes or 0)}"
    fits = [answer.fit for answer in answers if answer.fit]
    if not fits:
        sizes = joined([size_text(a.prediction.peak.total_bytes) for a in answers])
        words = f"{names} may fit{f' {on}' if on else ''} or not:"
        rest = f" {need} at least {sizes} of {usable}, activations not known."
        return VerdictLine(sign="tight", words=words, rest=rest)
    sign = fits[0].verdict
    least = [fit.peak_bytes + fit.least_reserve_bytes for fit in fits]
    if sign == "does_not_fit":
        sizes = joined([*map(_short, least[:-1]), size_text(least[-1])])
        the_gpu = "each GPU" if count > 1 else "the GPU"
        is_alike = sizes.split()[-1] == usable.rsplit(maxsplit=1)[-1]  # the unit
        has = _short(fits[0].usable_bytes) if is_alike else usable
        rest = f"{need} at least {sizes}, {the_gpu} has {has}"
    elif sign == "tight":
        most = (fit.peak_bytes + fit.reserve_bytes for fit in fits)
        ends = (f"{_short(a)} to {_short(b)}" for a, b in zip(least, most, strict=True))
        rest = f"{joined(list(ends))} of {usable}{on_each(count)}"
    elif one:
        peak, overhead = fits[0].peak_bytes, fits[0].reserve_bytes
        held = f"{size_text(peak)} + up to {_short(overhead, peak)} overhead"
        rest = f"{held}, {size_text(fits[0].headroom_bytes)} free{on_each(count)}"
    else:
        free = joined([_short(fit.headroom_bytes) for fit in fits])
        rest = f"{free} of {usable} free{on_each(count)}"
    modelled = "" if sign == "tight" else _as_modelled(answers)
    words = worded(sign, names, on, several=not one, more=modelled)
    return VerdictLine(sign=sign, words=f"{words}:", rest=f" {rest}.")


def _short(count: int, of: int | None = None) -> str:
    """Without a unit, in that of `of`."""
    return short_in_unit(count, byte_unit(of or count)[1])


def _as_modelled(answers: Sequence[Answer]) -> str:
    """' as far as modelled', where what the question names and nothing models may turn it."""
    for answer in answers:
        gaps = answer.trainer.gaps(answer.prediction.workload.setup) if answer.trainer else ()
        other = "too low" if sign_of(answer) == "does_not_fit" else "too high"
        if any(gap.direction not in ("", other) for gap in gaps):
            return " as far as modelled"
    return ""


def needs_block(answers: Sequence[Answer]) -> VerdictLine:
    """'LoRA r16 needs a 24 GB GPU; full needs an 80 GB GPU.', the smallest that suffice; of one
    method with GPUs that have it."""
    ordered = sorted(answers, key=lambda answer: answer.prediction.peak.total_bytes)
    first, *others = (
        f"{way_label(a.prediction.workload.setup)} needs {_enough(a, with_names=len(answers) == 1)}"
        for a in ordered
    )
    rest = "".join(f"; {text}" for text in others)
    return VerdictLine(sign="", words=capital(first), rest=f"{rest}.")


def _enough(answer: Answer, *, with_names: bool) -> str:
    prediction, size = answer.prediction, size_text(answer.prediction.peak.total_bytes)
    if not prediction.is_whole:
        return f"more than {size}"
    if prediction.workload.setup.device != "cuda":
        return size
    if answer.smallest_card is None:
        return f"several GPUs, {size} in all"
    names = dict.fromkeys(map(gpu_name, answer.smallest_cards)) if with_names else {}
    like = f" ({', '.join([*names][:_MOST_GPUS])})" if names else ""
    return f"{smallest_gpu(answer)}{like}"


def smallest_gpu(answer: Answer) -> str:
    """'a 24 GB GPU'; '' where no single one suffices."""
    card = answer.smallest_card
    if card is None:
        return ""
    size = f"{card.memory_gib_marketed:g}"
    return f"{'an' if size[0] == '8' else 'a'} {size} GB GPU"


# --- what to do -----------------------------------------------------------------------------------


def advice_blocks(
    answers: Sequence[Answer],
    subject: str = "",
    by_trainer: Callable[[Method], str] = lambda _: "",
    by: str = "",
) -> list[Paragraph]:
    """At most two things to do about the methods that do not fit, the lightest method first, in
    the words of the file `subject` where the question came from one; where a method has none, what
    `by_trainer` says of it, or how many GPUs there must be, which is what `plan` answers. `by`
    begins the first change of the setup, as "By transformers' Trainer"."""
    found: list[str] = []
    lacking: list[Answer] = []
    for answer in sorted(answers, key=lambda answer: answer.prediction.peak.total_bytes):
        if answer.fit is None or answer.fit.verdict == "fits":
            continue
        of_file = _file_lines(answer, subject) if subject else ()
        texts = [*long_samples_lines(answer), *of_file, *remedy_lines(answer, by)]
        method = answer.prediction.workload.setup.method
        by = "" if texts else by
        texts = texts[:1] or list(filter(None, [by_trainer(method)]))
        found += texts
        lacking += [] if texts else [answer]
    if lacking:
        found.append(_several_gpus(lacking))
    return [advice(text) for text in found[:2]]


def _file_lines(answer: Answer, file: str) -> Iterator[str]:
    """'Set `gradient_checkpointing: true` in qlora.yml: 9.74 GiB + overhead, same speed.'"""
    from lora_profiler.trainer_files.writing import changed_keys

    trainer = answer.trainer
    for remedy in answer.remedies[:1] if trainer else ():
        assert trainer is not None
        keys = changed_keys(trainer.stack.name, answer.prediction.workload, remedy.workload)
        if keys:
            words = joined([f"`{key}: {json.dumps(value)}`" for key, value in keys.items()])
            yield f"Set {words} in {file}: {_outcome(remedy, answer)}."


def _several_gpus(answers: Sequence[Answer]) -> str:
    workload = answers[0].prediction.workload
    how_many = "more" if workload.setup.is_shared else "several"
    ways = [way_label(answer.prediction.workload.setup) for answer in answers]
    need = "s" * (len(answers) == 1)
    plan = f"`lora-profile plan {workload.model.id}`"
    return f"{capital(joined(ways))} need{need} {how_many} GPUs: {plan}."


def long_samples_lines(answer: Answer) -> Iterator[str]:
    """'1 of 5,000 samples is longer than 3,388 tokens. LoRA fits without it: `--seq-len 3388`.'"""
    long: LongSamples | None = answer.long_samples
    if long is None or answer.over_data is None:
        return
    every, one = count_text(answer.over_data.data.lengths.num_samples), long.samples == 1
    are, it = ("is", "it") if one else ("are", "them")
    yield (
        f"{count_text(long.samples)} of {every} samples {are} longer than"
        f" {count_text(long.seq_len)} tokens. {method_name(answer)} fits without {it}:"
        f" `--seq-len {long.seq_len}`."
    )


def remedy_lines(answer: Answer, by: str = "") -> list[str]:
    """The change that keeps the training as it is, or changes it least; then the quickest."""
    remedies = answer.remedies if answer.fit and answer.fit.verdict != "fits" else ()
    if not remedies:
        return []
    first = remedies[0]
    quickest = max(remedies, key=lambda remedy: remedy.tokens_per_second or 0)
    both = (first, quickest) if first.departure < quickest.departure else (first,)
    lines = []
    for remedy in both:
        way = way_label(remedy.workload.setup)  # which may be another method
        who = f"{by} {way}" if by else capital(way)
        options = " ".join(remedy.options)
        lines.append(f"{who} fits with `{options}`: {_outcome(remedy, answer)}.")
    return lines


def _outcome(remedy: "Remedy", answer: Answer) -> str:
    return f"{size_text(remedy.peak_bytes)} + overhead, {what_changes(remedy, answer.step)}"


def speed_words(remedy: "Remedy", step: "TimedStep | None") -> str:
    """'28 % slower', 'same speed'; '' where a time is not known."""
    after = remedy.tokens_per_second
    if step is None or after is None:
        return ""
    percent = round(100 * (after / step.time.tokens_per_second - 1))
    return f"{abs(percent)} % {'faster' if percent > 0 else 'slower'}" if percent else "same speed"


def what_changes(remedy: "Remedy", step: "TimedStep | None") -> str:
    """'28 % slower', '4-bit base, 40 % slower': what a set of changes means for the training."""
    names = [re.sub(r"^an? | \(.*\)$", "", name) for name in remedy.names]
    kept = [] if remedy.learns_the_same else names
    return ", ".join(filter(None, (*kept, speed_words(remedy, step)))) or "same training"


# --- what a bar is made of ------------------------------------------------------------------------


PARTS: Final[dict[str, tuple[Category, ...]]] = {
    "weights": ("parameters", "quantization_state"),
    "gradients": ("gradients",),
    "optimizer": ("optimizer_states",),
    "activations": ("activations",),
    "logits": ("logits_and_loss",),
    "temporary": ("temporaries", "workspace"),
    "rest": ("adapters", "buffers", "inputs", "communication"),
}
"""A part of a bar: what it stands for."""
_SMALL = 0.02
"""Parts of less than this of the peak are drawn with the rest."""


def bar_parts(prediction: Prediction) -> dict[str, int]:
    """Bytes at the peak by part, in the order of `PARTS`; small ones are in the rest."""
    held = prediction.peak.bytes
    sizes = {name: sum(held.get(c, 0) for c in of) for name, of in PARTS.items()}
    least = _SMALL * sum(sizes.values())
    parts = {name: size for name, size in sizes.items() if name != "rest" and size >= least}
    rest = sum(sizes.values()) - sum(parts.values())
    return {**parts, **({"rest": rest} if rest else {})}


def limit_of(gpu: "Gpu", count: int = 1) -> tuple[int, str]:
    """The usable memory of each of `count` GPUs, and what it is."""
    usable = gpu.usable_bytes or 0
    name = gpu_name(gpu) if count == 1 else a_gpu(gpu, count)
    return usable, f"{name}, {size_text(usable)}{' each' * (count > 1)}"


# --- the shortest names of GPUs -------------------------------------------------------------------


_EXTRAS = (
    re.compile(r" (Edition|Generation|\(per GPU\))|^(Tesla|Instinct|Radeon) "),
    re.compile(r" (\(?\d+ ?GB\)?|HBM\w*)"),
    re.compile(r" (SXM\d?|PCIe|NVL|Blackwell|Workstation|Server)"),
)
"""What a name is left without, one after the other, while it tells the GPU from the others."""


def short_gpu_names(gpus: Iterable[Gpu]) -> dict[str, str]:
    names = {gpu.key: _names(gpu) for gpu in gpus}
    for level in (3, 2, 1):
        short = {key: of_gpu[level] for key, of_gpu in names.items()}
        if len(set(short.values())) == len(short):
            return short
    return {key: of_gpu[0] for key, of_gpu in names.items()}


def _names(gpu: Gpu) -> list[str]:
    names = [gpu_name(gpu)]
    for extra in _EXTRAS:
        names.append(extra.sub("", names[-1]))
    return names


# --- the interval of a peak -----------------------------------------------------------------------

# The interval of each peak in words: its ends, what the question leaves open, and what older
# versions of the trainer took.

MOST: Final = 3
"""So many of what is not given are named in one line."""


def interval_lines(answers: Sequence[Answer], most: int = MOST) -> list[str]:
    """'Expect 35.4 to 41.2 GiB: the k-bit recipe and the lengths of samples are not given.' One
    line for all methods, which are named where there are several; of answers of which no interval
    is known another. With about `most` names of what is not given. Where no trainer is named, the
    table of trainers goes further: each has its own dtype, optimizer and checkpointing."""
    known = [answer for answer in answers if ends_words(answer)]
    others = [answer for answer in answers if answer.likely and not ends_words(answer)]
    lines = []
    if known:
        is_open = any(a.trainer is not None and a.trainer.stack.name == GUIDE for a in known)
        same = " with the setup above" if is_open else ""
        lines.append(f"Expect {_ends(known, len(answers) > 1)}{same}{_unknown(known, most)}")
    if others:
        names = ", ".join(method_label(answer.prediction) for answer in others)
        lines.append(f"{names}: no interval, parts are not modelled{_unknown(others, most)}")
    return lines


def _ends(answers: Sequence[Answer], are_named: bool) -> str:
    """'35.4 to 41.2 GiB', 'full 70.1 to 84.0, LoRA r16 35.4 to 41.2 GiB'."""
    if not are_named:
        return ends_words(answers[0])
    pairs = [(a, a.likely.low_bytes or 0, a.likely.high_bytes or 0) for a in answers if a.likely]
    unit, size = byte_unit(max(high for _, _, high in pairs))
    ends = (
        f"{method_label(a.prediction)} {short_in_unit(low, size)} to {short_in_unit(high, size)}"
        for a, low, high in pairs
    )
    return f"{', '.join(ends)} {unit}"


def ends_words(answer: Answer) -> str:
    """'35.4 to 41.2 GiB'; empty where no interval is known."""
    likely = answer.likely
    if likely is None or likely.low_bytes is None or likely.high_bytes is None:
        return ""
    return _range(likely.low_bytes, likely.high_bytes)


def _unknown(answers: Sequence[Answer], most: int) -> str:
    """': the k-bit recipe and the lengths of samples are not given.', what is worth most first."""
    worth: dict[str, float] = {}
    for answer in answers:
        for each in answer.likely.unknowns if answer.likely else ():
            share = (each.high_bytes - each.low_bytes) / answer.prediction.peak.total_bytes
            worth[each.what] = max(share, worth.get(each.what, 0))
    names = sorted(worth, key=lambda name: -worth[name])
    if not names:
        return "; the options say all that ran."
    if not most:
        return f"; {len(names)} unknown (--detail)."
    are = "are" if len(names) > 1 else "is"
    if len(names) > most + 1:
        names[most:] = [f"{len(names) - most} more"]
    words = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    return f": {words} {are} not given."


def worth_lines(answers: Sequence[Answer]) -> list[str]:
    """What each unknown is worth by itself, a line a method."""
    lines = []
    for answer in answers:
        unknowns = answer.likely.unknowns if answer.likely else ()
        ranges = ((u.what, *_limits(u.low_bytes, u.high_bytes)) for u in unknowns)
        spans = "; ".join(
            f"{what} {low} to {high} {unit}" for what, low, high, unit in ranges if low != high
        )
        if spans:
            lines.append(f"{method_label(answer.prediction)}, one by one: {spans}.")
    return lines


def _range(low: int, high: int) -> str:
    """'24.6 to 25.2 GiB'."""
    return "{} to {} {}".format(*_limits(low, high))


def _limits(low: int, high: int) -> tuple[str, str, str]:
    """('24.6', '25.2', 'GiB')."""
    unit, size = byte_unit(high)
    return short_in_unit(low, size), short_in_unit(high, size), unit


def version_words(answer: Answer) -> str:
    """'answered as torchtune 0.7; older versions took up to 21 % more'. Empty where a version is
    named, or there is none, or none took more."""
    trainer, likely = answer.trainer, answer.likely
    if trainer is None or trainer.is_pinned or likely is None or not trainer.stack.version:
        return ""
    what, peak = trainer.stack.version_words, answer.prediction.peak.total_bytes
    most = max((each.high_bytes for each in likely.unknowns if each.what == what), default=peak)
    if not (more := round(100 * (most / peak - 1))):
        return ""
    title = f"Answered as {trainer.stack.library} {trainer.stack.version}"
    return f"{title}; older versions took up to {more} % more"


def leaves_open(answer: Answer) -> bool:
    """Whether the question leaves open what changes the peak."""
    return answer.likely is not None and bool(answer.likely.unknowns)
