"""Predictions held against many records: errors by group, the largest of them, and what could not
be compared."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from lora_profiler.comparison.errors import (
    TOTAL,
    Comparison,
    ErrorSummary,
    Grouping,
    Metric,
    summary,
)
from lora_profiler.comparison.scored import Scored
from lora_profiler.records.record import STATUSES, Record
from lora_profiler.report import labels
from lora_profiler.report.blocks import Block, Row, Table, Verdict, dim, table, with_words_last
from lora_profiler.report.labels import way_label
from lora_profiler.report.measured import run_labels
from lora_profiler.report.measured.measured_runs import category_label, setting
from lora_profiler.report.measured.measurements import environment_line
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
LONGEST_NAME = 60
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
        return [Verdict(sign="tight", words="Nothing to compare:", rest=rest), dim(*about)]
    blocks: list[Block] = [accuracy_verdict(claims), errors_table(comparisons, by, records)]
    if largest := largest_errors(claims, worst):
        blocks.append(largest_errors_table(largest, records))
    notes = f"{run_labels.ERROR_DEFINITION}. {equality_words(claims)}"
    return [*blocks, dim(notes, *about)]


def accuracy_verdict(claims: Sequence[Comparison]) -> Verdict:
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
    return Verdict(sign="fits" if within == len(claims) else "tight", words=words, rest=rest)


def direction_text(error: float) -> str:
    """'0.95 % too low', '25 % too high'."""
    percent = f"{100 * abs(error):.2g} %" if abs(error) < 1 else f"{100 * abs(error):,.0f} %"
    size = percent if abs(error) >= 0.00005 else "<0.01 %"
    return f"{size} too {'low' if error < 0 else 'high'}"


def environment_lines(records: Iterable[Record]) -> list[str]:
    """Device and software of the runs, each set-up once; where there are many, how many."""
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
    ended = Counter(
        s.record.measurement.status for s in scored if not s.record.measurement.went_through
    )
    lines = []
    if ended:
        words = ", ".join(
            f"{count_text(ended[status])} {run_labels.STATUS_LABELS[status]}"
            for status in STATUSES
            if ended[status]
        )
        lines.append(f"Not compared because the run failed: {words}.")
    reasons = Counter(s.refusal for s in scored if s.refusal is not None)
    common = reasons.most_common(MOST_REASONS)
    lines += [f"Not predicted, {count_text(n)}: {reason}" for reason, n in common]
    rest = sum(reasons.values()) - sum(n for _, n in common)
    return [*lines, f"Not predicted for other reasons: {count_text(rest)}."] if rest else lines


def equality_words(claims: Sequence[Comparison], what: str = "") -> str:
    """How many predicted numbers are equal to the measured ones, and which engines made them."""
    equal = count_text(sum(c.predicted == c.measured for c in claims))
    engines = " and ".join(sorted({c.engine for c in claims}))
    return (
        f"Equal to the last digit: {equal} of {count_text(len(claims))}{what} (engine: {engines})."
    )


# --- errors by group ------------------------------------------------------------------------------


def errors_table(
    comparisons: Sequence[Comparison], by: Sequence[Grouping], records: Mapping[str, Record]
) -> Table:
    """A section for each metric, in it a row for each group and one for all of them. `records` are
    those compared, by id."""
    rows: list[Row] = []
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
            rows.append(Row(cells=(run_labels.METRIC_LABELS[metric],), kind="section"))
        for g in groups if within else ():
            named = zip(within, g.group, strict=True)
            cells = (label(metric, name, value) for name, value in named)
            rows.append(Row(cells=(*cells, *_error_cells(g, records))))
        if len(groups) > 1 or not within:
            (whole,) = summary(members, ())
            blank = [""] * (len(within) - 1)
            rows.append(Row(cells=("all", *blank, *_error_cells(whole, records)), kind="total"))
    names = [run_labels.GROUPING_LABELS[name] for name in within] or [""]
    title = f"Error of the {run_labels.METRIC_LABELS[found[0]]}" if len(found) == 1 else "Errors"
    columns = (*names, "n", "mean error", "worst", "within 1 %", "worst run")
    left = len(names)
    return with_words_last(Table(title=title, columns=columns, rows=tuple(rows), left=left))


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
    """The `count` that are largest in size, those of no size first."""

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
    """(model, method, setup) of one run, in words."""
    workload = record.workload
    return shortened(workload.model.id), way_label(workload.setup), setting(workload.setup)


def run_name(record: Record) -> str:
    """The same on one line: 'gpt2, LoRA r16, batch 2 x 512, float32'."""
    return ", ".join(run_cells(record))


def value_text(metric: str, value: float) -> str:
    """A number of a metric with its unit."""
    if metric == "step_seconds":
        return seconds_text(value)
    if metric == "tokens_per_second":
        return rate_text(value)
    return bytes_text(round(value)) if metric.endswith("_bytes") else count_text(round(value))


def shortened(name: str) -> str:
    """A name from elsewhere, cut in the middle where it would fill a page."""
    half = LONGEST_NAME // 2
    return name if len(name) <= LONGEST_NAME else f"{name[: half - 2]}...{name[-half + 1 :]}"


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
