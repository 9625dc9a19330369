"""What stands on every page of records: where these come from, how far off predictions of public
measurements are, and what every word and number means."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lora_profiler.evidence import interval
from lora_profiler.records.environment import Environment
from lora_profiler.records.record import Record
from lora_profiler.report import labels
from lora_profiler.report.blocks import Row, Rows, Table, paragraph
from lora_profiler.report.evidence import (
    apart_lines,
    coverage_words,
    errors_table,
    interval_words,
    left_out_lines,
    missed_lines,
    sources_table,
)
from lora_profiler.report.measured import run_labels
from lora_profiler.report.measured.comparisons import counted
from lora_profiler.report.page.runs import Run
from lora_profiler.report.parts import Beside, Fold, Part, Section
from lora_profiler.units import bytes_text, count_text

MOST_ENVIRONMENTS = 12
"""Columns of the table would be unreadable beyond; the rest is counted."""
MOST_COMMANDS = 100


def provenance_section(runs: Sequence[Run]) -> Section | None:
    """Environments as they were recorded, the commands, and when the runs were made."""
    records = [run.record for run in runs]
    if not records:
        return None
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.environment.key, []).append(record)
    shown = list(groups.values())[:MOST_ENVIRONMENTS]
    parts: list[Part] = [paragraph(*_lines(records, len(groups), len(shown)))]
    tables = []
    for number, members in enumerate(shown, 1):
        of = f"{count_text(len(members))} run{'s' if len(members) > 1 else ''}"
        title = f"Set-up {number}: {members[0].environment.device.name}, {of}"
        tables.append(environment_table(title, members))
    parts.append(Fold("Every set-up", (Beside(tuple(tables)),)))
    commands = list(dict.fromkeys(r.environment.command for r in records if r.environment.command))
    if commands:
        rows = tuple(Row(cells=(command,)) for command in commands[:MOST_COMMANDS])
        table = Table(title="As they were given", columns=("command",), rows=rows)
        title = f"{counted(len(commands), 'command')} that made the records"
        parts.append(Fold(title, (table,)))
    return Section("provenance", "Environment and provenance", tuple(parts))


def _lines(records: Sequence[Record], count: int, shown: int) -> list[str]:
    started = sorted(r.started_at for r in records if r.started_at)
    lines = [
        f"{counted(len(records), 'run')} in {counted(count, 'set-up')} of machine and software."
    ]
    if started:
        lines.append(f"Made from {started[0]} to {started[-1]}.")
    if shown < count:
        lines.append(f"Described are {shown} of them.")
    flags = {flag for r in records for flag in r.measurement.flags}
    lines += [
        f"Flagged: {flag.replace('_', ' ')}, {run_labels.FLAG_DEFINITIONS[flag]}."
        for flag in sorted(flags)
    ]
    return lines


def environment_table(title: str, members: Sequence[Record]) -> Table:
    """A set-up: device, machine, packages, settings; all commits and allocators of its records."""
    first = members[0].environment
    facts = {**_facts(first), **_listed("commit", members), **_listed("allocator", members)}
    found = Rows()
    for name, several in (("packages", first.packages), ("settings", first.variables)):
        if several or name == "packages":
            found.section(name)
        for item in sorted(several.items()):
            found.add(*item)
    rows = (*(Row(cells=cells) for cells in facts.items()), *found.rows)
    return Table(title=title, columns=("", ""), rows=rows, left=2)


def _facts(environment: Environment) -> dict[str, str]:
    document: Mapping[str, Any] = asdict(environment)
    facts = {}
    for path, label in run_labels.ENVIRONMENT_LABELS.items():
        value: Any = document
        for name in path.split("."):
            value = value.get(name)
        if value is not None and path not in ("commit", "allocator"):
            facts[label] = fact_text(path, value)
    return facts


def fact_text(path: str, value: Any) -> str:
    """One value of an environment or of conditions; `path` is the name of its field."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if path.endswith("_bytes") and isinstance(value, int):
        return bytes_text(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _listed(field: str, members: Sequence[Record]) -> dict[str, str]:
    values = list(dict.fromkeys(v for r in members if (v := getattr(r.environment, field))))
    return {run_labels.ENVIRONMENT_LABELS[field]: ", ".join(values)} if values else {}


def definitions_section() -> Section:
    """Every metric, category, moment, phase, status and flag."""
    tables = (
        _table("Numbers", run_labels.METRIC_LABELS, run_labels.METRIC_DEFINITIONS),
        _table("Categories of memory", labels.CATEGORY_LABELS, labels.CATEGORY_DEFINITIONS),
        _table("Moments of a step, as predicted", labels.MOMENT_LABELS, labels.MOMENT_DEFINITIONS),
        _table("How runs end", run_labels.STATUS_LABELS, run_labels.STATUS_DEFINITIONS),
        _table("Verdicts on a card", labels.VERDICT_LABELS, labels.VERDICT_DEFINITIONS),
        _table(
            "Flags of a run",
            {name: name.replace("_", " ") for name in run_labels.FLAG_DEFINITIONS},
            run_labels.FLAG_DEFINITIONS,
        ),
    )
    lines = (
        f"{run_labels.ERROR_DEFINITION}. Bytes are binary: 1 GiB = 1,024 MiB.",
        *run_labels.MFU_DEFINITIONS,
        run_labels.ENERGY_CAVEAT,
    )
    return Section("definitions", "Definitions", (paragraph(*lines), Fold("Every word", tables)))


def _table(title: str, names: Mapping[str, str], meanings: Mapping[str, str]) -> Table:
    rows = (Row(cells=(label, meanings[name])) for name, label in names.items())
    return Table(title=title, columns=("", "meaning"), rows=tuple(rows), left=2)


# --- public measurements --------------------------------------------------------------------------

_PUBLIC = (
    "What others measured and published, predicted: memory with the libraries and kernels of each"
    " row replayed, and nothing fitted; steps by constants that never saw their model or card. The"
    " dashboard's page Evidence has every row with its address."
)


def public_section() -> Section:
    """Errors by kind and source, a peak's interval, what was missed, set apart, left out."""
    peak_interval = interval()
    return Section(
        "public",
        "Public measurements",
        (
            paragraph(_PUBLIC, f"{interval_words(peak_interval)}.", coverage_words(peak_interval)),
            errors_table(),
            Fold("By source", (sources_table(),)),
            Fold("Misses, and what is known of them", (paragraph(*missed_lines()),)),
            Fold("Predicted, but no test", (paragraph(*apart_lines()),)),
            Fold(
                "What no question here says",
                (paragraph(*left_out_lines("memory")), paragraph(*left_out_lines("steps"))),
            ),
        ),
    )
