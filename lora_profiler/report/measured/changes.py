"""Two sets of records against each other: what differs in the set-up, what changed by method, and
the largest changes."""

from collections.abc import Mapping, Sequence
from statistics import median

from lora_profiler.comparison.regressions import Change, Pair, Pairs, SetupChange
from lora_profiler.records.record import Record
from lora_profiler.report import labels
from lora_profiler.report.blocks import Block, Rows, Table, Verdict, dim, paragraph, table
from lora_profiler.report.measured import run_labels
from lora_profiler.report.measured.comparisons import (
    counted,
    cut,
    largest,
    run_columns,
    run_name,
    shortened,
    value_text,
)
from lora_profiler.units import bytes_text, count_text, error_text, percent_text
from lora_profiler.workload import Method

MOST_VALUES = 3
"""Of one field of the set-up; more are counted."""
MOST_CASES = 5
CHANGE_DEFINITION = "change = (after - before) / before"


def change_blocks(
    pairs: Pairs, found: Sequence[Change], setup: Sequence[SetupChange], worst: int
) -> list[Block]:
    """What `compare --against` shows. `found` are changes of the pairs, in the metrics that were
    asked for."""
    methods = {pair.case_key: pair.before[0].workload.setup.method for pair in pairs.pairs}
    blocks: list[Block] = [_verdict(pairs, found)]
    lines = [*outcome_lines(pairs.pairs), *one_sided_lines(pairs)]
    blocks += [paragraph(*lines)] if lines else []
    blocks += [changes_table(found, methods)] if found else []
    blocks += [setup_table(setup)] if setup else []
    for metric in dict.fromkeys(c.metric for c in found):
        beyond = [c for c in found if c.metric == metric and c.is_beyond_noise]
        if shown := largest(beyond, lambda c: c.relative_change, worst):
            blocks.append(largest_changes_table(shown, pairs.pairs))
    same = [] if setup else ["The set-ups are the same."]
    return [*blocks, dim(*same, *_notes(found))]


def _verdict(pairs: Pairs, found: Sequence[Change]) -> Verdict:
    """'1 case no longer trains', '2 of 8 numbers got worse', 'nothing got worse'."""
    cases = counted(len(pairs.pairs), "case")
    if not pairs.pairs:
        return Verdict(sign="tight", words="No case is in both sets.")
    if lost := [pair for pair in pairs.pairs if pair.is_lost]:
        fail = "no longer trains" if len(lost) == 1 else "no longer train"
        words = f"{count_text(len(lost))} of {cases} {fail}:"
        return Verdict(sign="does_not_fit", words=words, rest=f" {run_name(lost[0].before[0])}.")
    if worse := [c for c in found if c.is_worse_by_more_than(0)]:
        (worst,) = largest(worse, lambda c: c.relative_change, 1)
        what, change = run_labels.METRIC_LABELS[worst.metric], _numbers(worst)[2]
        words = f"{count_text(len(worse))} of {counted(len(found), 'number')} got worse:"
        rest = f" the worst is {what}, {change}, of {run_name(run_of(worst, pairs.pairs))}."
        return Verdict(sign="tight", words=words, rest=rest)
    better = sum(c.is_beyond_noise for c in found)
    rest = (
        f" {better} of {counted(len(found), 'number')} better." if better else " all are the same."
    )
    return Verdict(sign="fits", words=f"Nothing got worse in {cases}:", rest=rest)


def outcome_lines(pairs: Sequence[Pair]) -> list[str]:
    """Cases that went through on one side alone."""
    lines = []
    for pair in pairs:
        if pair.is_lost or pair.is_won:
            before, after = _statuses(pair.before), _statuses(pair.after)
            lines.append(f"! {run_name(pair.before[0])}: {before} before, {after} after")
    return cut(lines, "more cases with another outcome", MOST_CASES)


def one_sided_lines(pairs: Pairs) -> list[str]:
    """Cases that only one side has, and runs that were left out."""
    lines = []
    for word, records in (("before", pairs.only_before), ("after", pairs.only_after)):
        cases = {r.case_key + r.environment.device.name: r for r in records}
        if cases:
            names = cut([run_name(r) for r in cases.values()], "more", 2)
            lines.append(f"Only {word}, {counted(len(cases), 'case')}: {'; '.join(names)}")
    if pairs.left_out:
        older = "of an older environment than the newest of the case"
        lines.append(f"Left out: {counted(pairs.left_out, 'run')} {older}.")
    return lines


def _statuses(records: Sequence[Record]) -> str:
    return " and ".join(
        dict.fromkeys(run_labels.STATUS_LABELS[r.measurement.status] for r in records)
    )


# --- the set-up -----------------------------------------------------------------------------------


def setup_table(found: Sequence[SetupChange]) -> Table:
    """A row for each field of the environments that differs."""

    def label(field: str) -> str:
        """'packages.torch' -> 'torch', 'device.driver' -> 'driver'."""
        known = run_labels.ENVIRONMENT_LABELS.get(field)
        return known or shortened(field.partition(".")[2] or field)

    return table(
        found,
        (
            ("", lambda c: label(c.field)),
            ("before", lambda c: _values(c.field, c.before)),
            ("after", lambda c: _values(c.field, c.after)),
        ),
        title="What differs in the set-up",
        left=3,
    )


def _values(field: str, values: Sequence[str]) -> str:
    if not values:
        return "none"
    known = [bytes_text(int(v)) if field.endswith("_bytes") else shortened(v) for v in values]
    rest = len(known) - MOST_VALUES
    return ", ".join([*known[:MOST_VALUES], f"{count_text(rest)} more"] if rest > 0 else known)


# --- the changes ----------------------------------------------------------------------------------


def changes_table(found: Sequence[Change], methods: Mapping[str, Method]) -> Table:
    """A section for each metric, in it a row for each method and one for all. `methods` by case
    key."""
    rows = Rows()
    for metric in sorted({c.metric for c in found}, key=list(run_labels.METRIC_LABELS).index):
        members = [c for c in found if c.metric == metric]
        rows.section(run_labels.METRIC_LABELS[metric])
        groups = [
            (label, changed)
            for method, label in labels.METHOD_LABELS.items()
            if (changed := [c for c in members if methods[c.case_key] == method])
        ]
        for label, changed in groups:
            rows.add(label, *_change_cells(changed))
        if len(groups) > 1:
            rows.add("all", *_change_cells(members), kind="total")
    columns = ("", "cases", "median", "lowest", "highest", "beyond noise")
    return rows.table(*columns, title="Changes")


def _change_cells(found: Sequence[Change]) -> tuple[str, ...]:
    relative = [c.relative_change for c in found if c.relative_change is not None]
    numbers = [change_text(f(relative)) for f in (median, min, max)] if relative else ["", "", ""]
    return (count_text(len(found)), *numbers, count_text(sum(c.is_beyond_noise for c in found)))


def change_text(relative_change: float) -> str:
    """A signed relative change as a percentage; none at all reads 'same', and nothing else does."""
    return error_text(relative_change) if relative_change else "same"


def largest_changes_table(found: Sequence[Change], pairs: Sequence[Pair]) -> Table:
    """A row for each change of one metric: which case, before, after, change; for times the larger
    of the two intervals too."""
    is_time = found[0].before.low is not None

    def run(change: Change) -> Record:
        return run_of(change, pairs)

    return table(
        found,
        (
            *run_columns(run),
            ("before", lambda c: _numbers(c)[0]),
            ("after", lambda c: _numbers(c)[1]),
            ("change", lambda c: _numbers(c)[2]),
            *([("±", _half_width)] if is_time else []),
        ),
        title=f"Largest changes beyond noise: {run_labels.METRIC_LABELS[found[0].metric]}",
        left=3,
    )


def run_of(change: Change, pairs: Sequence[Pair]) -> Record:
    """The first of the runs before that a change comes from."""
    return next(
        r
        for pair in pairs
        if pair.case_key == change.case_key
        for r in pair.before
        if r.id in change.before.record_ids
    )


def _numbers(c: Change) -> tuple[str, str, str]:
    change = change_text(c.relative_change) if c.relative_change is not None else "-"
    return value_text(c.metric, c.before.value), value_text(c.metric, c.after.value), change


def _half_width(change: Change) -> str:
    """Half the interval of a median over it, of the larger of the two."""
    sides = (change.before, change.after)
    shares = (
        (side.high - side.low) / 2 / side.value
        for side in sides
        if side.high is not None and side.low is not None
    )
    return f"{100 * max(shares):.1f} %"


# --- a limit --------------------------------------------------------------------------------------


def judgement(
    judged: Sequence[Change],
    worse: Sequence[Change],
    lost: Sequence[Pair],
    pairs: Sequence[Pair],
    chosen: Sequence[str],
    limit: float,
) -> str:
    """A sentence or two on a limit: how many of the `judged` changes are `worse` by more, the
    worst, and the cases `lost`."""
    what = ", ".join(run_labels.METRIC_LABELS[metric] for metric in chosen)
    parts = []
    if lost:
        cases = f"{counted(len(lost), 'case')}, such as {run_name(lost[0].before[0])}"
        parts.append(f"No longer trains: {cases}.")
    if worse:
        (worst,) = largest(worse, lambda c: c.relative_change, 1)
        before, after, change = _numbers(worst)
        parts.append(
            f"Worse by more than {percent_text(limit)}: {count_text(len(worse))} of"
            f" {counted(len(judged), 'number')} ({what}). The worst is"
            f" {run_labels.METRIC_LABELS[worst.metric]} of {run_name(run_of(worst, pairs))}"
            f" ({worst.case_key}): {before} before, {after} after, {change}."
        )
    if parts:
        return " ".join(parts)
    if not judged:
        return f"Nothing could be judged: no case has a number on both sides ({what})."
    every = f"all {counted(len(judged), 'number')} ({what})"
    return f"Not worse by more than {percent_text(limit)}: {every}."


def _notes(found: Sequence[Change]) -> list[str]:
    if not found:
        return []
    lines = [
        f"{CHANGE_DEFINITION}. Bytes: the largest of a case's runs; any difference is beyond noise."
    ]
    if any(c.before.low is not None for c in found):
        lines.append(
            "Times: the median of all steps, beyond noise where the 95 % intervals do not overlap;"
            " ± is half the wider one."
        )
    return lines
