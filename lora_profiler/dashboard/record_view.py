"""One record in full: its numbers beside the predicted ones, its timeline, its steps, what the peak
held, and the machine."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from lora_profiler.campaign.results import result
from lora_profiler.comparison.scored import Scored
from lora_profiler.dashboard import downloads, markup, widgets
from lora_profiler.records.record import Environment, Record
from lora_profiler.report import charts, labels
from lora_profiler.report.blocks import Block, Paragraph, Row, Table
from lora_profiler.report.charts import CategoryBar
from lora_profiler.report.comparisons import run_name
from lora_profiler.report.measurements import alone_table, record_blocks
from lora_profiler.units import bytes_text


def show(scored: Scored, key: str = "record") -> None:
    """Everything about one record; `key` sets its widgets apart from those of another one on the
    same page."""
    record, measurement = scored.record, scored.record.measurement
    heading, *blocks = _blocks(scored)
    widgets.section(" ".join(heading.lines) if isinstance(heading, Paragraph) else run_name(record))
    widgets.small(f"record {record.id}")
    if measurement.phases:
        widgets.section("Memory, phase by phase")
        words = (
            "Counters at the end of each phase of each step of the memory pass, and the peak within"
            " each."
        )
        widgets.figure(charts.phase_samples(measurement.phases), f"{key}.phases", words)
    bars = _bars(scored)
    if bars:
        widgets.section("What the peak was made of")
        words = (
            "Stacked bars of the peak by category, predicted and measured; the table below has the"
            " numbers."
        )
        widgets.figure(charts.category_bars(bars), f"{key}.attribution", words)
    if measurement.step_seconds:
        widgets.section("Time of each step")
        counts = len(measurement.warmup_seconds), len(measurement.step_seconds)
        words = f"Times of {counts[0]} warm-up and {counts[1]} timed steps, with the median."
        widgets.figure(charts.step_times(measurement), f"{key}.steps", words)
    widgets.section("In numbers")
    widgets.blocks(blocks)
    with widgets.drawer("Machine and software", f"{key}.environment") as is_open:
        if is_open:
            widgets.blocks([environment_table(record.environment), conditions_table(record)])
    widgets.downloads(key, downloads.of_records([scored], markup.plain_name(record.id)))


def _blocks(scored: Scored) -> list[Block]:
    if scored.prediction is not None:
        found = result(scored.record, scored.prediction)
        return record_blocks(
            found.record,
            found.prediction,
            found.comparisons,
            found.speed,
            found.utilisation,
            found.timing,
        )
    name, reason = run_name(scored.record), scored.refusal or ""
    alone = alone_table(scored.record)
    return [
        Paragraph(lines=(name,), heading=True),
        Paragraph(lines=(f"Not predicted: {reason}",)),
        *([alone] if alone.rows else []),
    ]


def _bars(scored: Scored) -> list[CategoryBar]:
    """Predicted, as far as it is, and measured."""
    measured, prediction = scored.record.measurement.attribution_bytes, scored.prediction
    if not measured:
        return []
    bars = [CategoryBar(label="measured", bytes=measured)]
    if prediction is None or prediction.saved_activation_bytes is None:
        return bars
    return [CategoryBar(label="predicted", bytes=prediction.peak.bytes), *bars]


# --- what a record says about where it was made ---------------------------------------------------


def environment_table(environment: Environment) -> Table:
    """Device, machine, software and settings; only what is known has a row."""
    known = dict(_flat(asdict(environment)))
    rows = [
        Row(cells=(label, _text(path, known[path])))
        for path, label in labels.ENVIRONMENT_LABELS.items()
        if path in known
    ]
    rows += [
        Row(cells=(path.partition(".")[2], str(value)))
        for path, value in known.items()
        if path.startswith("packages.")
    ]
    rows += [
        Row(cells=(path.partition(".")[2], str(value)))
        for path, value in known.items()
        if path.startswith("variables.")
    ]
    return Table(title="Environment", columns=("", ""), rows=tuple(rows), left=2)


def conditions_table(record: Record) -> Table:
    """What the harness held fixed, when it ran, and what was typed."""
    held = {
        **asdict(record.conditions),
        "repeat": record.repeat,
        "started": record.started_at,
        "ended": record.ended_at,
    }
    if record.environment.command:
        held["command"] = record.environment.command
    rows = [
        Row(cells=(name.replace("_", " "), _text(name, value)))
        for name, value in held.items()
        if value is not None
    ]
    return Table(title="Conditions", columns=("", ""), rows=tuple(rows), left=2)


def _flat(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _flat(item, f"{prefix}{name}.")
        elif item is not None:
            yield f"{prefix}{name}", item


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return bytes_text(value) if name.endswith("_bytes") and isinstance(value, int) else str(value)
