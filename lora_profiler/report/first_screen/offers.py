"""What to change: what makes it fit, a card that is enough, or how far it can grow."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from lora_profiler.planning.advise import Remedy, advise
from lora_profiler.planning.answers import Answer
from lora_profiler.planning.fit import Fit, smallest_cards
from lora_profiler.units import bytes_text, count_text
from lora_profiler.workload import TrainSetup

MOST_OFFERS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """One change in words, its price or reason as `tip`, and what it leads to: another setup, or
    another card by its key."""

    text: str
    tip: str
    setup: TrainSetup | None = None
    gpu: str | None = None


def offers(answer: Answer, engine: str = "auto") -> tuple[Offer, ...]:
    """At most `MOST_OFFERS`. Of what does not fit the sets of changes that suffice, those that
    train the same first, then cards that are enough; without a card such cards; of what fits the
    largest batch, length and rank."""
    if answer.prediction.saved_activation_bytes is None:
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


def _remedies(answer: Answer, engine: str) -> Iterator[Offer]:
    assert answer.gpu is not None
    workload = answer.prediction.workload
    step = answer.timing.step if answer.timing else None
    before = step.time.tokens_per_second if step else None
    for remedy in advise(workload, answer.gpu, engine, answer.prediction):
        yield Offer(
            text=_remedy_words(remedy, before),
            tip="; ".join(remedy.prices),
            setup=remedy.workload.setup,
        )
    yield from _cards(answer)


def _remedy_words(remedy: Remedy, before: float | None) -> str:
    names = " and ".join(remedy.names)
    words = f"{names[0].upper()}{names[1:]}: {bytes_text(remedy.peak_bytes)}"
    after = remedy.tokens_per_second
    if before is not None and after is not None:
        words += f", {_speed(after / before - 1)}"
    return words + ("" if remedy.learns_the_same else ", trains otherwise")


def _speed(change: float) -> str:
    percent = round(100 * abs(change))
    return f"{percent} % {'faster' if change > 0 else 'slower'}" if percent else "as fast"


def _cards(answer: Answer) -> Iterator[Offer]:
    for card in smallest_cards(answer.prediction):
        yield Offer(
            text=f"On {card.name}, {bytes_text(card.usable_bytes or 0)}",
            tip="The smallest memory that is enough.",
            gpu=card.key,
        )


def _growth(answer: Answer, fit: Fit) -> Iterator[Offer]:
    """How far each size can go by itself, where that is further than asked; a sequence no further
    than the model was made for."""
    setup, tip = answer.prediction.workload.setup, "The largest that fits with all else as it is."
    made_for = answer.prediction.workload.model.trained_length
    batch, length, rank = fit.largest_batch_size, fit.longest_seq_len, fit.highest_rank
    if batch is not None and batch > setup.batch_size:
        yield Offer(
            text=f"Up to batch {count_text(batch)}", tip=tip, setup=replace(setup, batch_size=batch)
        )
    longest = length if length is None or made_for is None else min(length, made_for)
    if longest is not None and longest > setup.seq_len:
        yield Offer(
            text=f"Up to {count_text(longest)} tokens",
            tip=tip,
            setup=replace(setup, seq_len=longest),
        )
    if rank is not None and setup.lora is not None and rank > setup.lora.r:
        yield Offer(
            text=f"Up to rank {count_text(rank)}",
            tip=tip,
            setup=replace(setup, lora=replace(setup.lora, r=rank)),
        )
