"""What is said of an answer in a few large words: the verdict, two numbers of one method (tokens a
second, how long a training takes), what a peak rests on, and what to change."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from lora_profiler.planning.advise import Remedy, advise
from lora_profiler.planning.answers import Answer
from lora_profiler.planning.fit import Fit, smallest_cards
from lora_profiler.planning.guided import Guided
from lora_profiler.planning.timing import TimedStep, run_time
from lora_profiler.question.workload import TrainSetup
from lora_profiler.report import labels
from lora_profiler.report.answer.guided import verdict_lines
from lora_profiler.report.answer.short_answer import has_gaps, sureness_words
from lora_profiler.report.answer.verdicts import (
    gpu_name,
    interval_lines,
    leaves_open,
    needs_block,
    rate_title,
    size_text,
    speed_words,
    verdict_blocks,
)
from lora_profiler.report.blocks import VerdictLine as Sentence
from lora_profiler.units import (
    bytes_texts,
    count_text,
    short_between_text,
    short_count_text,
    short_seconds_text,
)


def verdict(answer: Answer, guided: Guided | None = None) -> Sentence:
    """The terminal's sentence on the method of `answer`, with how many trainers it fits where it is
    `guided`; without a GPU how large a one is enough."""
    if answer.gpu is not None:
        if guided is not None and answer.prediction.is_whole:
            return next(verdict_lines(guided, [answer]))
        return verdict_blocks([answer])[0]
    return needs_block([answer])


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRun:
    """What is trained on: rows of the data, their tokens on average, passes over them, and the
    price of an hour of each device in whatever money, None where it is not asked."""

    rows: int = 5000
    mean_length: int = 400
    epochs: float = 3.0
    price: float | None = None

    @property
    def tokens(self) -> int:
        return self.rows * self.mean_length


class LargeNumber(NamedTuple):
    """Its name, itself, and a line below it where there is more to say."""

    label: str
    value: str
    note: str = ""


def speed_numbers(answer: Answer, run: TrainingRun) -> tuple[LargeNumber, ...]:
    """None without a device, or where no source tells its speed. Of what does not fit they are
    those of a card as fast with room for it, and a note says so."""
    step = answer.step
    if step is None:
        return ()
    time = step.time
    tokens, setup = time.tokens_per_second * time.seconds, step.workload.setup
    each = run_time(step, tokens * setup.batches_at_once, sending=answer.sending_seconds)
    unfit = answer.fit is not None and answer.fit.verdict == "does_not_fit"
    room = ", if it fitted" if unfit else ""
    total = run_time(step, run.tokens, run.epochs, answer.sending_seconds)
    between = short_between_text(total.low, total.high)
    if run.price is not None:
        price = run.price * setup.world_size
        ends = (price * s / 3600 for s in (total.seconds, total.low, total.high))
        cost, low, high = (f"{n:,.2f}" if n < 100 else f"{n:,.0f}" for n in ends)
        between = f"{between}; costs {cost} ({low} to {high})"
    rates = f"{_rate(tokens / each.high)} to {_rate(tokens / each.low)}{room}"
    speed = LargeNumber(rate_title([answer.prediction]), _rate(tokens / each.seconds), rates)
    epochs = "an epoch" if run.epochs == 1 else f"{run.epochs:g} epochs"
    much = f"for {epochs} of {short_count_text(run.tokens)} tokens"
    return speed, LargeNumber(much, short_seconds_text(total.seconds), between)


def _rate(number: float) -> str:
    """In three digits or more."""
    decimals = 0 if number >= 100 else 1 if number >= 10 else 2
    return f"{number:,.{decimals}f}"


class Trust(NamedTuple):
    """A sentence, and where it was published: both empty where nothing public tells of it."""

    text: str
    source: str = ""
    url: str = ""


def trust(answer: Answer) -> Trust:
    """What the peak is worth, and the public run nearest to the answer with what was predicted of
    it, if there is one and the whole loop is modelled."""
    likely, sure = answer.likely, sureness_words(answer).replace(" (`--detail`)", "")
    if likely is None or has_gaps(answer):
        return Trust(f"{sure}." if sure else "")
    row, interval = likely.nearest, interval_lines([answer], 2)[0] if leaves_open(answer) else ""
    measured, predicted = bytes_texts([row.measured_bytes, row.predicted_bytes])
    method, name = labels.METHOD_LABELS[row.method], row.model.rpartition("/")[2]
    nearest = f"Closest public run: {name} {method}, {measured} measured, {predicted} predicted."
    return Trust(f"{interval} {nearest}".strip(), labels.SOURCE_LABELS[row.source], row.url)


# --- what to change -------------------------------------------------------------------------------

MOST_OFFERS = 4
_MOST_GPUS = 2


class ChangeOffer(NamedTuple):
    """A change in words, its price or reason as `tip`, and the setup or card it leads to."""

    text: str
    tip: str
    setup: TrainSetup | None = None
    gpu: str | None = None


def offers(answer: Answer, engine: str = "auto") -> tuple[ChangeOffer, ...]:
    """At most `MOST_OFFERS`. Of what does not fit the sets of changes that suffice, those that
    train the same first, then cards that are enough; without a card such cards; of what fits the
    largest batch, length and rank."""
    if not answer.prediction.is_whole:
        return ()
    if answer.gpu is None:
        found = _cards(answer)
    elif answer.fit is None:
        found = iter(())
    elif answer.fit.verdict == "fits":
        found = _growth(answer, answer.fit)
    else:
        found = _remedies(answer, engine)
    return tuple(offer for offer, _ in zip(found, range(MOST_OFFERS), strict=False))


def _remedies(answer: Answer, engine: str) -> Iterator[ChangeOffer]:
    assert answer.gpu is not None
    workload = answer.prediction.workload
    for remedy in advise(workload, answer.gpu, engine, answer.prediction, trainer=answer.trainer):
        words, prices = _remedy_words(remedy, answer.step), "; ".join(remedy.prices)
        yield ChangeOffer(words, prices, setup=remedy.workload.setup)
    yield from _cards(answer)


def _remedy_words(remedy: Remedy, step: TimedStep | None) -> str:
    names = " and ".join(remedy.names)
    changes = "" if remedy.learns_the_same else "changes the result"
    more = filter(None, (size_text(remedy.peak_bytes), speed_words(remedy, step), changes))
    return f"{names[0].upper()}{names[1:]}: {', '.join(more)}"


def _cards(answer: Answer) -> Iterator[ChangeOffer]:
    for card in smallest_cards(answer.prediction)[:_MOST_GPUS]:
        words = f"{gpu_name(card)}: {size_text(card.usable_bytes or 0)}"
        yield ChangeOffer(words, "The smallest memory that is enough.", gpu=card.key)


def _growth(answer: Answer, fit: Fit) -> Iterator[ChangeOffer]:
    """How far each size can go by itself, a sequence no further than the model was made for."""
    setup, tip = answer.prediction.workload.setup, "All else stays as it is."
    made_for = answer.prediction.workload.model.trained_length
    batch, length, rank = fit.largest_batch_size, fit.longest_seq_len, fit.highest_rank
    if batch is not None and batch > setup.batch_size:
        larger = replace(setup, batch_size=batch)
        yield ChangeOffer(f"Batch {count_text(batch)}: the largest that fits", tip, setup=larger)
    longest = length if length is None or made_for is None else min(length, made_for)
    if longest is not None and longest > setup.seq_len:
        longer = replace(setup, seq_len=longest)
        yield ChangeOffer(f"{count_text(longest)} tokens: the longest that fits", tip, setup=longer)
    if rank is not None and setup.lora is not None and rank > setup.lora.r:
        higher = replace(setup, lora=replace(setup.lora, r=rank))
        yield ChangeOffer(f"Rank {count_text(rank)}: the highest that fits", tip, setup=higher)
