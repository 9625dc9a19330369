"""What `bench` shows at the end: a few records in full, many as a table with their errors together,
and what a search proved."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lora_profiler.campaign.batch_search import LargestBatch
from lora_profiler.campaign.results import Result
from lora_profiler.comparison.paired_runs import full_against_lora
from lora_profiler.errors import UsageError
from lora_profiler.records.record import Record
from lora_profiler.report.blocks import Block, Table, heading, paragraph
from lora_profiler.report.labels import method_label
from lora_profiler.report.measured import run_labels
from lora_profiler.report.measured.measured_runs import error_summary, summary_table
from lora_profiler.report.measured.measurements import environment_line, record_blocks
from lora_profiler.report.measured.speed import ratio_line
from lora_profiler.units import bytes_text, count_text

IN_FULL = 3
"""So many records are shown one by one; of more, a row each."""


def bench_blocks(results: Sequence[Result]) -> list[Block]:
    """The records of one command, in their order."""
    if len(results) > IN_FULL:
        return _many(results)
    blocks: list[Block] = []
    for r in results:
        blocks += record_blocks(
            r.record, r.prediction, r.comparisons, r.speed, r.utilisation, r.timing
        )
    ratios = ratio_lines(results)
    return [*blocks, heading("Full against LoRA"), paragraph(*ratios)] if ratios else blocks


def _many(results: Sequence[Result]) -> list[Block]:
    blocks: list[Block] = [
        heading(f"{len(results)} records"),
        paragraph(*dict.fromkeys(environment_line(r.record.environment) for r in results)),
        _numbered(summary_table([(r.record, r.prediction) for r in results])),
    ]
    failures = [line for number, r in enumerate(results, 1) for line in _failure_lines(number, r)]
    if failures:
        blocks.append(paragraph(*failures))
    comparisons = [c for r in results for c in r.comparisons]
    if comparisons:
        numbers = {r.record.id: f"#{number}" for number, r in enumerate(results, 1)}
        blocks += [
            error_summary(comparisons, numbers),
            paragraph(f"{run_labels.ERROR_DEFINITION}."),
        ]
    return blocks


def _numbered(table: Table) -> Table:
    rows = tuple(
        replace(row, cells=(f"#{number}", *row.cells)) for number, row in enumerate(table.rows, 1)
    )
    return replace(table, columns=("", *table.columns), rows=rows, left=table.left + 1)


def _failure_lines(number: int, r: Result) -> list[str]:
    measurement = r.record.measurement
    if measurement.went_through or measurement.failure is None:
        return []
    failure = measurement.failure
    phase = failure.phase
    where = f", in {run_labels.PHASE_LABELS.get(phase, phase)}" if phase else ""
    return [f"! #{number}, {run_labels.STATUS_LABELS[measurement.status]}{where}: {failure.reason}"]


def ratio_lines(results: Sequence[Result]) -> list[str]:
    """The step times of each LoRA against those of full fine-tuning that is alike in all else, runs
    of one case together."""
    by_case: dict[str, list[Result]] = {}
    for r in results:
        if r.speed is not None:
            by_case.setdefault(r.record.case_key, []).append(r)
    groups = list(by_case.values())
    full = {r[0].record.workload: r for r in groups if r[0].record.workload.setup.lora is None}
    lines = []
    for lora in groups:
        workload = lora[0].record.workload
        base = full.get(
            replace(workload, setup=replace(workload.setup, lora=None, quantization=None))
        )
        if workload.setup.lora is not None and base is not None:
            lines += _ratio_line(base, lora)
    return lines


def _ratio_line(base: Sequence[Result], lora: Sequence[Result]) -> list[str]:
    try:
        ratio = full_against_lora([r.record for r in base], [r.record for r in lora])
    except UsageError:  # they were not measured under the same conditions, which their records say
        return []
    model = lora[0].record.workload.model.id
    full, other = (method_label(found[0].prediction) for found in (base, lora))
    return [f"{model}: {ratio_line(full, other, ratio)}"]


# --- batch searches -------------------------------------------------------------------------------


def search_blocks(found: Sequence[LargestBatch], probes: Mapping[str, Result]) -> list[Block]:
    """Each search: what it proved, and a row for each probe. `probes` are all results by record
    id."""
    blocks: list[Block] = []
    for each in found:
        results = [probes[record.id] for record in each.records]
        blocks += [
            heading(search_title(results[0])),
            summary_table([(r.record, r.prediction) for r in results]),
            paragraph(*search_lines(each)),
        ]
    return blocks


def search_title(probe: Result) -> str:
    """'gpt2, LoRA r16: the largest batch of 128 tokens'."""
    workload = probe.record.workload
    tokens = count_text(workload.setup.seq_len)
    return (
        f"{workload.model.id}, {method_label(probe.prediction)}: the largest batch of {tokens}"
        " tokens"
    )


def search_lines(found: LargestBatch) -> list[str]:
    """What is proven, what was predicted, and what a doubt is."""
    within = _memory_text(found.records[0])
    size = count_text(found.batch_size)
    if found.batch_size:
        larger = [
            r.workload.setup.batch_size
            for r in found.records
            if r.workload.setup.batch_size > found.batch_size
        ]
        failed = f", and {count_text(min(larger))} did not fit" if larger else ""
        lines = [
            f"{size} is the largest batch within {within}: it trained in two processes{failed}."
        ]
    else:
        lines = [f"Not even one sequence trains within {within}."]
    if found.predicted is not None:
        lines.append(f"Predicted: {count_text(found.predicted)}.")
    if not found.monotone:
        lines.append(
            f"! A larger batch, {count_text(found.upper)}, trained although a smaller one had not:"
            f" the truth lies between {size} and {count_text(found.upper)}."
        )
    if found.emulated:
        lines.append("The memory was emulated by --budget.")
    return lines


def _memory_text(record: Record) -> str:
    device = record.environment.device
    size = record.conditions.budget_bytes or device.total_bytes
    return f"{bytes_text(size)} of {device.name}" if size else device.name
