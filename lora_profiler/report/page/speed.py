"""How fast the runs went: tokens a second of runs that are alike but for their method, with
intervals."""

from collections.abc import Sequence
from dataclasses import replace

from lora_profiler.comparison.throughput import utilisation
from lora_profiler.report.blocks import Table, filled, paragraph, table
from lora_profiler.report.charts.bars import ThroughputBar, throughput_bars
from lora_profiler.report.charts.lines import step_times
from lora_profiler.report.charts.plot import shortened
from lora_profiler.report.labels import way_label
from lora_profiler.report.measured.measured_runs import ratio_of, setting
from lora_profiler.report.measured.run_labels import ratio_line
from lora_profiler.report.page.runs import NAMES, Run, full_and_lora, tokens_text
from lora_profiler.report.parts import Beside, Drawing, Part, Section
from lora_profiler.units import between_text, count_text, percent_text, rate_text, seconds_text

MOST_BARS = 24


def speed_section(runs: Sequence[Run], groups: Sequence[Sequence[Run]]) -> Section | None:
    """Throughput, of the runs that are alike (`groups`) first; None where nothing was timed."""
    timed = [run for run in runs if run.is_timed]
    if not timed:
        return None
    alike = [
        members for group in groups if len(members := [run for run in group if run.is_timed]) > 1
    ]
    picked: list[Run] = []
    for group in alike:  # whole groups, as many as there is room for
        if len(picked) + len(group) <= MOST_BARS:
            picked += group
    picked = picked or list(timed[:MOST_BARS])
    shown = (
        ""
        if len(picked) == len(timed)
        else f"{count_text(len(picked))} of {count_text(len(timed))} timed runs. "
    )
    several = "Runs of a group are alike in all but their method and its options. " if alike else ""
    parts: list[Part] = [
        paragraph(
            f"{shown}{several}Whiskers are 95 % intervals of the median step.", *_ratio(alike)
        ),
        _drawing(picked),
        Beside(parts=tuple(step_times_drawing(run) for run in full_and_lora(alike) or timed[:1])),
    ]
    return Section(name="speed", title="Throughput", parts=tuple(parts))


def _ratio(alike: Sequence[Sequence[Run]]) -> list[str]:
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


def _drawing(picked: Sequence[Run]) -> Drawing:
    bars = [bar for run in picked if (bar := _bar(run)) is not None]
    fastest = max(bars, key=lambda bar: bar.tokens_per_second)
    return Drawing(
        name="throughput",
        caption="Tokens a second in a median step.",
        description=(
            f"Bars for {count_text(len(bars))} runs; the fastest"
            f" {rate_text(fastest.tokens_per_second, 'tokens')}."
        ),
        figure=throughput_bars(bars),
        numbers=_numbers(picked),
    )


def _bar(run: Run) -> ThroughputBar | None:
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
        group=f"{shortened(record.workload.model.id)}, {setting(base)}",
    )


def _numbers(picked: Sequence[Run]) -> Table:
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


def _remarks(run: Run) -> str:
    flags = [flag.replace("_", " ") for flag in run.record.measurement.flags]
    return "; ".join([*flags, *(run.speed.warnings if run.speed else ())])


# --- raw times ------------------------------------------------------------------------------------


def step_times_drawing(run: Run) -> Drawing:
    """The time of every step of a run that was timed."""
    measured, speed = run.record.measurement, run.speed
    assert speed is not None
    named = [("warm-up", s) for s in measured.warmup_seconds]
    named += [("timed", s) for s in measured.step_seconds]
    longest = max(seconds for _, seconds in named)
    return Drawing(
        name=f"steps-{run.number}",
        caption=f"{run.name}: the time of every step; the band is the 95 % interval of the median.",
        description=(
            f"{count_text(len(measured.warmup_seconds))} warm-up steps and"
            f" {count_text(speed.steps.n)} timed ones, the median"
            f" {seconds_text(speed.steps.median)}."
        ),
        figure=step_times(measured.warmup_seconds, measured.step_seconds),
        numbers=table(
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
