"""The interval of each peak in words: its ends, what the question leaves open, and what older
versions of the trainer took."""

from collections.abc import Sequence
from typing import Final

from lora_profiler.planning.answers import Answer
from lora_profiler.planning.unknowns import version_of
from lora_profiler.report.labels import method_label
from lora_profiler.units import byte_unit, short_in_unit

MOST: Final = 3
"""So many of what is not given are named in one line."""


def interval_lines(answers: Sequence[Answer], most: int = MOST) -> list[str]:
    """'Expect 35.4 to 41.2 GiB: the k-bit recipe and the lengths of samples are not given.' One
    line for all methods, which are named where there are several; of answers of which no interval
    is known another. With about `most` names of what is not given."""
    known = [answer for answer in answers if ends_words(answer)]
    others = [answer for answer in answers if answer.likely and not ends_words(answer)]
    lines = []
    if known:
        lines.append(f"Expect {_ends(known, len(answers) > 1)}{_unknown(known, most)}")
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
        spans = "; ".join(f"{u.what} {_range(u.low_bytes, u.high_bytes)}" for u in unknowns)
        if spans:
            lines.append(f"{method_label(answer.prediction)}, one by one: {spans}.")
    return lines


def _range(low: int, high: int) -> str:
    """'24.6 to 25.2 GiB'."""
    unit, size = byte_unit(high)
    return f"{short_in_unit(low, size)} to {short_in_unit(high, size)} {unit}"


def version_words(answer: Answer) -> str:
    """'answered as torchtune 0.7; older versions took up to 21 % more'. Empty where a version is
    named, or there is none; without its end where none took more."""
    trainer, likely = answer.trainer, answer.likely
    if trainer is None or trainer.is_pinned or likely is None or not trainer.stack.version:
        return ""
    what, peak = version_of(trainer.stack), answer.prediction.peak.total_bytes
    most = max((each.high_bytes for each in likely.unknowns if each.what == what), default=peak)
    title = f"Answered as {trainer.stack.library} {trainer.stack.version}"
    more = round(100 * (most / peak - 1))
    return f"{title}; older versions took up to {more} % more" if more else title


def leaves_open(answer: Answer) -> bool:
    """Whether the question leaves open what changes the peak."""
    return answer.likely is not None and bool(answer.likely.unknowns)
