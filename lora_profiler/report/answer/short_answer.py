"""The answer that a person wanted, in at most 25 lines of 80 columns: what trains, what holds the
peak, which card is enough, and on a named card whether it fits, what makes it fit, and how fast; a
card's memory in numbers that add up as they stand: usable = peak + reserve + headroom."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from lora_profiler.option_values import GRPO
from lora_profiler.planning.answers import Answer
from lora_profiler.planning.engine import common_assumptions
from lora_profiler.planning.fit import Fit
from lora_profiler.prediction import Category, Prediction
from lora_profiler.report.blocks import Block, Paragraph, Table, heading, table, wrapped
from lora_profiler.report.labels import method_label, sureness
from lora_profiler.report.peak_interval import MOST, interval_lines, leaves_open, version_words
from lora_profiler.report.setup_words import (
    NAMED,
    asked_words,
    platform_words,
    short_trainer_lines,
    title_words,
)
from lora_profiler.units import (
    byte_unit,
    bytes_text,
    count_text,
    hundredths,
    hundredths_text,
    in_unit,
    rate_text,
    seconds_text,
    short_count_text,
)

if TYPE_CHECKING:
    from lora_profiler.planning.advise import Remedy
    from lora_profiler.planning.fit import Fit
    from lora_profiler.planning.guided import Guided
    from lora_profiler.planning.over_data import LongSamples
    from lora_profiler.planning.reserve import Verdict
    from lora_profiler.planning.timing import TimedStep
    from lora_profiler.stacks.stack import Gap


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Texts in `unit`. `context`, `workspaces` and `fragmentation` add up to `reserve`."""

    unit: str
    usable: str
    peak: str
    reserve: str
    context: str
    workspaces: str
    fragmentation: str
    headroom: str


def room(fit: Fit) -> Room:
    """Usable memory, peak and headroom are rounded as everywhere; the reserve, an estimate, takes
    up what rounding leaves."""
    unit, size = byte_unit(fit.usable_bytes)
    usable, peak, headroom = (
        hundredths(count, size) for count in (fit.usable_bytes, fit.peak_bytes, fit.headroom_bytes)
    )
    reserve = max(0, usable - peak - headroom)
    exact = fit.reserve.context_bytes, fit.reserve.workspace_bytes, fit.reserve.fragmentation_bytes
    parts = shared(reserve, [100 * count / size for count in exact])
    context, workspaces, fragmentation = (
        hundredths_text(part, count) for part, count in zip(parts, exact, strict=True)
    )
    return Room(
        unit=unit,
        usable=hundredths_text(usable, fit.usable_bytes),
        peak=hundredths_text(peak, fit.peak_bytes),
        reserve=hundredths_text(reserve, fit.reserve_bytes),
        context=context,
        workspaces=workspaces,
        fragmentation=fragmentation,
        headroom=hundredths_text(usable - peak - reserve, fit.headroom_bytes),
    )


def shared(total: int, exact: Sequence[float]) -> list[int]:
    """Whole numbers that add up to `total`, each as near to its exact one as that allows."""
    found = [int(number) for number in exact]
    while (left := total - sum(found)) != 0:
        step = 1 if left > 0 else -1
        able = [place for place, number in enumerate(found) if step > 0 or number > 0]
        place = max(able, key=lambda place: step * (exact[place] - found[place]))
        found[place] += step
    return found


WIDTH, MOST_LINES = 80, 25
_UNTIMED = " tokens/s beside generation"
in_lines = partial(wrapped, width=WIDTH)
_BAR = 22
_LETTERS: dict[str, tuple[str, tuple[Category, ...]]] = {
    "w": ("weights", ("parameters", "quantization_state", "adapters", "buffers")),
    "g": ("gradients", ("gradients",)),
    "o": ("optimizer", ("optimizer_states",)),
    "a": ("activations", ("activations", "inputs")),
    "l": ("logits", ("logits_and_loss",)),
    "t": ("temporaries", ("temporaries", "workspace")),
    "c": ("communication", ("communication",)),
}
"""A letter of the bar: what it stands for. A letter, not a colour: the answer is read in pipes and
logs too."""


_LEGEND = 3
"""The place of the legend among the blocks of a short answer."""


def short_blocks(answers: Sequence[Answer], guided: "Guided | None" = None) -> list[Block]:
    """About one model, asked with one setup and one or more methods; `guided` is the same by who
    trains, of a question that names no trainer."""
    if guided is not None:
        return _guided_blocks(answers, guided)
    predictions = [answer.prediction for answer in answers]
    above: list[Block] = [
        heading(title_words(predictions[0])),
        in_lines(*_question(answers)),
        _peaks(answers),
        in_lines(_legend(predictions), *_on_host(predictions)),
        *_epoch(answers),
    ]
    card = "" if answers[0].gpu else "--gpu KEY judges a card; "
    more = f"{card}--detail shows every part and caveat, --explain the formulas."
    below = in_lines(*_trust(answers), more)
    if answers[0].gpu is None:
        return [*above, below]
    remedies = [remedy_lines(answer) for answer in answers]
    first = [words[:1] for words in remedies]
    both = [*above, _on_card(answers, remedies), below]
    less = [*above, _on_card(answers, first), in_lines(*_trust(answers))]
    brief = [*less[:-1], in_lines(*_trust(answers, most=0))]
    least = [brief[0], in_lines(*_question(answers, most=0)), *brief[2:]]
    bare = [block for place, block in enumerate(least) if place != _LEGEND]
    choices = (both, less, brief, least, bare)
    return next((blocks for blocks in choices if _height(blocks) <= MOST_LINES), bare[:-1])


def _guided_blocks(answers: Sequence[Answer], guided: "Guided") -> list[Block]:
    """How many trainers it fits with, the loop of guides, a row for each trainer, what would change
    it most; less of it where it would not fit the screen."""
    from lora_profiler.report.answer.guided import (
        change_lines,
        lines_table,
        range_line,
        verdict_line,
    )

    predictions, gpu = [answer.prediction for answer in answers], answers[0].gpu
    verdicts = []
    if gpu is not None:
        about = "~" if gpu.usable_is_estimated else ""
        usable = f"{about}{bytes_text(gpu.usable_bytes or 0)}"
        verdicts.append(f"On {gpu.name}, {usable}: {verdict_line(guided)}.")
    for answer in answers:
        label = method_label(answer.prediction)
        verdicts += [f"  {label}: {text}" for text in remedy_lines(answer)[:1]]
    above: list[Block] = [
        heading(title_words(predictions[0])),
        *([in_lines(*verdicts)] if verdicts else []),
        in_lines(*_question(answers)),
    ]
    bars = _peaks(answers)
    by_trainer = lines_table(guided)
    on_host, epoch = list(_on_host(predictions)), list(_epoch(answers))
    last = (range_line(guided), "--detail shows every part.")
    legend, changes = _legend(predictions), list(change_lines(guided))
    full = [*above, bars, *epoch, by_trainer, in_lines(legend, *on_host, *changes, *last)]
    fewer = [*above, bars, *epoch, by_trainer, in_lines(legend, *on_host, *changes[-1:], *last[:1])]
    short = [*above, *epoch, by_trainer, in_lines(*on_host, *changes[-1:], *last[:1])]
    least = [*above, *epoch, by_trainer, *([in_lines(*on_host)] if on_host else [])]
    return next((blocks for blocks in (full, fewer, short) if _height(blocks) <= MOST_LINES), least)


def _height(blocks: Sequence[Block]) -> int:
    """Lines, with an empty one between blocks; a table's head is one."""
    sizes = [len(b.rows) + 1 if isinstance(b, Table) else len(b.lines) for b in blocks]
    return sum(sizes) + len(blocks) - 1


def _question(answers: Sequence[Answer], most: int = NAMED) -> list[str]:
    """With at most so many names of what the trainer sets."""
    predictions = [answer.prediction for answer in answers]
    worst = "worst " if answers[0].over_data else ""
    training, attention = asked_words(predictions)
    return [
        f"{worst}{training}, {attention}{platform_words(predictions[0].workload)}",
        *short_trainer_lines(answers[0].trainer, [p.workload for p in predictions], most),
    ]


def _epoch(answers: Sequence[Answer]) -> Iterator[Block]:
    """What the data say beside the worst batch; nothing without them."""
    if answers[0].over_data is not None:
        from lora_profiler.report.answer.comparison_table import short_lines

        yield in_lines(*short_lines(answers))


def _peaks(answers: Sequence[Answer]) -> Table:
    """A row a method: the bar of what holds its peak, the smallest cards, what trains, the peak."""
    largest = max(answer.prediction.peak.total_bytes for answer in answers)
    unit, size = byte_unit(largest)
    known = all(a.prediction.is_whole for a in answers)
    return table(
        answers,
        (
            ("", lambda a: method_label(a.prediction)),
            ("what holds the peak", lambda a: _bar(a.prediction, largest)),
            ("smallest card", _card_words),
            ("trained", lambda a: short_count_text(a.prediction.parameters.trainable)),
            (
                f"{'peak' if known else 'at least'}, {unit}",
                lambda a: in_unit(a.prediction.peak.total_bytes, size),
            ),
        ),
        left=3,
    )


def _bar(prediction: Prediction, largest: int) -> str:
    """Letters in proportion, in all as many as the peak is of the `largest`."""
    held = prediction.peak.bytes
    shares = {k: sum(held.get(part, 0) for part in parts) for k, (_, parts) in _LETTERS.items()}
    total = round(_BAR * sum(shares.values()) / largest)
    counts = shared(total, [_BAR * size / largest for size in shares.values()])
    return "".join(letter * count for letter, count in zip(shares, counts, strict=True))


def _legend(predictions: Sequence[Prediction]) -> str:
    largest = max(prediction.peak.total_bytes for prediction in predictions)
    drawn = {letter for prediction in predictions for letter in _bar(prediction, largest)}
    words = ", ".join(f"{k} {name}" for k, (name, _) in _LETTERS.items() if k in drawn)
    return f"{words}; {bytes_text(largest // _BAR)} a letter"


def _on_host(predictions: Sequence[Prediction]) -> Iterator[str]:
    """What the host has to hold, where anything waits there."""
    held = [(method_label(p), sum(p.host_bytes.values())) for p in predictions]
    if any(size for _, size in held):
        ranks = predictions[0].workload.setup.world_size
        told = [f"{name} {bytes_text(size)}" for name, size in held]
        if ranks > 1:
            every = [bytes_text(size * ranks) for _, size in held]
            told = [f"{t} a rank, {e} in all" for t, e in zip(told, every, strict=True)]
        yield f"in the host's memory: {'; '.join(told)}"


def _card_words(answer: Answer) -> str:
    """'48 GB, l40s': the smallest memory that suffices, and a card that has it."""
    prediction = answer.prediction
    if not prediction.is_whole:
        return "not known"
    if prediction.workload.setup.device != "cuda":
        return ""
    card = answer.smallest_card
    return f"{card.memory_gib_marketed:g} GB, {card.key}" if card else "none alone"


def _on_card(answers: Sequence[Answer], remedies: Sequence[Sequence[str]]) -> Paragraph:
    """The verdict of each method on the card that was asked about, and what would make it fit."""
    gpu = answers[0].gpu
    assert gpu is not None
    about = "~" if gpu.usable_is_estimated else ""
    verdicts = [verdict_words(answer) for answer in answers]
    told = ""
    if len(answers) > 1 and any(words.endswith(_UNTIMED) for words in verdicts):  # said once
        told = f"; time and{_UNTIMED}"
        verdicts = [words.replace(_UNTIMED, "/s") for words in verdicts]
    lines = [f"{gpu.name}, {about}{bytes_text(gpu.usable_bytes or 0)} usable{told}"]
    for answer, verdict, words in zip(answers, verdicts, remedies, strict=True):
        lines.append(f"  {method_label(answer.prediction)} {verdict}")
        lines += (f"    {text}" for text in words)
    return in_lines(*lines)


def verdict_words(answer: Answer) -> str:
    """'does not fit: 15.70 GiB too much (reserve 2.80 GiB)', of the card that was asked about."""
    fit = answer.fit
    if fit is None:
        return "may fit or not: what its layers keep is not known to this engine"
    step = answer.step
    modelled = _as_modelled(answer, fit.verdict)
    if fit.verdict == "does_not_fit":
        return f"does not fit{modelled}: at least {bytes_text(-fit.headroom_bytes)} too much"
    setup = answer.prediction.workload.setup
    generates = setup.completions_at_once or setup.loop_state in GRPO
    beside = " beside generation" if generates else ""
    speed = f"; {_speed(step)}{beside}" if step else ""
    if fit.verdict == "tight":
        low, high = (fit.peak_bytes + size for size in (fit.least_reserve_bytes, fit.reserve_bytes))
        usable = bytes_text(fit.usable_bytes)
        return f"may run out of memory: {bytes_text(low)} to {bytes_text(high)} of {usable}{speed}"
    batch = f" (to batch {count_text(fit.largest_batch_size)})" if fit.largest_batch_size else ""
    return f"fits{modelled}, {bytes_text(fit.headroom_bytes)} left{batch}{speed}"


def _as_modelled(answer: Answer, verdict: "Verdict") -> str:
    """' as far as modelled', where what the question names and nothing models may turn it."""
    other = "too low" if verdict == "does_not_fit" else "too high"
    turns = any(gap.direction not in ("", other) for gap in _gaps(answer))
    return " as far as modelled" if turns else ""


def _speed(step: "TimedStep") -> str:
    return f"{seconds_text(step.time.seconds)}, {rate_text(step.time.tokens_per_second, 'tokens')}"


def remedy_lines(answer: Answer) -> list[str]:
    """That it fits without a few long samples; the set of changes that suffices and changes the
    update least, and the quickest of all."""
    if answer.gpu is None or answer.fit is None or answer.fit.verdict == "fits":
        return []
    long = answer.long_samples
    lines = [long_samples_words(long, answer)] if long else []
    return lines + _remedy_lines(answer.remedies, is_last=not lines)


def long_samples_words(long: "LongSamples", answer: Answer) -> str:
    """'1 of 5,000 samples is longer than 3,388 tokens; without it: fits (--seq-len 3388 cuts
    it)'."""
    assert answer.over_data is not None
    every, one = count_text(answer.over_data.data.lengths.num_samples), long.samples == 1
    are, it = ("is", "it") if one else ("are", "them")
    return (
        f"{count_text(long.samples)} of {every} samples {are} longer than"
        f" {count_text(long.seq_len)} tokens; without {it}: fits (--seq-len {long.seq_len} cuts"
        f" {it})"
    )


def _remedy_lines(remedies: "Sequence[Remedy]", *, is_last: bool) -> list[str]:
    if not remedies:
        none = "nothing short of several cards makes it fit: lora-profile plan"
        return [none] if is_last else []
    first = remedies[0]
    quickest = max(remedies, key=lambda remedy: remedy.tokens_per_second or 0)
    both = (first, quickest) if first.departure < quickest.departure else (first,)
    return [_words(remedy) for remedy in both]


def _words(remedy: "Remedy") -> str:
    words = f"{' '.join(remedy.options)}: fits, {bytes_text(remedy.peak_bytes)}"
    if remedy.tokens_per_second is not None:
        words += f", {rate_text(remedy.tokens_per_second, 'tokens')}"
    return words + ("" if remedy.learns_the_same else ", trains otherwise")


def _trust(answers: Sequence[Answer], most: int = MOST) -> list[str]:
    """How sure the peaks are, in one sentence, and the interval of each, with at most so many names
    of what is not given."""
    kinds: dict[str, list[str]] = {}
    for answer in answers:
        kinds.setdefault(sureness_words(answer), []).append(method_label(answer.prediction))
    beside = dict.fromkeys(w for a in answers for w in common_assumptions(a.prediction.workload))
    sure = "; ".join(f"{', '.join(names)}: {kind}" for kind, names in kinds.items() if kind)
    words = " ".join((f"{sure}." if sure else "", *beside)).strip()
    return [*filter(None, (words,)), *interval_lines(answers, most)]


def sureness_words(answer: Answer) -> str:
    """How sure the peak is: 'the peak is exact for this loop'. Nothing is exact of which the
    question leaves something open; there the interval speaks, and what older versions took."""
    lower = "a lower bound, activations not known"
    if not answer.prediction.is_whole:
        return lower
    if missing := missing_words(answer):
        return f"an estimate; {missing}"
    if has_gaps(answer):
        return "an estimate; not all of the loop is priced (--detail)"
    whose = answer.trainer and answer.trainer.stack.version and answer.trainer.stack.title
    exact = f"the peak is exact for {f'{whose} as pinned' if whose else 'this loop'}"
    if leaves_open(answer):
        exact = version_words(answer)
    within, estimate = "the peak is within {}", "the peak is an estimate"
    return sureness(answer.prediction, exact, lower, within, estimate)


def missing_words(answer: Answer) -> str:
    """'not modelled: torch.compile (the answer is too high) and 1 more (--detail)', of what the
    question names; empty where it names nothing that is not modelled."""
    named = [gap for gap in _gaps(answer) if gap.missing]
    if not named:
        return ""
    first, *others = named
    errs = f" (the answer is {first.direction})" if first.direction else ""
    more = f" and {len(others)} more" if others else ""
    return f"not modelled: {first.missing}{errs}{more}" + (" (--detail)" if others else "")


def has_gaps(answer: Answer) -> bool:
    """Whether the trainer's loop holds what is not priced."""
    return bool(_gaps(answer))


def _gaps(answer: Answer) -> "Sequence[Gap]":
    trainer = answer.trainer
    return trainer.gaps(answer.prediction.workload.setup) if trainer else ()
