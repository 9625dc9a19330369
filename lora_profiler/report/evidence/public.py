"""All public measurements in words and tables: how far off predictions of them were, what was
missed, and what was left out."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from lora_profiler.comparison.throughput import quantile
from lora_profiler.evidence import (
    Interval,
    MeasuredMemory,
    MeasuredStep,
    interval,
    measured_memory,
    measured_steps,
    unexpressed,
)
from lora_profiler.evidence.documents import Kind
from lora_profiler.report import labels
from lora_profiler.report.blocks import Rows, Table
from lora_profiler.units import count_text, error_text, percent_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """Of `rows` of one kind: mean, median and 90th percentile of absolute errors, and the largest,
    signed."""

    rows: int
    mean: float
    median: float
    p90: float
    worst: float


def errors_of(rows: Iterable[MeasuredMemory | MeasuredStep]) -> Errors:
    """Raises ValueError for no rows."""
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
    """Steps that were predicted by constants of all models but their own."""
    return [row for row in measured_steps() if row.left_out == "model"]


def errors_table() -> Table:
    """How far off predictions of public rows are: memory by tier, steps by what was left out of the
    fit."""

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
    columns = ("", "rows", "mean", "median", "90th percentile", "worst")
    return Table(columns=columns, rows=tuple(made.rows))


def sources_table() -> Table:
    """By source: rows, errors, and how many peaks lie within the interval that the other sources'
    errors give."""
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
    columns = ("", "rows", "mean error", "worst", "peaks, by the other sources' errors")
    return Table(columns=columns, rows=tuple(rows.rows))


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
    """Graded peaks beyond the interval and steps of the furthest tenth, with what is known of
    each."""
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
    """Of those that a figure shows: which are no test, how far off they are, and why, a line for
    each model and method."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        if row.apart:
            found.setdefault((_whose(row), row.apart), []).append(row.error)
    return [
        f"Not counted, and hollow: {who}, {count_text(len(errors))} peaks off by"
        f" {error_text(min(errors))} to {error_text(max(errors))}: {reason}."
        for (who, reason), errors in found.items()
    ]


def _whose(row: MeasuredMemory) -> str:
    return f"{row.model}, {labels.METHOD_LABELS[row.method]}"


def left_out_lines(kind: Kind) -> list[str]:
    """Rows that no question of the package says."""
    return [
        f"{each.reason}: {count_text(each.rows)} rows, {each.example} for one"
        for each in unexpressed(kind)
    ]
