"""What is said of an answer in a few large words: the verdict, three numbers of one method (the
peak, tokens a second, how long a training takes), and what a peak rests on."""

from dataclasses import dataclass
from typing import NamedTuple

from lora_profiler.planning.answers import Answer
from lora_profiler.planning.reserve import Verdict
from lora_profiler.planning.timing import RunTime, run_time
from lora_profiler.report import labels
from lora_profiler.report.answer.room import room
from lora_profiler.report.answer.short_answer import has_gaps
from lora_profiler.report.labels import sureness
from lora_profiler.units import bytes_text, bytes_texts


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictWords:
    """`words` first and large, `numbers` behind them; `verdict` None where no card was asked about,
    or nobody can tell."""

    words: str
    numbers: str
    verdict: Verdict | None


def verdict_words(answer: Answer) -> VerdictWords:
    """Whether it fits the card; without a card, how large a one is enough.

    Peak, reserve and what is left add up to the card's memory as they stand.
    """
    peak = bytes_text(answer.prediction.peak.total_bytes)
    known = answer.prediction.saved_activation_bytes is not None
    if answer.gpu is None:
        return VerdictWords(
            words=f"Needs {peak}" if known else f"Needs more than {peak}",
            numbers=_enough(answer) if known else "activations are not known",
            verdict=None,
        )
    if answer.fit is None:
        usable = bytes_text(answer.gpu.usable_bytes or 0)
        return VerdictWords(
            words="May fit or not", numbers=f"at least {peak} of {usable}", verdict=None
        )
    parts = room(answer.fit)
    about = "~" if answer.gpu.usable_is_estimated else ""
    held = f"{parts.peak} and {parts.reserve} reserve, of {about}{parts.usable} {parts.unit}"
    return VerdictWords(
        words=labels.VERDICT_LABELS[answer.fit.verdict].capitalize(),
        numbers=held,
        verdict=answer.fit.verdict,
    )


def _enough(answer: Answer) -> str:
    if answer.prediction.workload.setup.device != "cuda":
        return "for tensors"
    card = answer.smallest_card
    if card is None:
        return "more than any single card has"
    return f"a card of {card.memory_gib_marketed:g} GB is enough"


_HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What is trained: tokens of the data, passes over them, and the price of the device by the
    hour in whatever money, None where it is not asked."""

    tokens: float = 10e6
    epochs: float = 3.0
    price: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreeNumber:
    """One of them: its name, itself, and a line below it where there is more to say."""

    label: str
    value: str
    note: str = ""


def three_numbers(answer: Answer, run: Run) -> tuple[ThreeNumber, ...]:
    """Those that are known: no time without a device, or where no source tells its speed. Of what
    does not fit a time is that of a card as fast with room for it, and its note says so."""
    prediction, timing = answer.prediction, answer.timing
    peak = ThreeNumber(
        label="Peak" if prediction.saved_activation_bytes is not None else "At least",
        value=bytes_text(prediction.peak.total_bytes),
    )
    if timing is None or timing.step is None:
        return (peak,)
    time = timing.step.time
    tokens = time.tokens_per_second * time.seconds
    unfit = answer.fit is not None and answer.fit.verdict == "does_not_fit"
    room = ", if it fitted" if unfit else ""
    total = run_time(timing.step, run.tokens, run.epochs)
    return (
        peak,
        ThreeNumber(
            label="Tokens a second",
            value=_rate(time.tokens_per_second),
            note=f"{_rate(tokens / time.high)} to {_rate(tokens / time.low)}{room}",
        ),
        ThreeNumber(
            label=f"{_count(run.tokens)} tokens × {run.epochs:g}",
            value=_long(total),
            note=_long_note(total, run),
        ),
    )


def _count(tokens: float) -> str:
    """'10 M', '1.5 B', '250,000'."""
    for name, size in (("T", 1e12), ("B", 1e9), ("M", 1e6)):
        if tokens >= size:
            return f"{tokens / size:.4g} {name}"
    return f"{tokens:,.0f}"


def _rate(per_second: float) -> str:
    decimals = 0 if per_second >= 100 else 1 if per_second >= 10 else 2
    return f"{per_second:,.{decimals}f}"


def _long(total: RunTime) -> str:
    return f"{_in(total.seconds, *_unit(total))} {_unit(total)[0]}"


def _long_note(total: RunTime, run: Run) -> str:
    unit = _unit(total)
    between = f"{_in(total.low, *unit)} to {_in(total.high, *unit)}"
    if run.price is None:
        return between
    cost, low, high = (run.price * s / _HOUR for s in (total.seconds, total.low, total.high))
    return f"{between}; costs {_money(cost)} ({_money(low)} to {_money(high)})"


def _money(amount: float) -> str:
    return f"{amount:,.2f}" if amount < 100 else f"{amount:,.0f}"


def _unit(total: RunTime) -> tuple[str, float]:
    """Of the time and its interval: seconds below two minutes, minutes below two hours, then
    hours, and days from a hundred hours on."""
    for name, size, until in (
        ("s", 1.0, 120.0),
        ("min", 60.0, 2 * _HOUR),
        ("h", _HOUR, 100 * _HOUR),
    ):
        if total.seconds < until:
            return name, size
    return "days", 24 * _HOUR


def _in(seconds: float, _name: str, size: float) -> str:
    number = seconds / size
    return f"{number:,.{0 if number >= 100 else 1 if number >= 10 else 2}f}"


class Trust(NamedTuple):
    """A sentence, and where it was published: both empty where nothing public tells of it."""

    text: str
    source: str = ""
    url: str = ""


def trust(answer: Answer) -> Trust:
    """The public run nearest to the answer, and what was predicted of it; how sure the peak is
    where there is none, or where the trainer's loop holds what is not priced."""
    prediction, likely = answer.prediction, answer.likely
    if has_gaps(answer):
        return Trust("An estimate: the trainer's loop holds what is not priced.")
    if likely is None:
        lower, estimate = "A lower bound: what the layers keep is not known.", "An estimate."
        return Trust(sureness(prediction, "Exact for this loop.", lower, "Within {}.", estimate))
    row = likely.nearest
    measured, predicted = bytes_texts([row.measured_bytes, row.predicted_bytes])
    method, name = labels.METHOD_LABELS[row.method], row.model.rpartition("/")[2]
    return Trust(
        f"The nearest public run, {name} {method}, held {measured}; predicted: {predicted}.",
        labels.SOURCE_LABELS[row.source],
        row.url,
    )
