"""One record in full: its numbers beside the predicted ones, its timeline, its steps, what the peak
held, and the machine."""

from collections.abc import Iterator

from lora_profiler.campaign.results import result
from lora_profiler.comparison.scored import Scored
from lora_profiler.dashboard import downloads, widgets
from lora_profiler.records.record import Record, conditions_dict
from lora_profiler.report.blocks import Block, Row, Table, paragraph
from lora_profiler.report.measured import run_labels
from lora_profiler.report.measured.measurements import alone_table, record_details
from lora_profiler.report.page.composition import peaks_drawing
from lora_profiler.report.page.parts import Drawing
from lora_profiler.report.page.reference import environment_table, fact_text
from lora_profiler.report.page.runs import Run
from lora_profiler.report.page.speed import step_times_drawing
from lora_profiler.report.page.steps import counters_drawing, step_drawing


def show(run: Run, key: str = "record") -> None:
    """Everything about one record; `key` sets its widgets apart from those of another one on the
    same page."""
    record = run.scored.record
    widgets.section(f"{run.model}, {run.cells[1]}: {run_labels.STATUS_LABELS[run.status]}")
    widgets.small(f"record {run.record_id}")
    for heading, drawing in _drawings(run):
        widgets.section(heading)
        widgets.drawing(drawing, f"{key}.{drawing.name}")
    widgets.section("In numbers")
    widgets.blocks(_blocks(run.scored))
    with widgets.drawer("Machine and software", f"{key}.environment") as is_open:
        if is_open:
            widgets.blocks([environment_table("Environment", [record]), conditions_table(record)])
    widgets.downloads(key, downloads.of_records([run.scored], downloads.plain_name(run.record_id)))


def _drawings(run: Run) -> Iterator[tuple[str, Drawing]]:
    """(heading, figure) of all that was measured, what was predicted first beside it."""
    record = run.scored.record
    measurement = record.measurement
    if (both := step_drawing(run)) is not None:
        word = "rehearsed" if record.is_rehearsed else "measured"
        yield f"Memory over one step, predicted and {word}", both
    if measurement.phases:
        yield "Memory, phase by phase", counters_drawing(run)
    if measurement.attribution_bytes:
        yield "What the peak was made of", peaks_drawing("peak", [run], "Peak")
    if run.speed is not None:
        yield "Time of each step", step_times_drawing(run)


def _blocks(scored: Scored) -> list[Block]:
    if scored.prediction is not None:
        run_result = result(scored.record, scored.prediction)
        return record_details(
            run_result.record,
            run_result.prediction,
            run_result.comparisons,
            run_result.speed,
            run_result.utilisation,
            run_result.timing,
        )
    alone = alone_table(scored.record)
    return [paragraph(f"Not predicted: {scored.refusal or ''}"), *([alone] if alone.rows else [])]


def conditions_table(record: Record) -> Table:
    """What the harness held fixed, when it ran, and what was typed."""
    held = {
        **conditions_dict(record.conditions),
        "repeat": record.repeat,
        "started": record.started_at,
        "ended": record.ended_at,
    }
    if record.environment.command:
        held["command"] = record.environment.command
    rows = [
        Row(cells=(name.replace("_", " "), fact_text(name, value)))
        for name, value in held.items()
        if value is not None
    ]
    return Table(title="Conditions", columns=("", ""), rows=tuple(rows), left=2)
