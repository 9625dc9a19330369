"""Three numbers of one method: the peak, tokens a second, and how long a training takes."""

from dataclasses import dataclass

from lora_profiler.planning.answers import Answer
from lora_profiler.planning.timing import RunTime, run_time
from lora_profiler.units import bytes_text

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
