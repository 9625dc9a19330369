"""The few numbers that stand first on the page: each for every method, with what it changes against
full fine-tuning."""

from collections.abc import Callable, Sequence

from lora_profiler.planning.answers import Answer
from lora_profiler.planning.fit import Fit
from lora_profiler.prediction import Prediction
from lora_profiler.report import labels
from lora_profiler.report.answer.room import room
from lora_profiler.report.answer.timing import device_name, interval_words, steps_of
from lora_profiler.report.labels import method_label
from lora_profiler.report.page.parts import Card
from lora_profiler.units import (
    byte_unit,
    bytes_texts,
    change_text,
    flops_text,
    in_unit,
    percent_text,
    rate_text,
    seconds_text,
    short_count_text,
)


def headlines(answers: Sequence[Answer]) -> list[Card]:
    """Peak, what is trained, what is held, what backward needs, compute, and the card's verdict
    where one is named."""
    predictions = [answer.prediction for answer in answers]
    known = all(p.saved_activation_bytes is not None for p in predictions)
    least = min(p.parameters.trainable_fraction for p in predictions)
    cards = [
        _headline(
            "Peak memory" if known else "Peak memory without activations",
            predictions,
            lambda p: p.peak.total_bytes,
            bytes_texts,
            _moments(predictions),
        ),
        _headline(
            "Trained parameters",
            predictions,
            lambda p: p.parameters.trainable,
            _each(short_count_text),
            f"{percent_text(least)} of all" if least < 1 else "every weight",
        ),
        _headline(
            "Held through the whole step",
            predictions,
            lambda p: sum(p.persistent_bytes.values()),
            bytes_texts,
            "weights, gradients, optimizer states",
        ),
        _headline(
            "Saved for backward",
            predictions,
            lambda p: p.saved_activation_bytes,
            bytes_texts,
            "activations and loss",
        ),
        _headline(
            "Compute per token",
            predictions,
            lambda p: p.flops.per_token if p.flops else None,
            _each(flops_text),
            "forward and backward",
        ),
    ]
    cards += _times(answers)
    verdict = _verdict(answers)
    return [verdict, *cards] if verdict else cards


def _times(answers: Sequence[Answer]) -> list[Card]:
    """The time of one step with its interval, and tokens a second, on the device that was asked
    about."""
    steps = {
        method_label(a.prediction): s for a, s in zip(answers, steps_of(answers), strict=True) if s
    }
    if not steps:
        return []
    full = next((s for s in steps.values() if s.workload.setup.method == "full"), None)
    longest = max(step.time.high for step in steps.values())
    rows, rates = [], []
    for label, step in steps.items():
        seconds, rate = step.time.seconds, step.time.tokens_per_second
        change = faster = ""
        if full and full is not step:
            change = change_text(seconds / full.time.seconds - 1)
            faster = change_text(rate / full.time.tokens_per_second - 1)
        rows.append((label, seconds_text(seconds, longest), change))
        rates.append((label, rate_text(rate), faster))
    beyond = [
        method_label(a.prediction) for a in answers if a.fit and a.fit.verdict == "does_not_fit"
    ]
    unfit = f"; {', '.join(beyond)}: as on a card with room" if beyond else ""
    basis = labels.BASIS_LABELS[next(iter(steps.values())).time.likeness]
    name = device_name(answers)
    between = "; ".join(
        f"{label}: {interval_words(step, longest)}" for label, step in steps.items()
    )
    return [
        Card(label=f"One step on {name}", rows=tuple(rows), note=f"{between}; {basis}{unfit}"),
        Card(
            label="Tokens a second", rows=tuple(rates), note=f"on {name}, padding among them{unfit}"
        ),
    ]


def _moments(predictions: Sequence[Prediction]) -> str:
    """When the peaks are; once where all are at the same moment."""
    at = [labels.MOMENT_LABELS[p.peak.moment] for p in predictions]
    if len(set(at)) == 1:
        return at[0]
    return "; ".join(f"{method_label(p)}: {m}" for p, m in zip(predictions, at, strict=True))


def _headline(
    label: str,
    predictions: Sequence[Prediction],
    value: Callable[[Prediction], int | None],
    texts: Callable[[Sequence[int | None]], list[str]],
    note: str,
) -> Card:
    full = next((value(p) for p in predictions if p.workload.setup.method == "full"), None)
    rows = []
    for p, text in zip(predictions, texts([value(p) for p in predictions]), strict=True):
        number, is_full = value(p), p.workload.setup.method == "full"
        change = (
            change_text(number / full - 1) if number is not None and full and not is_full else ""
        )
        rows.append((method_label(p), text, change))
    return Card(label=label, rows=tuple(rows), note=note)


def _each(text: Callable[[int], str]) -> Callable[[Sequence[int | None]], list[str]]:
    """Numbers by themselves, each in its own unit."""
    return lambda numbers: ["not known" if number is None else text(number) for number in numbers]


def _verdict(answers: Sequence[Answer]) -> Card | None:
    gpu = answers[0].gpu
    if gpu is None or gpu.usable_bytes is None:
        return None
    rows = tuple((method_label(a.prediction), *_room(a.fit)) for a in answers)
    unit, size = byte_unit(gpu.usable_bytes)
    usable = f"{'~' if gpu.usable_is_estimated else ''}{in_unit(gpu.usable_bytes, size)} {unit}"
    return Card(
        label=f"On {gpu.name}, {unit}",
        columns=("", "", "peak", "reserve", "headroom"),
        rows=rows,
        note=(
            f"the three add up to the {usable} that the card gives a program; the reserve is for"
            " what tensors do not show"
        ),
    )


def _room(fit: Fit | None) -> tuple[str, ...]:
    if fit is None:
        return "not known", "", "", ""
    parts = room(fit)
    return labels.VERDICT_LABELS[fit.verdict], parts.peak, parts.reserve, parts.headroom
