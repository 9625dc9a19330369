"""What runs showed: how far predictions were off, every run on the line where both are equal,
errors in strips and in tables; and how fast runs went that are alike but for their method."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from lora_profiler.measuring.records.checks import LEAST_SAMPLES
from lora_profiler.measuring.records.record import Record
from lora_profiler.report import labels
from lora_profiler.report.blocks import (
    Beside,
    Card,
    Drawing,
    Fold,
    Paragraph,
    Part,
    Section,
    Table,
    filled,
    paragraph,
    table,
)
from lora_profiler.report.charts.bars import ThroughputBar, throughput_bars
from lora_profiler.report.charts.dots import ErrorDot, ScatterPoint, error_strip, identity_scatter
from lora_profiler.report.charts.lines import step_times
from lora_profiler.report.charts.plot import shortened
from lora_profiler.report.labels import way_label
from lora_profiler.report.measured import comparisons, run_labels
from lora_profiler.report.measured.measured_runs import ratio_of
from lora_profiler.report.measured.measurements import setting
from lora_profiler.report.measured.run_labels import ratio_line
from lora_profiler.report.page.runs import (
    NAMES,
    NumberedRun,
    full_and_lora,
    tokens_text,
    worst_first,
)
from lora_profiler.runs.comparison.errors import METRICS, TOTAL, Comparison, Grouping, summary
from lora_profiler.runs.comparison.throughput import utilisation
from lora_profiler.units import (
    between_text,
    bytes_text,
    count_text,
    error_text,
    percent_text,
    rate_text,
    seconds_text,
)

MOST_DOTS = 600
"""Of one figure. More would hide each other, and take long to draw."""
WORST_DOTS = 150
"""Of them are those with the largest errors; the others are taken evenly."""
MOST_NUMBERS = 1500
"""Dots of the strips of several metrics, where all are drawn up to so many and `MOST_DOTS` of
more."""
MOST_GROUPS = 20
RunGrouping = Literal["method", "family", "model", "device"]
"""What a run is of, and its errors are grouped by."""
MOST_ERRORS = 15


def accuracy_section(runs: Sequence[NumberedRun]) -> Section | None:
    """Predicted against measured in figures, None where nothing was."""
    compared = [run for run in runs if run.peak is not None]
    claims = _claims(runs)
    if not claims:
        return None
    parts: list[Part] = []
    if compared:
        shown = drawn(compared)
        parts += [
            *drawn_words(shown, compared),
            Beside((scatter_drawing(shown), errors_drawing(shown, "family"))),
        ]
    parts.append(_metrics(claims, _records(runs)))
    return Section("accuracy", "Predicted against measured", tuple(parts))


def errors_section(runs: Sequence[NumberedRun]) -> Section | None:
    claims, records = _claims(runs), _records(runs)
    if not claims:
        return None
    peaks = [run.peak for run in runs if run.peak is not None]
    parts: list[Part] = []

    def errors_by(grouping: Grouping) -> Table:
        table = comparisons.errors_table(peaks, (grouping,), records)
        return table._replace(title=f"{table.title}, by {run_labels.GROUPING_LABELS[grouping]}")

    if peaks:
        by = (errors_by("method"), errors_by("family"))
        if worst := comparisons.largest_errors(peaks, MOST_ERRORS):
            parts.append(comparisons.largest_errors_table(worst, records))
        parts.append(Beside(by))
    table = comparisons.errors_table(claims, ("category",), records)
    parts += [paragraph(*_notes(claims)), Fold("Errors of every part", (table,))]
    return Section("errors", "Errors, the largest first", tuple(parts))


def _claims(runs: Sequence[NumberedRun]) -> list[Comparison]:
    return [c for run in runs for c in run.scored.comparisons if c.is_claim]


def _records(runs: Sequence[NumberedRun]) -> dict[str, Record]:
    return {run.record_id: run.record for run in runs}


def accuracy_cards(runs: Sequence[NumberedRun]) -> list[Card]:
    """Mean and worst error of the peak, and how many are within one percent."""
    rows = [peak for run in runs if (peak := run.peak) is not None]
    whole = summary(rows, ())
    if not whole or whole[0].mean_absolute is None:
        return []
    errors, by_id = whole[0], {run.record_id: run for run in runs}
    exact = sum(c.predicted == c.measured for c in rows)
    mean = percent_text(errors.mean_absolute) if errors.mean_absolute else "exact"
    worst = error_text(errors.worst) if errors.worst is not None else "exact"
    where = "every peak is equal to the byte"
    if errors.worst and errors.worst_record_id:
        where = by_id[errors.worst_record_id].name
    within = sum(c.is_within(0.01) for c in rows)
    n, equal = count_text(errors.n), f"{count_text(exact)} equal to the byte"
    over = f"over {n} runs that went through"
    return [
        Card(label="mean error of the peak", value=mean, note=over),
        Card(label="worst error of the peak", value=worst, note=where),
        Card(label="within 1 %", value=f"{count_text(within)} of {n}", note=equal),
    ]


def _notes(claims: Sequence[Comparison]) -> list[str]:
    mean = f"{run_labels.ERROR_DEFINITION}. Mean is that of absolute errors"
    lines = [f"{mean}. {comparisons.equality_words(claims, ' numbers')}"]
    if any(c.metric == "attribution_bytes" for c in claims):
        lines.append(run_labels.PARTS_CAVEAT)
    return lines


# --- figures --------------------------------------------------------------------------------------


def drawn(compared: Sequence[NumberedRun], most: int = MOST_DOTS) -> list[NumberedRun]:
    """All of them where they are few; else the largest errors and every so many-th of the rest, in
    their order."""
    if len(compared) <= most:
        return list(compared)
    ordered = worst_first(compared)
    rest = ordered[WORST_DOTS:]
    stride = -(-len(rest) // (most - WORST_DOTS))
    return sorted([*ordered[:WORST_DOTS], *rest[::stride]], key=lambda run: run.number)


def drawn_words(shown: Sequence[NumberedRun], compared: Sequence[NumberedRun]) -> list[Paragraph]:
    if len(shown) == len(compared):
        return []
    figures = f"The figures show {count_text(len(shown))} of {count_text(len(compared))} runs"
    which = f"the {WORST_DOTS} with the largest errors, and every so many-th of the others"
    return [paragraph(f"{figures}: {which}. The tables count all.")]


def scatter_drawing(shown: Sequence[NumberedRun]) -> Drawing:
    """The peak of each run on the line where both sides are equal."""
    points = [
        ScatterPoint(
            label=run.name,
            method=run.method,
            predicted_bytes=peak.predicted,
            measured_bytes=peak.measured,
        )
        for run in shown
        if (peak := run.peak) is not None and peak.predicted > 0 and peak.measured > 0
    ]
    sizes = [point.measured_bytes for point in points]
    span = f", from {bytes_text(min(sizes))} to {bytes_text(max(sizes))}" if sizes else ""
    caption = "Peak memory, predicted against measured; equal on the dashed line."
    plot, line = f"A scatter plot of {count_text(len(points))} runs{span}", "the line on which both"
    return Drawing(
        "scatter",
        f"{caption} The numbers are in the table of all runs.",
        f"{plot}, and {line} sides are equal.",
        identity_scatter(points),
    )


def errors_drawing(shown: Sequence[NumberedRun], by: RunGrouping) -> Drawing:
    """The peak's errors, a strip for each group; the groups with most runs where they are many."""
    words = labels.METHOD_LABELS if by == "method" else {}
    dots = [
        ErrorDot(
            group=words.get(getattr(run, by), getattr(run, by)),
            label=run.name,
            error=run.error,
            method=run.method,
        )
        for run in shown
        if run.error is not None
    ]
    members = Counter(dot.group for dot in dots)
    kept = sorted(members, key=lambda group: (-members[group], group))[:MOST_GROUPS]
    order = list(labels.METHOD_LABELS.values()) if by == "method" else sorted(kept)
    what = run_labels.GROUPING_LABELS[by]
    most = f"The {MOST_GROUPS} groups with most runs of {len(members)}."
    shown_dots = [d for d in dots if d.group in kept]
    shown_dots.sort(key=lambda d: order.index(d.group))
    strips = f"Strips of errors around zero for {len(kept)} groups by {what}"
    return Drawing(
        f"errors-by-{by}",
        f"Error of the peak, one dot a run, by {what}. The numbers are in the tables below.",
        f"{strips}, with the median of each.",
        error_strip(shown_dots),
        lines=(most,) if len(members) > MOST_GROUPS else (),
    )


def _metrics(claims: Sequence[Comparison], records: dict[str, Record]) -> Drawing:
    """Errors of every metric that is one number, a strip each."""
    whole = [c for c in claims if c.category == TOTAL and c.relative_error is not None]
    kept, rest = whole, ""
    if len(whole) > MOST_NUMBERS:
        by_size = sorted(whole, key=lambda c: -abs(c.relative_error or 0.0))
        stride = -(-len(whole) // (MOST_DOTS - WORST_DOTS))
        kept = by_size[:WORST_DOTS] + by_size[WORST_DOTS::stride]
        shown = f"{count_text(len(kept))} of {count_text(len(whole))}"
        rest = f" Drawn are {shown}, the largest errors among them."
    kept.sort(key=lambda c: METRICS.index(c.metric))
    dots = [
        ErrorDot(
            group=run_labels.METRIC_LABELS[c.metric],
            label=comparisons.run_name(records[c.record_id]),
            error=c.relative_error or 0.0,
            method=records[c.record_id].workload.setup.method,
        )
        for c in kept
    ]
    caption = "Errors of every number that a run has one of, by what it is."
    strips = f"Strips of errors around zero for {len({dot.group for dot in dots})} metrics"
    return Drawing(
        "errors-by-metric",
        f"{caption} The numbers are in the table below.{rest}",
        f"{strips}, with the median of each.",
        error_strip(dots),
    )


MOST_BARS = 24


def speed_section(
    runs: Sequence[NumberedRun], groups: Sequence[Sequence[NumberedRun]]
) -> Section | None:
    """Throughput, of the runs that are alike (`groups`) first; None where nothing was timed."""
    timed = [run for run in runs if run.is_timed]
    if not timed:
        return None
    of_groups = ([run for run in group if run.is_timed] for group in groups)
    alike = [members for members in of_groups if len(members) > 1]
    picked: list[NumberedRun] = []
    for group in alike:  # whole groups, as many as there is room for
        if len(picked) + len(group) <= MOST_BARS:
            picked += group
    picked = picked or list(timed[:MOST_BARS])
    of = f"{count_text(len(picked))} of {count_text(len(timed))} timed runs. "
    shown = "" if len(picked) == len(timed) else of
    several = "Runs of a group are alike in all but their method and its options. " if alike else ""
    bars = [bar for run in picked if (bar := _bar(run)) is not None]
    rate = rate_text(max(bar.tokens_per_second for bar in bars), "tokens")
    throughput = Drawing(
        "throughput",
        "Tokens a second in a median step.",
        f"Bars for {count_text(len(bars))} runs; the fastest {rate}.",
        throughput_bars(bars),
        _numbers(picked),
    )
    parts: list[Part] = [
        paragraph(
            f"{shown}{several}Whiskers are 95 % intervals of the median step; with fewer than"
            f" {LEAST_SAMPLES} steps they show lowest and highest.",
            *_ratio(alike),
        ),
        throughput,
        Beside(tuple(step_times_drawing(run) for run in full_and_lora(alike) or timed[:1])),
    ]
    return Section("speed", "Throughput", tuple(parts))


def _ratio(alike: Sequence[Sequence[NumberedRun]]) -> list[str]:
    """The step time of LoRA as a share of full's, for the pair shown elsewhere too."""
    pair = full_and_lora(alike)
    if not pair:
        return []
    records = [run.record for run in pair]
    ratio = ratio_of(records[:1], records[1:])
    if ratio is None:
        return []
    full, lora = (way_label(record.workload.setup) for record in records)
    return [f"{shortened(records[0].workload.model.id)}: {ratio_line(full, lora, ratio)}."]


# --- tokens a second ------------------------------------------------------------------------------


def _bar(run: NumberedRun) -> ThroughputBar | None:
    record, speed = run.record, run.speed
    if speed is None or speed.tokens_per_second is None:
        return None
    base = replace(record.workload.setup, lora=None, quantization=None)
    return ThroughputBar(
        label=f"{way_label(record.workload.setup)} (#{run.number})",
        method=record.workload.setup.method,
        tokens_per_second=speed.tokens_per_second,
        low=speed.tokens_per_second * speed.steps.median / speed.steps.high,
        high=speed.tokens_per_second * speed.steps.median / speed.steps.low,
        steps=speed.steps.n,
        group=f"{shortened(record.workload.model.id)}, {setting(base)}",
    )


def _numbers(picked: Sequence[NumberedRun]) -> Table:
    timed = []
    for run in picked:
        if run.speed is not None:
            flops = run.scored.prediction.flops if run.scored.prediction else None
            timed.append((run, run.speed.steps, utilisation(run.record, flops)))
    found = table(
        timed,
        (
            *((label, lambda row, of=of: of(row[0])) for label, of in NAMES),
            ("tokens/s", lambda row: tokens_text(row[0])),
            ("median step", lambda row: seconds_text(row[1].median, row[1].high)),
            ("95 % interval", lambda row: between_text(row[1].low, row[1].high)),
            ("steps", lambda row: count_text(row[1].n)),
            ("MFU", lambda row: percent_text(row[2].mfu) if row[2] else ""),
            ("HFU", lambda row: percent_text(row[2].hfu) if row[2] else ""),
            ("remarks", lambda row: _remarks(row[0])),
        ),
        title="Time of a step and what went through it",
        left=4,
    )
    return filled(found)


def _remarks(run: NumberedRun) -> str:
    flags = [flag.replace("_", " ") for flag in run.record.measurement.flags]
    return "; ".join([*flags, *(run.speed.warnings if run.speed else ())])


# --- raw times ------------------------------------------------------------------------------------


def step_times_drawing(run: NumberedRun) -> Drawing:
    measured, speed = run.record.measurement, run.speed
    assert speed is not None
    named = [("warm-up", s) for s in measured.warmup_seconds]
    named += [("timed", s) for s in measured.step_seconds]
    longest = max(seconds for _, seconds in named)
    warmup, timed = count_text(len(measured.warmup_seconds)), count_text(speed.steps.n)
    middle = f"the median {seconds_text(speed.steps.median)}"
    is_few = speed.steps.n < LEAST_SAMPLES
    band = "from the lowest to the highest" if is_few else "the 95 % interval of the median"
    return Drawing(
        f"steps-{run.number}",
        f"{run.name}: the time of every step; the band is {band}.",
        f"{warmup} warm-up steps and {timed} timed ones, {middle}.",
        step_times(measured.warmup_seconds, measured.step_seconds),
        table(
            list(enumerate(named, 1)),
            (
                ("step", lambda row: str(row[0])),
                ("", lambda row: row[1][0]),
                ("time", lambda row: seconds_text(row[1][1], longest)),
            ),
            title="The numbers of the figure",
            left=2,
        ),
    )
