"""Evidence in words and tables. Public measurements: how far off predictions of them were, what was
missed, and what was left out; which measured peak is nearest to an answer; beside them, never
mixed, what was rehearsed and measured here."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from lora_profiler.facts.evidence import (
    Interval,
    MeasuredMemory,
    MeasuredStep,
    OwnKind,
    OwnRow,
    command_shares,
    interval,
    measured_memory,
    measured_steps,
    own_rows,
    unexpressed,
)
from lora_profiler.facts.evidence.documents import Kind
from lora_profiler.planning.answers import Answer
from lora_profiler.report import labels
from lora_profiler.report.answer.verdicts import interval_lines, worth_lines
from lora_profiler.report.blocks import Card, Rows, Table
from lora_profiler.units import bytes_text, count_text, error_text, percent_text, seconds_text

if TYPE_CHECKING:
    from lora_profiler.report.charts.dots import ScatterPoint


def likely_lines(answers: Sequence[Answer]) -> list[str]:
    """The interval of each peak with all that it covers, how far off predictions of measured peaks
    were, and the nearest of them, as far as public rows tell."""
    known = [answer.likely for answer in answers if answer.likely]
    if not known:
        return []
    lines = [*interval_lines(answers), *worth_lines(answers)]
    lines.append(f"{command_words()} {interval_words(known[0].interval)}.")
    return lines + list(dict.fromkeys(nearest_peak_line(likely.nearest) for likely in known))


def interval_words(found: Interval) -> str:
    """'Nine in ten of 68 public peaks, predicted with their own libraries and kernels replayed,
    were within 1.10 %, ...'."""
    share = f"{labels.NOMINAL_LABELS[found.nominal]} of {count_text(found.rows)} public peaks"
    within = f"were within {percent_text(found.half_width)}, the furthest {error_text(found.worst)}"
    return f"{share}, predicted with their own libraries and kernels replayed, {within}"


def command_words() -> str:
    """'With options only, 90 % of 60 comparable runs from 4 sources were within 1.20 %; ...'."""
    share, other = command_shares()["nearly"], command_shares()["not"]
    return (
        f"With options only, 90 % of {count_text(share.rows)} comparable runs from"
        f" {count_text(len(share.by_source))} sources were within {percent_text(share.half_width)};"
        f" the worst was {error_text(share.worst)}. {count_text(share.inside)} were within the"
        f" errors of the other sources. Of {count_text(other.rows)} with kernels that no option"
        f" names, 90 % were within {percent_text(other.half_width)}."
    )


def nearest_peak_line(row: MeasuredMemory) -> str:
    """'Nearest public measurement: mistralai/Mistral-7B-v0.1, LoRA, 4 x 4,096 tokens with
    checkpointing on a100_sxm_80gb peaked at 24.87 GiB; the prediction's error is <0.01 % with its
    stack replayed.'"""
    error = f"the prediction's error is {error_text(row.error)} with its stack replayed"
    apart = f", and is no test: {row.apart}" if row.apart else ""
    peaked = f"{row_label(row)} peaked at {bytes_text(row.measured_bytes)}"
    return f"Nearest public measurement: {peaked}; {error}{apart}."


def row_label(row: MeasuredMemory | MeasuredStep) -> str:
    """'mistralai/Mistral-7B-v0.1, LoRA, 4 x 4,096 tokens with checkpointing on a100_sxm_80gb'."""
    sizes, cards = f"{count_text(row.tokens)} tokens", ""
    if isinstance(row, MeasuredMemory):
        sizes, cards = setup_words(row), f"{row.cards} x " if row.cards > 1 else ""
    return f"{_whose(row)}, {sizes} on {cards}{row.card}"


def setup_words(row: MeasuredMemory) -> str:
    """'4 x 4,096 tokens with checkpointing'."""
    checkpointing = " with checkpointing" if row.checkpointing else ""
    return f"{row.batch_size} x {count_text(row.seq_len)} tokens{checkpointing}"


# --- how far off predictions of public measurements were ------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Mean, median and 90th percentile of absolute errors, and the largest, signed."""

    rows: int
    mean: float
    median: float
    p90: float
    worst: float


def errors_of(rows: Iterable[MeasuredMemory | MeasuredStep]) -> Errors:
    """Raises ValueError for no rows."""
    from statistics import fmean

    from lora_profiler.runs.comparison.throughput import quantile

    errors = [row.error for row in rows]
    ordered = sorted(map(abs, errors))
    return Errors(
        rows=len(errors),
        mean=fmean(ordered),
        median=quantile(ordered, 0.5),
        p90=quantile(ordered, 0.9),
        worst=max(errors, key=abs),
    )


def graded_memory() -> list[MeasuredMemory]:
    return [row for row in measured_memory() if row.is_graded]


def unseen_steps() -> list[MeasuredStep]:
    return [row for row in measured_steps() if row.left_out == "model"]


def errors_table() -> Table:

    def add(label: str, rows: Iterable[MeasuredMemory | MeasuredStep]) -> None:
        e = errors_of(rows)
        shares = map(percent_text, (e.mean, e.median, e.p90))
        made.add(label, count_text(e.rows), *shares, error_text(e.worst))

    made, graded = Rows(), graded_memory()
    made.section("memory, stacks replayed, nothing fitted")
    for tier in sorted({r.tier for r in graded}):
        add(labels.TIER_LABELS[tier], (r for r in graded if r.tier == tier))
    add("peaks alone", (r for r in graded if r.reading == "peak"))
    made.section("time of a step")
    for what, label in labels.LEFT_OUT_LABELS.items():
        add(label, (r for r in measured_steps() if r.left_out == what))
    return made.table("", "rows", "mean", "median", "90th percentile", "worst")


def sources_table() -> Table:
    shares = interval().by_source
    rows = Rows()
    for kind, found in (("memory", graded_memory()), ("time of a step", measured_steps())):
        rows.section(kind)
        for source in dict.fromkeys(r.source for r in found):
            e = errors_of(r for r in found if r.source == source)
            share, inside = shares.get(source) if kind == "memory" else None, ""
            if share:
                inside = f"{share.inside} of {share.rows} within {percent_text(share.half_width)}"
            errors = (percent_text(e.mean), error_text(e.worst), inside)
            rows.add(labels.SOURCE_LABELS[source], count_text(e.rows), *errors)
    return rows.table("", "rows", "mean error", "worst", "peaks, by the other sources' errors")


def coverage_words(found: Interval) -> str:
    """How the interval fares on rows that did not set it."""
    share, low, high = map(percent_text, (found.inside / found.rows, found.low, found.high))
    largest = max(found.by_source.items(), key=lambda item: item[1].rows)
    others = [each for source, each in found.by_source.items() if source != largest[0]]
    inside, rows = sum(each.inside for each in others), sum(each.rows for each in others)
    return (
        f"Each source's peaks against the errors of the other sources alone: {found.inside} of"
        f" {found.rows} lie inside, {share} (95 % interval of the share {low} to {high})."
        f" {largest[1].rows} of them are of one source, {labels.SOURCE_LABELS[largest[0]]}; of the"
        f" other sources' {rows} peaks {inside} lie inside."
    )


def missed_lines() -> list[str]:
    """Graded peaks beyond the interval, steps of the furthest tenth, what is known of each."""
    rows: list[MeasuredMemory | MeasuredStep] = [*measured_memory(), *measured_steps()]
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.why:
            found.setdefault(row.why, []).append(f"{row.id} {error_text(row.error)}")
    return [f"{reason}: {', '.join(texts)}." for reason, texts in found.items()]


def apart_lines() -> list[str]:
    """Rows that were predicted but are no test, with the reason."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in measured_memory():
        if row.apart:
            text = f"{row.id} ({row.reading}) {error_text(row.error)}"
            found.setdefault(row.apart, {}).setdefault(_whose(row), []).append(text)
    lines = []
    for reason, whose in found.items():
        each = "; ".join(f"{who}: {', '.join(texts)}" for who, texts in whose.items())
        lines.append(f"{reason}: {each}.")
    return lines


def not_counted_lines(rows: Iterable[MeasuredMemory]) -> list[str]:
    """Of a figure's rows those that are no test, by model and method: how far off, and why."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row.apart:
            found.setdefault((_whose(row), row.apart), []).append(row.error)
    return [
        f"Not counted, and hollow: {who}, {count_text(len(errors))} peaks off by"
        f" {error_text(min(errors))} to {error_text(max(errors))}: {reason}."
        for (who, reason), errors in found.items()
    ]


def _whose(row: MeasuredMemory | MeasuredStep | OwnRow) -> str:
    return f"{row.model}, {labels.METHOD_LABELS[row.method]}"


def left_out_lines(kind: Kind) -> list[str]:
    return [
        f"{each.reason}: {count_text(each.rows)} rows, {each.example} for one"
        for each in unexpressed(kind)
    ]


# --- the three kinds beside each other, and the worst rows of each by name ------------------------

KIND_TITLES: Final[dict[OwnKind, str]] = {
    "rehearsed": "Rehearsed: torch's CUDA build, no GPU",
    "recorded": "Measured here: a CPU, no GPU",
}
KIND_WORDS: Final[dict[OwnKind, str]] = {
    "rehearsed": (
        "The real training step over torch's CUDA build and stub libraries, at full model size."
        " Bytes are counted exactly; time, values and driver memory are not measured."
    ),
    "recorded": (
        "Real training steps of small models on this project's own CPU. They check the rules"
        " against torch; they say nothing about a GPU."
    ),
}
COUNTED: Final[dict[OwnKind, str]] = {"rehearsed": "rehearsed", "recorded": "measured"}
"""What was done to know the bytes."""
WORST = 5
"""Rows of each kind that are named."""
OTHERS = "Measured on GPUs, by others"
_Row = TypeVar("_Row", MeasuredMemory, MeasuredStep, OwnRow)
_Shown = tuple[str, str, str, str, str]


def kind_cards() -> list[Card]:
    """How far off the peaks of each kind were predicted."""
    graded = graded_memory()
    counters = f"{count_text(len(graded))} counters, their stack replayed, nothing fitted"
    cards = [_card(OTHERS, counters, graded, _worst(graded)[0].card)]
    for kind, title in KIND_TITLES.items():
        rows = own_rows(kind)
        equal = sum(row.predicted_bytes == row.counted_bytes for row in rows)
        what = f"{count_text(len(rows))} peaks; {count_text(equal)} equal to the byte"
        cards.append(_card(title, what, rows, _worst(rows)[0].where))
    return cards


def _card(label: str, what: str, rows: Sequence[MeasuredMemory | OwnRow], where: str) -> Card:
    from statistics import fmean

    worst = max(rows, key=lambda row: abs(row.error))
    mean = percent_text(fmean(abs(row.error) for row in rows))
    note = f"mean error of {what}; worst {error_text(worst.error)}: {_whose(worst)} on {where}"
    return Card(label, mean, note=note)


def worst_table() -> Table:
    """The largest errors of each kind, and those of public rows that no stated error counts."""
    memory = measured_memory()
    graded, apart = _worst(r for r in memory if r.is_graded), _worst(r for r in memory if r.apart)
    groups = {
        OTHERS: map(_public, graded),
        f"{OTHERS}; predicted, but no test": map(_public, apart),
        "Time of a step, by others, counted or not": map(_step, _worst(measured_steps())),
    }
    groups |= {title: map(_own, _worst(own_rows(kind))) for kind, title in KIND_TITLES.items()}
    rows = Rows()
    for heading, members in groups.items():
        rows.section(heading)
        for cells in members:
            rows.add(*cells)
    return rows.table("the worst of each kind", "error", "on", "predicted", "counted")


def _public(row: MeasuredMemory) -> _Shown:
    return _cells(f"{_whose(row)}, {setup_words(row)}", row.card, row, row.measured_bytes)


def _step(row: MeasuredStep) -> _Shown:
    predicted = row.measured_seconds * (1 + row.error)
    what, longest = row_label(row).partition(" on ")[0], row.measured_seconds
    texts = seconds_text(predicted, longest), seconds_text(row.measured_seconds, longest)
    return what, error_text(row.error), row.card, *texts


def _own(row: OwnRow) -> _Shown:
    return _cells(f"{_whose(row)}, {row.setup}", row.where, row, row.counted_bytes)


def _cells(what: str, where: str, row: MeasuredMemory | OwnRow, counted: int) -> _Shown:
    return what, error_text(row.error), where, bytes_text(row.predicted_bytes), bytes_text(counted)


def _worst(rows: Iterable[_Row]) -> list[_Row]:
    return sorted(rows, key=lambda row: -abs(row.error))[:WORST]


def own_points(rows: Sequence[OwnRow]) -> "list[ScatterPoint]":
    from lora_profiler.report.charts.dots import ScatterPoint

    return [
        ScatterPoint(
            label=f"{_whose(row)}, {row.setup} on {row.where}",
            method=row.method,
            predicted_bytes=row.predicted_bytes,
            measured_bytes=row.counted_bytes,
        )
        for row in rows
    ]
