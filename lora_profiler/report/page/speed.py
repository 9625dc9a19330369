"""How fast the runs went: tokens a second of runs that are alike but for their method, with intervals."""

from collections.abc import Sequence

from lora_profiler.errors import UsageError
from lora_profiler.report import charts
from lora_profiler.report.blocks import Row, Table, paragraph
from lora_profiler.report.charts import ThroughputBar
from lora_profiler.report.charts.labels import shortened
from lora_profiler.report.comparisons import run_cells
from lora_profiler.report.page.alike import full_and_lora, groups_alike
from lora_profiler.report.page.parts import Beside, Drawing, Part, Section
from lora_profiler.report.page.runs import Run
from lora_profiler.report.predictions import way_label
from lora_profiler.report.speed import ratio_line
from lora_profiler.throughput import Throughput, Utilisation, full_against_lora, utilisation
from lora_profiler.units import count_text, percent_text, rate_text, seconds_text

MOST_BARS = 24


def speed_section(runs: Sequence[Run]) -> Section | None:
    """Throughput, None where nothing was timed. Every run's step time is in the table of all runs."""
    timed = [run for run in runs if run.speed is not None and run.speed.tokens_per_second is not None]
    if not timed:
        return None
    picked, is_alike = _picked(timed)
    several = "Groups are alike in all but their method. " if is_alike else ""
    shown = "" if len(picked) == len(timed) else f"{count_text(len(picked))} of {count_text(len(timed))} timed runs. "
    parts: list[Part] = [
        paragraph(f"{shown}{several}Whiskers are 95 % intervals of the median step.", *_ratio(timed)),
        _drawing(picked),
    ]
    steps = full_and_lora(groups_alike(timed)) or timed[:1]
    parts.append(Beside(parts=tuple(_steps_drawing(run) for run in steps)))
    return Section(name="speed", title="Throughput", parts=tuple(parts))


def _picked(timed: Sequence[Run]) -> tuple[list[Run], bool]:
    """Whole groups of runs alike, as many as there is room for; without any, the first runs."""
    picked: list[Run] = []
    for group in groups_alike(timed):
        if len(picked) + len(group) <= MOST_BARS:
            picked += group
    return (picked, True) if picked else (list(timed[:MOST_BARS]), False)


def _ratio(timed: Sequence[Run]) -> list[str]:
    """The step time of LoRA as a share of full fine-tuning's, for the pair that the page shows elsewhere too."""
    pair = full_and_lora(groups_alike(timed))
    if not pair:
        return []
    full, lora = pair
    try:
        ratio = full_against_lora([full.scored.record], [lora.scored.record])
    except UsageError:  # they were not measured under the same conditions, which their records say
        return []
    setups = [run.scored.record.workload.setup for run in pair]
    return [
        f"{shortened(full.scored.record.workload.model.id)}: {ratio_line(way_label(setups[0]), way_label(setups[1]), ratio)}."
    ]


# --- tokens a second ------------------------------------------------------------------------------------------------------


def _drawing(picked: Sequence[Run]) -> Drawing:
    bars = [bar for run in picked if (bar := _bar(run)) is not None]
    fastest = max(bars, key=lambda bar: bar.tokens_per_second)
    return Drawing(
        name="throughput",
        caption="Tokens a second in a median step.",
        description=f"Bars for {count_text(len(bars))} runs; the fastest {rate_text(fastest.tokens_per_second, 'tokens')}.",
        figure=charts.throughput_bars(bars),
        numbers=_numbers(picked),
    )


def _bar(run: Run) -> ThroughputBar | None:
    record, speed = run.scored.record, run.speed
    if speed is None or speed.tokens_per_second is None:
        return None
    model, method, setting = run_cells(record)
    return ThroughputBar(
        label=f"{method} (#{run.number})",
        method=record.workload.setup.method,
        tokens_per_second=speed.tokens_per_second,
        low=speed.tokens_per_second * speed.steps.median / speed.steps.high,
        high=speed.tokens_per_second * speed.steps.median / speed.steps.low,
        group=f"{model}, {setting.partition(', float32 adapters')[0]}",
        record_id=record.id,
    )


def _numbers(picked: Sequence[Run]) -> Table:
    rows = []
    for run in picked:
        if run.speed is not None:
            flops = run.scored.prediction.flops if run.scored.prediction else None
            rows.append(_row(run, run.speed, utilisation(run.scored.record, flops)))
    columns = ("#", "model", "method", "setup", "tokens/s", "median step", "95 % interval", "steps", "MFU", "HFU", "remarks")
    used = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    return Table(
        title="Time of a step and what went through it",
        columns=tuple(columns[i] for i in used),
        rows=tuple(Row(cells=tuple(row[i] for i in used)) for row in rows),
        left=4,
    )


def _row(run: Run, speed: Throughput, used: Utilisation | None) -> tuple[str, ...]:
    steps, tokens = speed.steps, speed.tokens_per_second
    flags = [flag.replace("_", " ") for flag in run.scored.record.measurement.flags]
    return (
        count_text(run.number),
        *run_cells(run.scored.record),
        rate_text(tokens).removesuffix("/s") if tokens is not None else "",
        seconds_text(steps.median),
        f"{seconds_text(steps.low)} to {seconds_text(steps.high)}",
        count_text(steps.n),
        percent_text(used.mfu) if used else "",
        percent_text(used.hfu) if used else "",
        "; ".join([*flags, *speed.warnings]),
    )


# --- raw times ------------------------------------------------------------------------------------------------------------


def _steps_drawing(run: Run) -> Drawing:
    measured, speed = run.scored.record.measurement, run.speed
    assert speed is not None
    return Drawing(
        name=f"steps-{run.number}",
        caption=f"{run.name}: the time of every step; the band is the 95 % interval of the median.",
        description=(
            f"{count_text(len(measured.warmup_seconds))} warm-up steps and {count_text(speed.steps.n)} timed ones, the median "
            f"{seconds_text(speed.steps.median)}."
        ),
        figure=charts.step_times(measured),
        numbers=_steps_table(measured.warmup_seconds, measured.step_seconds),
    )  # fmt: skip


def _steps_table(warmup: Sequence[float], timed: Sequence[float]) -> Table:
    named = [("warm-up", s) for s in warmup] + [("timed", s) for s in timed]
    rows = tuple(Row(cells=(str(number), kind, seconds_text(s))) for number, (kind, s) in enumerate(named, 1))
    return Table(title="The numbers of the figure", columns=("step", "", "time"), rows=rows, left=2)
