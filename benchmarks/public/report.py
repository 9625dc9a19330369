"""The report of the replayed memory rows, as Markdown."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from benchmarks.pages import table, words_of
from benchmarks.public.grade import (
    CARDS_GB,
    NOMINAL,
    Row,
    graded,
    intervals,
    mean_and_worst,
    reserved_margins,
    verdicts,
)
from benchmarks.public.memory import GIB
from benchmarks.public.misses import MEMORY_MISSES

MARKS = {1: (0.001, 0.01), 2: (0.002, None)}
"""Mean and worst absolute error that rows of a tier are to reach."""


def report(document: Mapping[str, Any]) -> str:
    rows: Sequence[Row] = document["rows"]
    lines = [
        "# Peak memory against public measurements",
        "",
        "Written by `python -m benchmarks.public.accuracy --write`; errors are (predicted -"
        " measured) / measured, in %.",
        f"No constant was fitted to any row. Traced by {words_of(document['versions'])}.",
        "",
        *_tiers(rows),
        *_sources(rows),
        *_interval(rows),
        *_reserved(rows),
        *_apart(rows),
        *_misses(rows),
        *_rows(rows),
        *_left_out(document["left_out"]),
    ]
    return "\n".join([*lines, ""])


def _tiers(rows: Sequence[Row]) -> Iterator[str]:
    lines = []
    for tier, (middle, worst) in MARKS.items():
        found = graded(rows, tier)
        errors = mean_and_worst([row["error"] for row in found])
        held = len(found) - len(_out_of_tolerance(found))
        goal = f"mean {100 * middle:g}" + (f", worst {100 * worst:g}" if worst else "")
        lines.append((f"tier {tier}", len(found), *errors, held, goal))
    yield from table("rows | >n | >mean abs. | >worst | >in tolerance | to be reached", lines)
    yield ""


def _sources(rows: Sequence[Row]) -> Iterator[str]:
    groups: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        where = ", several cards" if row["cards"] > 1 and row["reading"] == "peak" else ""
        groups[
            f"{row['source']}, {row['reading']}{where}{' (apart)' if row['apart'] else ''}"
        ].append(row["error"])
    yield from table(
        "source, what its counter counted | >n | >mean abs. | >worst",
        ((name, len(errors), *mean_and_worst(errors)) for name, errors in groups.items()),
    )
    yield ""


def _interval(rows: Sequence[Row]) -> Iterator[str]:
    found = intervals(rows)
    low, high = found["binomial"]
    inside, n = found["inside"], found["rows"]
    told = verdicts(rows, found["half_width"])
    yield "## The interval"
    yield ""
    width = 100 * found["half_width"]
    yield (
        f"Half-width {width:.2f} %: the split-conformal quantile of all graded rows' errors at"
        f" {NOMINAL:.0%}, where each source weighs the same."
    )
    yield "Tested source by source, each against the errors of the others alone:"
    yield ""
    yield (
        f"- {inside} of {n} rows lie inside: {inside / n:.1%}, 95 % binomial interval {low:.1%} to"
        f" {high:.1%}."
    )
    for source, each in found["by_source"].items():
        yield (
            f"- {source}: {each['inside']} of {each['rows']} within"
            f" {100 * each['half_width']:.2f} %"
        )
    yield (
        f"- {found['under']} of {n} are predicted too low, {found['under_by_more_than_1_percent']}"
        " by more than 1 %."
    )
    yield (
        f"- Cards of {', '.join(map(str, CARDS_GB))} GB, told with the interval's upper end:"
        f" {told['refused though it fits']} false refusals among {told['fits']} that fit,"
        f" {told['accepted though it does not']} false acceptances among"
        f" {told['asked'] - told['fits']} that do not."
    )
    yield ""


def _reserved(rows: Sequence[Row]) -> Iterator[str]:
    found = [row for row in rows if row["reading"] == "reserved"]
    margins = reserved_margins(found)
    above_low = [row for row in found if row["predicted_low_bytes"] <= row["measured_bytes"]]
    inside = sum(row["measured_bytes"] <= row["predicted_bytes"] for row in above_low)
    raised = sum(
        row["measured_bytes"] <= row["predicted_bytes"] * (1 + margins[row["source"]])
        for row in above_low
    )
    yield "## Reserved bytes"
    yield ""
    yield (
        "Told as a range from the allocated peak to what a simulated allocator reserves over two"
        " equal steps. Real runs are"
    )
    yield "longer, and their batches differ: they reserve more."
    yield ""
    yield f"- {inside} of {len(found)} measured ones lie in that range."
    by = ", ".join(f"{source} {margin:.2%}" for source, margin in margins.items())
    yield (
        f"- {raised} of {len(found)} do with its upper end raised by the most that the *other*"
        f" source's rows were above: {by}."
    )
    yield ""
    lines = []
    for row in found:
        low, high, measured = (
            row[name] / GIB for name in ("predicted_low_bytes", "predicted_bytes", "measured_bytes")
        )
        sizes = (low, high, high * (1 + margins[row["source"]]), measured)
        lines.append((row["id"], *(f"{size:.2f}" for size in sizes)))
    yield from table(
        "row | >allocated, GiB | >simulated, GiB | >raised, GiB | >measured, GiB", lines
    )
    yield ""


def _apart(rows: Sequence[Row]) -> Iterator[str]:
    reasons: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        if row["apart"]:
            reasons[row["apart"]].append(f"{row['id']} {100 * row['error']:+.2f} %")
    yield "## Shown apart"
    yield ""
    for reason, ids in reasons.items():
        yield f"- {reason}: {', '.join(ids)}"
    yield ""


def _out_of_tolerance(rows: Sequence[Row]) -> list[Row]:
    exact = [
        row
        for row in rows
        if not row["apart"] and row["reading"] != "reserved" and row["tolerance"]
    ]
    return [row for row in exact if abs(row["error"]) > row["tolerance"]]


def _misses(rows: Sequence[Row]) -> Iterator[str]:
    yield "## Misses"
    yield ""
    missed = _out_of_tolerance(rows)
    for row in missed:
        yield (
            f"- {row['id']}, {row['quantity']}: {100 * row['error']:+.2f} %."
            f" {MEMORY_MISSES.get(row['id'], 'Not understood')}."
        )
    if not missed:
        yield "No graded row is out of its tolerance."
    yield ""


def _rows(rows: Sequence[Row]) -> Iterator[str]:
    yield "## Rows"
    yield ""
    yield from table(
        "row | counter | method | stack | >measured, GiB | >error, % | >tier", map(_cells, rows)
    )
    yield ""


def _cells(row: Row) -> tuple[object, ...]:
    stack = row["stack"] + (f", {row['cards']} cards" if row["cards"] > 1 else "")
    measured = f"{row['measured_bytes'] / GIB:.4f}", f"{100 * row['error']:+.3f}", row["tier"]
    return row["id"], row["quantity"], row["method"], stack, *measured


def _left_out(reasons: Mapping[str, str]) -> Iterator[str]:
    absent: dict[str, list[str]] = defaultdict(list)
    for name, reason in reasons.items():
        absent[reason].append(name)
    yield "## Not expressed"
    yield ""
    for reason, names in absent.items():
        yield f"- {reason}: {len(names)} rows, {names[0]} for one"
