"""Predictions held against many records: errors by group, the largest of them, and what could not
be compared."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import TypeVar

from lora_profiler.measuring.records.record import STATUSES, Record
from lora_profiler.question.workload import Method
from lora_profiler.report import labels
from lora_profiler.report.blocks import (
    Block,
    Rows,
    Table,
    VerdictLine,
    dim,
    paragraph,
    table,
    with_words_last,
)
from lora_profiler.report.charts.plot import shortened
from lora_profiler.report.labels import way_label
from lora_profiler.report.measured import run_labels
from lora_profiler.report.measured.measurements import category_label, environment_line, setting
from lora_profiler.runs.comparison.errors import (
    TOTAL,
    Comparison,
    ErrorSummary,
    Grouping,
    Metric,
    Scored,
    summary,
)
from lora_profiler.runs.comparison.regressions import Change, Pair, Pairs, SetupChange
from lora_profiler.units import (
    bytes_text,
    count_text,
    error_text,
    percent_text,
    rate_text,
    seconds_text,
)

MOST_ENVIRONMENTS = 3
"""So many are described; more are counted."""
MOST_REASONS = 3
F = TypeVar("F")


def comparison_blocks(
    scored: Sequence[Scored],
    chosen: Sequence[Metric],
    by: Sequence[Grouping],
    worst: int,
    hints: Sequence[str] = (),
) -> list[Block]:
    """What `compare` shows of one set: a summary of the chosen metrics, and the `worst` largest
    errors. `hints` come last."""
    records = {s.record.id: s.record for s in scored}
    comparisons = [c for s in scored for c in s.comparisons if c.metric in chosen]
    claims = [c for c in comparisons if c.is_claim]
    about = [*environment_lines(records.values()), *not_compared_lines(scored), *hints]
    if not claims:
        rest = f" no {_metrics(chosen)} is predicted for {counted(len(scored), 'record')}."
        return [VerdictLine(sign="tight", words="Nothing to compare:", rest=rest), dim(*about)]
    blocks: list[Block] = [accuracy_verdict(claims), errors_table(comparisons, by, records)]
    if largest := largest_errors(claims, worst):
        blocks.append(largest_errors_table(largest, records))
    notes = f"{run_labels.ERROR_DEFINITION}. {equality_words(claims)}"
    return [*blocks, dim(notes, *about)]


def accuracy_verdict(claims: Sequence[Comparison]) -> VerdictLine:
    """'137 of 137 peaks predicted within 1 %; the worst is 0.95 % too low.'"""
    within = sum(c.is_within(0.01) for c in claims)
    are_peaks = {c.metric for c in claims} == {"peak_requested_bytes"}
    noun = ("peak" if are_peaks else "number") + "s" * (len(claims) > 1)
    words = f"{count_text(within)} of {count_text(len(claims))} {noun} predicted within 1 %;"
    rest = " all equal to the last digit."
    if worst := largest_errors(claims, 1):
        error = worst[0].relative_error
        rest = " of one, 0 was measured." if error is None else ""
        rest = rest or f" the worst is {direction_text(error or 0)}."
    return VerdictLine(sign="fits" if within == len(claims) else "tight", words=words, rest=rest)


def direction_text(error: float) -> str:
    """'0.95 % too low', '25 % too high'."""
    percent = f"{100 * abs(error):.2g} %" if abs(error) < 1 else f"{100 * abs(error):,.0f} %"
    size = percent if abs(error) >= 0.00005 else "<0.01 %"
    return f"{size} too {'low' if error < 0 else 'high'}"


def environment_lines(records: Iterable[Record]) -> list[str]:
    lines = list(dict.fromkeys(environment_line(record.environment) for record in records))
    return cut(lines, "more set-ups", MOST_ENVIRONMENTS)


def counted(n: int, what: str) -> str:
    """'1 case', '3 cases'."""
    return f"{count_text(n)} {what}{'' if n == 1 else 's'}"


def cut(lines: list[str], what: str, count: int) -> list[str]:
    """The first so many, and how many more there are."""
    rest = len(lines) - count
    return [*lines[:count], f"and {count_text(rest)} {what}"] if rest > 0 else lines


def not_compared_lines(scored: Sequence[Scored]) -> list[str]:
    """Runs that failed, by status, and those without a prediction, by reason."""
    measured = [s.record.measurement for s in scored]
    ended = Counter(m.status for m in measured if not m.went_through)
    names = {status: run_labels.STATUS_LABELS[status] for status in STATUSES if ended[status]}
    words = ", ".join(f"{count_text(ended[status])} {name}" for status, name in names.items())
    lines = [f"Not compared because the run failed: {words}."] if words else []
    reasons = Counter(s.refusal for s in scored if s.refusal is not None)
    common = reasons.most_common(MOST_REASONS)
    lines += [f"Not predicted, {count_text(n)}: {reason}" for reason, n in common]
    rest = sum(reasons.values()) - sum(n for _, n in common)
    return [*lines, f"Not predicted for other reasons: {count_text(rest)}."] if rest else lines


def equality_words(claims: Sequence[Comparison], what: str = "") -> str:
    """How many predicted numbers are equal to the measured ones, and which engines made them."""
    equal = count_text(sum(c.predicted == c.measured for c in claims))
    engines = " and ".join(sorted({c.engine for c in claims}))
    of = f"{equal} of {count_text(len(claims))}{what}"
    return f"Equal to the last digit: {of} (engine: {engines})."


# --- errors by group ------------------------------------------------------------------------------


def errors_table(
    comparisons: Sequence[Comparison], by: Sequence[Grouping], records: Mapping[str, Record]
) -> Table:
    """A section for each metric, in it a row for each group and one for all of them. `records` are
    those compared, by id."""
    rows = Rows()
    within = [name for name in by if name != "metric"]
    found = sorted({c.metric for c in comparisons}, key=list(run_labels.METRIC_LABELS).index)

    def label(metric: str, name: Grouping, value: str) -> str:
        if name == "method":
            return labels.METHOD_LABELS[value]
        return category_label(metric, value) if name == "category" else shortened(value)

    for metric in found:
        members = [c for c in comparisons if c.metric == metric]
        groups = summary(members, within, records)
        if not groups:
            continue
        if len(found) > 1:
            rows.section(run_labels.METRIC_LABELS[metric])
        for g in groups if within else ():
            named = zip(within, g.group, strict=True)
            cells = (label(metric, name, value) for name, value in named)
            rows.add(*cells, *_error_cells(g, records), indent=0)
        if len(groups) > 1 or not within:
            (whole,) = summary(members, ())
            blank = [""] * (len(within) - 1)
            rows.add("all", *blank, *_error_cells(whole, records), kind="total", indent=0)
    names = [run_labels.GROUPING_LABELS[name] for name in within] or [""]
    title = f"Error of the {run_labels.METRIC_LABELS[found[0]]}" if len(found) == 1 else "Errors"
    columns = (*names, "n", "mean error", "worst", "within 1 %", "worst run")
    return with_words_last(rows.table(*columns, title=title, left=len(names)))


def _error_cells(found: ErrorSummary, records: Mapping[str, Record]) -> tuple[str, ...]:
    share = found.share_within_1_percent  # never 0 or 100 % where it is not
    within = f"{100 * share if share in (0, 1) else min(max(round(100 * share), 1), 99):.0f} %"
    if found.mean_absolute is None or found.worst is None:
        return (count_text(found.n), "", "", within, "")
    mean = percent_text(found.mean_absolute) if found.mean_absolute else "exact"
    worst = records[found.worst_record_id] if found.worst and found.worst_record_id else None
    run = short_name(worst) if worst and abs(found.worst) >= 0.00005 else ""
    return (count_text(found.n), mean, error_text(found.worst), within, run)


def short_name(record: Record) -> str:
    """'few-tokens-opt r8, 4 × 256'."""
    setup = record.workload.setup
    rank = f" r{setup.lora.r}" if setup.lora and setup.lora.has_rank else ""
    model = record.workload.model.id.rpartition("/")[2]
    cut = model if len(model) <= 24 else f"{model[:23]}…"
    return f"{cut}{rank}, {count_text(setup.batch_size)} × {count_text(setup.seq_len)}"


# --- the largest ----------------------------------------------------------------------------------


def largest_errors(comparisons: Iterable[Comparison], count: int) -> list[Comparison]:
    """The `count` claims with the largest relative errors, those where 0 was measured first; none
    that is exact."""
    off = (c for c in comparisons if c.is_claim and c.predicted != c.measured)
    return largest(off, lambda c: c.relative_error, count)


def largest(found: Iterable[F], size: Callable[[F], float | None], count: int) -> list[F]:

    def key(each: F) -> float:
        of = size(each)
        return float("inf") if of is None else abs(of)

    return sorted(found, key=key, reverse=True)[:count]


def run_columns(run: Callable[[F], Record]) -> list[tuple[str, Callable[[F], str]]]:
    """Which run a row is of: columns of `run_cells`."""

    def cell(place: int) -> Callable[[F], str]:
        return lambda each: run_cells(run(each))[place]

    return [(name, cell(place)) for place, name in enumerate(("model", "method", "setup"))]


def largest_errors_table(found: Sequence[Comparison], records: Mapping[str, Record]) -> Table:
    """A row each: which run, predicted, measured, error. What is compared has a column only where
    it is not all one."""
    mixed = len({(c.metric, c.category) for c in found}) > 1

    def run(c: Comparison) -> Record:
        return records[c.record_id]

    return table(
        found,
        (
            *run_columns(run),
            *([("what", _what)] if mixed else []),
            ("predicted", lambda c: value_text(c.metric, c.predicted)),
            ("measured", lambda c: value_text(c.metric, c.measured)),
            ("error", lambda c: "-" if c.relative_error is None else error_text(c.relative_error)),
        ),
        title="Largest errors",
        left=4 if mixed else 3,
    )


def _what(c: Comparison) -> str:
    label = run_labels.METRIC_LABELS[c.metric]
    return label if c.category == TOTAL else f"{label}: {category_label(c.metric, c.category)}"


def run_cells(record: Record) -> tuple[str, str, str]:
    workload = record.workload
    return (shortened(workload.model.id), way_label(workload.setup), setting(workload.setup))


def run_name(record: Record) -> str:
    """The same on one line: 'gpt2, LoRA r16, batch 2 x 512, float32'."""
    return ", ".join(run_cells(record))


def value_text(metric: str, value: float) -> str:
    if metric == "step_seconds":
        return seconds_text(value)
    if metric == "tokens_per_second":
        return rate_text(value)
    return bytes_text(round(value)) if metric.endswith("_bytes") else count_text(round(value))


# --- a limit --------------------------------------------------------------------------------------


def judgement(
    judged: Sequence[Comparison],
    beyond: Sequence[Comparison],
    records: Mapping[str, Record],
    chosen: Sequence[str],
    limit: float,
) -> str:
    """A sentence or two on a limit: how many of the `judged` claims are `beyond` it, and the worst
    of these."""
    what = _metrics(chosen)
    if not judged:
        both = "both a measured and a predicted number"
        return f"Nothing could be judged: no record has {both} ({what})."
    claims = f"{counted(len(judged), 'prediction')} ({what})"
    if not beyond:
        return f"Within {percent_text(limit)}: all {claims}."
    (worst,) = largest_errors(beyond, 1)
    relative = worst.relative_error
    error = "nothing was measured" if relative is None else error_text(relative)
    return (
        f"Off by more than {percent_text(limit)}: {count_text(len(beyond))} of {claims}. The worst"
        f" is {_what(worst)} of {run_name(records[worst.record_id])} ({worst.record_id}): predicted"
        f" {value_text(worst.metric, worst.predicted)}, measured"
        f" {value_text(worst.metric, worst.measured)}, {error}."
    )


def _metrics(chosen: Sequence[str]) -> str:
    return ", ".join(dict.fromkeys(run_labels.METRIC_LABELS[metric] for metric in chosen))


# --- two sets of records against each other -------------------------------------------------------


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


def _verdict(pairs: Pairs, found: Sequence[Change]) -> VerdictLine:
    """'1 case no longer trains', '2 of 8 numbers got worse', 'nothing got worse'."""
    cases = counted(len(pairs.pairs), "case")
    if not pairs.pairs:
        return VerdictLine(sign="tight", words="No case is in both sets.")
    if lost := [pair for pair in pairs.pairs if pair.is_lost]:
        fail = "no longer trains" if len(lost) == 1 else "no longer train"
        words = f"{count_text(len(lost))} of {cases} {fail}:"
        rest = f" {run_name(lost[0].before[0])}."
        return VerdictLine(sign="does_not_fit", words=words, rest=rest)
    if worse := [c for c in found if c.is_worse_by_more_than(0)]:
        (worst,) = largest(worse, lambda c: c.relative_change, 1)
        what, change = run_labels.METRIC_LABELS[worst.metric], _numbers(worst)[2]
        words = f"{count_text(len(worse))} of {counted(len(found), 'number')} got worse:"
        rest = f" the worst is {what}, {change}, of {run_name(run_of(worst, pairs.pairs))}."
        return VerdictLine(sign="tight", words=words, rest=rest)
    better = sum(c.is_beyond_noise for c in found)
    of = counted(len(found), "number")
    rest = f" {better} of {of} better." if better else " all are the same."
    return VerdictLine(sign="fits", words=f"Nothing got worse in {cases}:", rest=rest)


def outcome_lines(pairs: Sequence[Pair]) -> list[str]:
    lines = []
    for pair in pairs:
        if pair.is_lost or pair.is_won:
            before, after = _statuses(pair.before), _statuses(pair.after)
            lines.append(f"! {run_name(pair.before[0])}: {before} before, {after} after")
    return cut(lines, "more cases with another outcome", MOST_CASES)


def one_sided_lines(pairs: Pairs) -> list[str]:
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
    statuses = dict.fromkeys(r.measurement.status for r in records)
    return " and ".join(run_labels.STATUS_LABELS[status] for status in statuses)


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


# --- a limit on what changed ----------------------------------------------------------------------


def changes_judgement(
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
    of_bytes = "Bytes: the largest of a case's runs; any difference is beyond noise."
    lines = [f"{CHANGE_DEFINITION}. {of_bytes}"]
    if any(c.before.low is not None for c in found):
        lines.append(
            "Times: the median of all steps, beyond noise where the 95 % intervals do not overlap;"
            " ± is half the wider one."
        )
    return lines
