"""Everything that a page says, as plain data: sections of paragraphs, tables and figures, and the
numbers for machines; and what stands on every page of records: where these come from, how far off
predictions of public measurements are, and what every word and number means."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lora_profiler.facts.evidence import interval
from lora_profiler.measuring.records.record import Environment, Record
from lora_profiler.planning.answers import Answer
from lora_profiler.question.workload import setup_dict
from lora_profiler.report import labels
from lora_profiler.report.answer.short_answer import sureness_words
from lora_profiler.report.answer.verdicts import remedy_lines, verdict_blocks
from lora_profiler.report.blocks import (
    Beside,
    Card,
    Fold,
    Part,
    Rows,
    Section,
    Table,
    cell_table,
    paragraph,
    sections,
)
from lora_profiler.report.charts.plot import shortened
from lora_profiler.report.evidence import (
    apart_lines,
    coverage_words,
    errors_table,
    interval_words,
    left_out_lines,
    missed_lines,
    sources_table,
)
from lora_profiler.report.json import SCHEMA_VERSION, picked
from lora_profiler.report.json.bench import MEASURED
from lora_profiler.report.json.predict import answer_dict
from lora_profiler.report.labels import method_label, way_label
from lora_profiler.report.measured import run_labels
from lora_profiler.report.measured.comparisons import counted, environment_lines, not_compared_lines
from lora_profiler.report.measured.measured_runs import ratio_of
from lora_profiler.report.page import accuracy
from lora_profiler.report.page.predicted import by_model, numbers_sections, predicted_sections
from lora_profiler.report.page.runs import (
    NumberedRun,
    failures_section,
    full_and_lora,
    groups_alike,
    numbered,
    run_cards,
    runs_section,
)
from lora_profiler.report.page.steps import composition_section, layers_section, steps_section
from lora_profiler.report.setup_words import asked_words, title_words
from lora_profiler.runs.comparison.errors import Comparison, Scored
from lora_profiler.units import bytes_text, change_text, count_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A page before any markup. `lines` stand below the title; `data` is `page_data` of
    the same records."""

    title: str
    lines: tuple[str, ...]
    cards: tuple[Card, ...]
    sections: tuple[Section, ...]
    data: dict[str, Any]


def report_content(
    scored: Sequence[Scored], predictions: Sequence[Answer] = (), title: str | None = None
) -> Content:
    """The page of these records and answers, in the order given; either may be empty.

    Everything is worked out from the arguments: the same ones make the same page at any time.
    """
    runs = numbered(scored)
    groups = groups_alike(runs)
    return Content(
        title=title or _title(scored, predictions),
        lines=(
            *question_lines(predictions),
            *environment_lines(s.record for s in scored),
            *not_compared_lines(scored),
        ),
        cards=(
            *answer_cards(predictions),
            *run_cards(runs),
            *pair_cards(groups),
            *accuracy.accuracy_cards(runs),
        ),
        sections=sections(  # figures, then tables
            *predicted_sections(predictions),
            accuracy.accuracy_section(runs),
            composition_section(runs),
            steps_section(runs, groups),
            layers_section(groups),
            accuracy.speed_section(runs, groups),
            *numbers_sections(predictions),
            accuracy.errors_section(runs),
            failures_section(runs),
            runs_section(runs),
            provenance_section(runs),
            public_section(),
            definitions_section(),
        ),
        data=page_data(runs, predictions),
    )


def _title(scored: Sequence[Scored], predictions: Sequence[Answer]) -> str:
    """'gpt2: predicted and measured', '137 runs of 18 models: predicted and measured'."""
    workloads = [s.record.workload for s in scored] + [a.prediction.workload for a in predictions]
    models = dict.fromkeys(workload.model.id for workload in workloads)
    what = "predicted and measured" if scored else "predicted"
    if not models:
        return "Nothing to report"
    if len(models) == 1:
        return f"{shortened(next(iter(models)))}: {what}"
    runs = f"{count_text(len(scored))} runs of " if scored else ""
    return f"{runs}{count_text(len(models))} models: {what}"


def question_lines(answers: Sequence[Answer]) -> Iterable[str]:
    for members in by_model(answers):
        predictions = [answer.prediction for answer in members]
        yield f"{title_words(predictions[0])}; {asked_words(predictions)[0]}."


def answer_cards(answers: Sequence[Answer]) -> Iterable[Card]:
    """A card for each method: its verdict and what would make it fit where a card was asked about,
    else its peak and the smallest card."""
    several = len(by_model(answers)) > 1
    for answer in answers:
        prediction = answer.prediction
        name = method_label(prediction)
        if several:
            name = f"{shortened(prediction.workload.model.id)}, {name}"
        peak = bytes_text(prediction.peak.total_bytes)
        known = prediction.is_whole
        if answer.gpu is None or answer.fit is None:
            cards = answer.smallest_cards if known and answer.gpu is None else ()
            least = [f"the smallest GPU: {cards[0].name}"] if cards else []
            note = "; ".join([*least, sureness_words(answer)])
            yield Card(f"{name} peaks at", peak if known else f"≥ {peak}", note=note)
            continue
        (verdict,) = verdict_blocks([answer])
        notes = [verdict.rest.strip(), *remedy_lines(answer), sureness_words(answer)]
        note = " ".join(f"{text.rstrip('.')}." for text in notes if text).replace("`", "")
        words = labels.VERDICT_LABELS[answer.fit.verdict]
        yield Card(f"{name} on {answer.gpu.name}", words, note=note)


def pair_cards(groups: Sequence[Sequence[NumberedRun]]) -> Iterable[Card]:
    """LoRA's peak and step time as measured, against those of the full fine-tuning that differs in
    nothing else; nothing where no such two were run."""
    pair = full_and_lora(groups)
    if not pair:
        return
    full, lora = pair
    name = way_label(lora.record.workload.setup)
    model = shortened(full.model)
    peak, whole = lora.measured_bytes or 0, full.measured_bytes or 0
    if whole:
        note = f"{model}: {bytes_text(peak)} against {bytes_text(whole)}"
        yield Card(f"Peak of {name} against full", change_text(peak / whole - 1), note=note)
    if ratio := ratio_of([full.record], [lora.record]):
        note = f"{model}: {ratio.ratio:.3f} of the time, {run_labels.ratio_interval(ratio)}"
        yield Card(f"Step of {name} against full", change_text(ratio.ratio - 1), note=note)


def page_data(runs: Sequence[NumberedRun], answers: Sequence[Answer]) -> dict[str, Any]:
    """{"schema_version", "records": {name: [...]}, "comparisons": [...], "refusals": [...],
    "predictions": [...]}.

    `records` has a list for each field, with one value a record. Each of `comparisons` is one
    metric and category of an engine: `measured` has one value a record too, null where nothing was
    compared, and so has `difference`, which is predicted - measured; relative_error is difference /
    measured. `predictions` are those of `predict --format json`.
    """
    columns: dict[tuple[str, str, str], dict[int, Comparison]] = {}
    for number, run in enumerate(runs):
        for c in run.scored.comparisons:
            columns.setdefault((c.metric, c.category, c.engine), {})[number] = c
    compared = [dict(zip(("metric", "category", "engine"), key, strict=True)) for key in columns]
    sides = [[found.get(number) for number in range(len(runs))] for found in columns.values()]
    rows = [_row(run) for run in runs]
    return {
        "schema_version": SCHEMA_VERSION,
        "records": {name: [row[name] for row in rows] for name in (rows[0] if rows else ())},
        "comparisons": [
            {
                **what,
                "measured": [c.measured if c else None for c in found],
                "difference": [c.predicted - c.measured if c else None for c in found],
            }
            for what, found in zip(compared, sides, strict=True)
        ],
        "refusals": [
            {"record_id": run.record_id, "reason": run.scored.refusal}
            for run in runs
            if run.scored.refusal is not None
        ],
        "predictions": [answer_dict(answer) for answer in answers],
    }


def _row(run: NumberedRun) -> dict[str, Any]:
    record = run.record
    measured = record.measurement
    return {
        "record_id": run.record_id,
        "model": record.workload.model.id,
        "model_type": record.workload.model.model_type,
        **setup_dict(record.workload.setup),
        "device_name": record.environment.device.name,
        "status": measured.status,
        "flags": list(measured.flags),
        "reason": measured.failure.reason if measured.failure else None,
        **picked(measured, f"{MEASURED} saved_activation_bytes"),
        "timed_steps": len(measured.step_seconds),
        "median_step_seconds": run.speed.steps.median if run.speed else None,
    }


MOST_ENVIRONMENTS = 12
"""Columns of the table would be unreadable beyond; the rest is counted."""
MOST_COMMANDS = 100


def provenance_section(runs: Sequence[NumberedRun]) -> Section | None:
    """Environments as they were recorded, the commands, and when the runs were made."""
    records = [run.record for run in runs]
    if not records:
        return None
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(record.environment.key, []).append(record)
    shown = list(groups.values())[:MOST_ENVIRONMENTS]
    parts: list[Part] = [paragraph(*_provenance_lines(records, len(groups), len(shown)))]
    tables = []
    for number, members in enumerate(shown, 1):
        of = f"{count_text(len(members))} run{'s' if len(members) > 1 else ''}"
        title = f"Set-up {number}: {members[0].environment.device.name}, {of}"
        tables.append(environment_table(title, members))
    parts.append(Fold("Every set-up", (Beside(tuple(tables)),)))
    commands = list(dict.fromkeys(r.environment.command for r in records if r.environment.command))
    if commands:
        given = ((command,) for command in commands[:MOST_COMMANDS])
        table = cell_table(("command",), given, title="As they were given")
        title = f"{counted(len(commands), 'command')} that made the records"
        parts.append(Fold(title, (table,)))
    return Section("provenance", "Environment and provenance", tuple(parts))


def _provenance_lines(records: Sequence[Record], count: int, shown: int) -> list[str]:
    started = sorted(r.started_at for r in records if r.started_at)
    setups = f"{counted(count, 'set-up')} of machine and software"
    lines = [f"{counted(len(records), 'run')} in {setups}."]
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
    for fact in facts.items():
        found.add(*fact, indent=0)
    for name, several in (("packages", first.packages), ("settings", first.variables)):
        if several or name == "packages":
            found.section(name)
        for item in sorted(several.items()):
            found.add(*item)
    return found.table("", "", title=title, left=2)


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


NOT_RECORDED = "-"


def fact_text(path: str, value: Any) -> str:
    if value is None or value == []:
        return NOT_RECORDED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if path.endswith("_bytes") and isinstance(value, int):
        return bytes_text(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _listed(field: str, members: Sequence[Record]) -> dict[str, str]:
    values = list(dict.fromkeys(v for r in members if (v := getattr(r.environment, field))))
    return {run_labels.ENVIRONMENT_LABELS[field]: ", ".join(values)} if values else {}


def definitions_section() -> Section:
    """Every metric, category, moment, phase, status and flag."""
    flags = {name: name.replace("_", " ") for name in run_labels.FLAG_DEFINITIONS}
    words = (
        ("Numbers", run_labels.METRIC_LABELS, run_labels.METRIC_DEFINITIONS),
        ("Categories of memory", labels.CATEGORY_LABELS, labels.CATEGORY_DEFINITIONS),
        ("Moments of a step, as predicted", labels.MOMENT_LABELS, labels.MOMENT_DEFINITIONS),
        ("How runs end", run_labels.STATUS_LABELS, run_labels.STATUS_DEFINITIONS),
        ("Verdicts on a GPU", labels.VERDICT_LABELS, labels.VERDICT_DEFINITIONS),
        ("Flags of a run", flags, run_labels.FLAG_DEFINITIONS),
    )
    tables = []
    for title, names, meanings in words:
        rows = ((label, meanings[name]) for name, label in names.items())
        tables.append(cell_table(("", "meaning"), rows, title=title, left=2))
    lines = (
        f"{run_labels.ERROR_DEFINITION}. Bytes are binary: 1 GiB = 1,024 MiB.",
        *run_labels.MFU_DEFINITIONS,
        run_labels.ENERGY_CAVEAT,
    )
    parts = (paragraph(*lines), Fold("Every word", tuple(tables)))
    return Section("definitions", "Definitions", parts)


# --- public measurements --------------------------------------------------------------------------

_PUBLIC = (
    "Published measurements, predicted. Memory: with the libraries and kernels of each row, nothing"
    " fitted. Steps: with constants fitted without their model or GPU. The dashboard's page"
    " Evidence has every row with its address."
)


def public_section() -> Section:
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
