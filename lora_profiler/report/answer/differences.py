"""Two answers side by side, and only what differs: what was asked, and what follows."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lora_profiler.planning.answers import Answer
from lora_profiler.report import labels
from lora_profiler.report.blocks import Row, Table
from lora_profiler.units import (
    bytes_texts,
    change_text,
    count_text,
    flops_text,
    rate_text,
    seconds_text,
    short_count_text,
)
from lora_profiler.workload import OPTIONS, setup_dict

UNKNOWN = "?"
_NOUNS = {option.name: option.noun for option in OPTIONS}


def asked_differently(a: Answer, b: Answer) -> Table | None:
    """What was asked otherwise: model, card, method, options; None where nothing was."""
    rows = [Row(cells=(name, one, other)) for name, one, other in _questions(a, b) if one != other]
    return Table(columns=("", "A", "B"), rows=tuple(rows), left=3) if rows else None


def _questions(a: Answer, b: Answer) -> Iterator[tuple[str, str, str]]:
    one, other = a.prediction.workload, b.prediction.workload
    yield "model", one.model.id, other.model.id
    card, other_card = (x.gpu.name if x.gpu else "none" for x in (a, b))
    yield "card", card, other_card
    loop, other_loop = (x.trainer.stack.title if x.trainer else "a bare loop" for x in (a, b))
    yield "trainer", loop, other_loop
    values, others = setup_dict(one.setup), setup_dict(other.setup)
    for name, value in values.items():
        yield _NOUNS.get(name, name), _written(name, value), _written(name, others[name])


def _written(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    if name == "method":
        return labels.METHOD_LABELS[value]
    return count_text(value) if isinstance(value, int) else str(value)


def answered_differently(a: Answer, b: Answer) -> Table | None:
    """The numbers that differ, with the change from A to B; None where none does."""
    rows = tuple(Row(cells=cells) for cells in _numbers(a, b) if cells[1] != cells[2])
    return Table(columns=("", "A", "B", "change"), rows=rows, left=1) if rows else None


def _numbers(a: Answer, b: Answer) -> Iterator[tuple[str, str, str, str]]:
    one, other = (labels.VERDICT_LABELS[x.fit.verdict] if x.fit else UNKNOWN for x in (a, b))
    yield "verdict", one, other, ""
    for name, of in _BYTES.items():
        yield _pair(name, (of(a), of(b)), None)
    trained = [x.prediction.parameters.trainable for x in (a, b)]
    yield _pair("trained parameters", trained, short_count_text)
    flops = [x.prediction.flops.per_token if x.prediction.flops else None for x in (a, b)]
    yield _pair("compute per token", flops, flops_text)
    steps = [x.timing.step if x.timing else None for x in (a, b)]
    times = [step.time.seconds if step else None for step in steps]
    longest = max((time for time in times if time is not None), default=1.0)
    yield _pair("one step", times, lambda seconds: seconds_text(seconds, longest))
    rates = [step.time.tokens_per_second if step else None for step in steps]
    yield _pair("tokens a second", rates, rate_text)
    for name, size in _SIZES.items():
        yield _pair(name, (size(a), size(b)), count_text)


def _pair(
    name: str, both: Sequence[float | None], text: Callable[[Any], str] | None
) -> tuple[str, str, str, str]:
    """Bytes where there is no `text`: they stand in one unit."""
    one, other = both
    if text is None:
        first, second = bytes_texts([one, other])  # type: ignore[list-item]  # bytes are ints
    else:
        first, second = (UNKNOWN if x is None else text(x) for x in (one, other))
    change = change_text(other / one - 1) if one and other is not None else ""
    return name, first, second, change


_BYTES: dict[str, Callable[[Answer], int | None]] = {
    "peak": lambda x: x.prediction.peak.total_bytes,
    "left on the card": lambda x: x.fit.headroom_bytes if x.fit else None,
    "held through the step": lambda x: sum(x.prediction.persistent_bytes.values()),
    "saved for backward": lambda x: x.prediction.saved_activation_bytes,
}
_SIZES: dict[str, Callable[[Answer], int | None]] = {
    "largest batch that fits": lambda x: x.fit.largest_batch_size if x.fit else None,
    "longest sequence that fits": lambda x: x.fit.longest_seq_len if x.fit else None,
    "highest rank that fits": lambda x: x.fit.highest_rank if x.fit else None,
}
