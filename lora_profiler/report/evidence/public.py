"""All public measurements in words and tables: how far off predictions of them were, what was
missed, and what was left out."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from lora_profiler.comparison.percentiles import quantile
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
from lora_profiler.report.blocks import Row, Table
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

    def row(label: str, rows: Iterable[MeasuredMemory | MeasuredStep]) -> Row:
        e = errors_of(rows)
        return Row(
            cells=(
                label,
                count_text(e.rows),
                percent_text(e.mean),
                percent_text(e.median),
                percent_text(e.p90),
                error_text(e.worst),
            ),
            indent=1,
        )

    graded, steps = graded_memory(), measured_steps()
    rows = [Row(cells=("memory, stacks replayed, nothing fitted",), kind="section")]
    rows += [
        row(labels.TIER_LABELS[tier], [r for r in graded if r.tier == tier])
        for tier in sorted({r.tier for r in graded})
    ]
    rows += [row("peaks alone", [r for r in graded if r.reading == "peak"])]
    rows += [Row(cells=("time of a step",), kind="section")]
    rows += [
        row(label, [r for r in steps if r.left_out == what])
        for what, label in labels.LEFT_OUT_LABELS.items()
    ]
    return Table(
        columns=("", "rows", "mean", "median", "90th percentile", "worst"), rows=tuple(rows)
    )


def sources_table() -> Table:
    """By source: rows, errors, and how many peaks lie within the interval that the other sources'
    errors give."""
    shares = interval().by_source
    rows: list[Row] = []
    for kind, found in (("memory", graded_memory()), ("time of a step", measured_steps())):
        rows.append(Row(cells=(kind,), kind="section"))
        for source in dict.fromkeys(r.source for r in found):
            e = errors_of(r for r in found if r.source == source)
            share = shares.get(source) if kind == "memory" else None
            inside = (
                f"{share.inside} of {share.rows} within {percent_text(share.half_width)}"
                if share
                else ""
            )
            cells = (
                labels.SOURCE_LABELS[source],
                count_text(e.rows),
                percent_text(e.mean),
                error_text(e.worst),
                inside,
            )
            rows.append(Row(cells=cells, indent=1))
    return Table(
        columns=("", "rows", "mean error", "worst", "peaks, by the other sources' errors"),
        rows=tuple(rows),
    )


def coverage_words(found: Interval) -> str:
    """How the interval fares on rows that did not set it."""
    share, low, high = (
        percent_text(found.inside / found.rows),
        percent_text(found.low),
        percent_text(found.high),
    )
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
    found = [row for row in rows if row.why]
    return _by_reason((row.why, f"{row.id} {error_text(row.error)}") for row in found)


def apart_lines() -> list[str]:
    """Rows that were predicted but are no test, with the reason."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in measured_memory():
        if row.apart:
            text = f"{row.id} ({row.reading}) {error_text(row.error)}"
            found.setdefault(row.apart, {}).setdefault(_whose(row), []).append(text)
    return [
        f"{reason}: "
        + "; ".join(f"{who}: {', '.join(texts)}" for who, texts in whose.items())
        + "."
        for reason, whose in found.items()
    ]


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


def _by_reason(pairs: Iterable[tuple[str, str]]) -> list[str]:
    found: dict[str, list[str]] = {}
    for reason, row in pairs:
        found.setdefault(reason, []).append(row)
    return [f"{reason}: {', '.join(rows)}." for reason, rows in found.items()]
