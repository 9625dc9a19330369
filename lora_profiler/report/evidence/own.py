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
from lora_profiler.report.blocks import Row, Table
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
    worst = max(graded, key=lambda row: abs(row.error))
    return [
        Card(
            label=OTHERS,
            value=percent_text(fmean(abs(row.error) for row in graded)),
            note=(
                f"mean error of {count_text(len(graded))} counters, their stack replayed, nothing"
                f" fitted; worst {error_text(worst.error)}: {worst.model},"
                f" {METHOD_LABELS[worst.method]} on {worst.card}"
            ),
        ),
        *(_own_card(kind) for kind in KIND_TITLES),
    ]


def _own_card(kind: OwnKind) -> Card:
    rows = own_rows(kind)
    worst = max(rows, key=lambda row: abs(row.error))
    equal = sum(row.predicted_bytes == row.counted_bytes for row in rows)
    return Card(
        label=KIND_TITLES[kind],
        value=percent_text(fmean(abs(row.error) for row in rows)),
        note=(
            f"mean error of {count_text(len(rows))} peaks; {count_text(equal)} equal to the byte;"
            f" worst {error_text(worst.error)}: {worst.model}, {METHOD_LABELS[worst.method]} on"
            f" {worst.where}"
        ),
    )


def worst_table() -> Table:
    """The largest errors of each kind, and those of public rows that no stated error counts."""
    memory = measured_memory()
    groups: list[tuple[str, Sequence[_Shown]]] = [
        (OTHERS, [_public(row) for row in _worst(r for r in memory if r.is_graded)]),
        (
            f"{OTHERS}; predicted, but no test",
            [_public(row) for row in _worst(r for r in memory if r.apart)],
        ),
    ]
    steps = [_step(row) for row in _worst(measured_steps())]
    groups.append(("Time of a step, by others, counted or not", steps))
    groups += [
        (title, [_own(row) for row in _worst(own_rows(kind))])
        for kind, title in KIND_TITLES.items()
    ]
    rows: list[Row] = []
    for heading, members in groups:
        rows.append(Row(cells=(heading,), kind="section"))
        rows += [Row(cells=cells, indent=1) for cells in members]
    columns = ("the worst of each kind", "error", "on", "predicted", "counted")
    return Table(columns=columns, rows=tuple(rows), left=1)


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
