"""The three kinds of evidence beside each other, never mixed: measured on cards by others,
rehearsed, measured here; and the worst rows of each by name."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Final, TypeVar

from lora_profiler.evidence import (
    MeasuredMemory,
    MeasuredStep,
    OwnKind,
    OwnRow,
    measured_memory,
    measured_steps,
    own_rows,
)
from lora_profiler.report.blocks import Rows, Table
from lora_profiler.report.charts.dots import ScatterPoint
from lora_profiler.report.evidence.interval import row_label, setup_words
from lora_profiler.report.evidence.public import graded_memory
from lora_profiler.report.labels import METHOD_LABELS
from lora_profiler.report.page.parts import Card
from lora_profiler.units import bytes_text, count_text, error_text, percent_text, seconds_text

KIND_TITLES: Final[dict[OwnKind, str]] = {
    "rehearsed": "Rehearsed: torch's CUDA build, no card",
    "recorded": "Measured here: a CPU, no card",
}
KIND_WORDS: Final[dict[OwnKind, str]] = {
    "rehearsed": (
        "The real training step over the CUDA build of torch and stub libraries that compute"
        " nothing, at full model size. Bytes are counted exactly; nothing was measured: no time, no"
        " value, and no driver that holds memory of its own."
    ),
    "recorded": (
        "Real training steps on this project's own machine, with small models that a CPU can train."
        " They hold the rules to what torch really keeps, and say nothing of a card."
    ),
}
COUNTED: Final[dict[OwnKind, str]] = {"rehearsed": "rehearsed", "recorded": "measured"}
"""What was done to know the bytes."""
WORST = 5
"""Rows of each kind that are named."""
OTHERS = "Measured on cards, by others"
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
    worst = max(rows, key=lambda row: abs(row.error))
    whose = f"{worst.model}, {METHOD_LABELS[worst.method]} on {where}"
    return Card(
        label=label,
        value=percent_text(fmean(abs(row.error) for row in rows)),
        note=f"mean error of {what}; worst {error_text(worst.error)}: {whose}",
    )


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
    columns = ("the worst of each kind", "error", "on", "predicted", "counted")
    return Table(columns=columns, rows=tuple(rows.rows), left=1)


def worst_lines() -> list[str]:
    """What is known of those that others measured."""
    memory = measured_memory()
    named = [
        *_worst(row for row in memory if row.is_graded),
        *_worst(row for row in memory if row.apart),
    ]
    steps = [(row.model, row.why) for row in _worst(measured_steps())]
    reasons = [*((row.model, row.apart or row.why) for row in named), *steps]
    return list(dict.fromkeys(f"{model}: {why}." for model, why in reasons if why))


def _public(row: MeasuredMemory) -> _Shown:
    what = f"{row.model}, {METHOD_LABELS[row.method]}, {setup_words(row)}"
    return _cells(what, row.card, row, row.measured_bytes)


def _step(row: MeasuredStep) -> _Shown:
    predicted = row.measured_seconds * (1 + row.error)
    what, longest = row_label(row).partition(" on ")[0], row.measured_seconds
    texts = seconds_text(predicted, longest), seconds_text(row.measured_seconds, longest)
    return what, error_text(row.error), row.card, *texts


def _own(row: OwnRow) -> _Shown:
    what = f"{row.model}, {METHOD_LABELS[row.method]}, {row.setup}"
    return _cells(what, row.where, row, row.counted_bytes)


def _cells(what: str, where: str, row: MeasuredMemory | OwnRow, counted: int) -> _Shown:
    return what, error_text(row.error), where, bytes_text(row.predicted_bytes), bytes_text(counted)


def _worst(rows: Iterable[_Row]) -> list[_Row]:
    return sorted(rows, key=lambda row: -abs(row.error))[:WORST]


def own_points(rows: Sequence[OwnRow]) -> list[ScatterPoint]:
    """For a figure of predicted against counted."""
    return [
        ScatterPoint(
            label=f"{row.model}, {METHOD_LABELS[row.method]}, {row.setup} on {row.where}",
            method=row.method,
            predicted_bytes=row.predicted_bytes,
            measured_bytes=row.counted_bytes,
        )
        for row in rows
    ]
