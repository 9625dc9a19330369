"""Many records: a row for each run, live or at the end, the errors of all of them by metric and
category, and what `bench` shows of them in the end."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from lora_profiler import units
from lora_profiler.errors import UsageError
from lora_profiler.measuring.records.record import Record
from lora_profiler.memory.prediction import Prediction
from lora_profiler.report.blocks import (
    Block,
    Sign,
    Table,
    VerdictLine,
    advice,
    cell_table,
    dim,
    filled,
    paragraph,
    with_words_last,
)
from lora_profiler.report.labels import capital, method_label, way_label
from lora_profiler.report.measured import run_labels
from lora_profiler.report.measured.comparisons import errors_table
from lora_profiler.report.measured.measurements import distinctions, environment_line, record_blocks
from lora_profiler.report.measured.run_labels import ratio_line
from lora_profiler.runs.campaign.batch_search import LargestBatch
from lora_profiler.runs.comparison.errors import Result, compare, counted_peak
from lora_profiler.runs.comparison.throughput import Ratio, full_against_lora, throughput

COMPARED_PEAK = "peak_requested_bytes"


def run_texts(record: Record, prediction: Prediction) -> tuple[str, str, str, str, str, str]:
    """Of one run its status, its peak, the predicted one, the error, time of a step, tokens/s."""
    measured = record.measurement.peak_requested_bytes
    errors = (c.relative_error for c in compare(record, prediction) if c.metric == COMPARED_PEAK)
    error = next(errors, None)
    speed = throughput(record)
    tokens = speed.tokens_per_second if speed else None
    at_least = "" if record.measurement.went_through else ">= "
    lower = "" if prediction.is_whole else ">= "
    return (
        run_labels.status_label(record),
        at_least + units.bytes_text(measured) if measured is not None else "",
        lower + units.bytes_text(counted_peak(prediction)),
        units.error_text(error) if error is not None else "",
        units.seconds_text(speed.steps.median) if speed else "",
        units.rate_text(tokens) if tokens is not None else "",
    )


# --- what bench shows at the end ------------------------------------------------------------------


def bench_blocks(results: Sequence[Result], *, detail: bool = False) -> list[Block]:
    """The records of one command: how far predicted peaks were off, a row for each run, what went
    wrong; with `detail` everything about each."""
    if not results:
        return []
    todo = dict.fromkeys(filter(None, (run_labels.advice(r.record) for r in results)))
    blocks: list[Block] = [_verdict(results)]
    blocks += (advice(f"Try {words}.") for words in todo)
    blocks.append(peaks_table(results))
    if lines := [*_warnings(results), *ratio_lines(results)]:
        blocks.append(paragraph(*lines))
    about = dict.fromkeys(environment_line(r.record.environment) for r in results)
    if not detail:
        more = "Every part, phase and time: --detail. As a page: --report FILE"
        return [*blocks, dim(*about, more)]
    blocks += [block for r in results for block in record_blocks(r)]
    comparisons = [c for r in results for c in r.comparisons]
    if len(results) > 1 and comparisons:
        records = {r.record.id: r.record for r in results}
        blocks.append(errors_table(comparisons, ("category",), records))
    return [*blocks, dim(*about, f"{run_labels.ERROR_DEFINITION}.")]


def _verdict(results: Sequence[Result]) -> VerdictLine:
    """'Predicted peaks are right: full equal to the byte, LoRA r16 within 0.01 %.'"""
    ended = Counter(
        run_labels.STATUS_LABELS[r.record.measurement.status]
        for r in results
        if not r.record.measurement.went_through
    )
    if ended:
        (first, count), *others = ended.items()
        how = ", ".join([f"{count} {first}", *(f"{n} {label}" for label, n in others)])
        how = how if others else first
        words = f"{sum(ended.values())} of {len(results)} runs did not finish:"
        sign: Sign = "does_not_fit" if sum(ended.values()) == len(results) else "tight"
        return VerdictLine(sign=sign, words=words, rest=f" {how}.")
    errors: dict[str, float] = {}
    for r in results:
        error = next((c.relative_error for c in r.comparisons if c.metric == COMPARED_PEAK), None)
        if error is not None and abs(error) >= abs(errors.get(method_label(r.prediction), 0.0)):
            errors[method_label(r.prediction)] = error
    if not errors:
        return VerdictLine(sign="tight", words="Measured, without a prediction to compare with.")
    is_right = all(abs(error) <= 0.01 for error in errors.values())
    are = "Predicted peaks are" if len(results) > 1 else "The predicted peak is"
    if not any(errors.values()):
        rest = " equal to the byte."
    else:
        parts = (f"{name} {_off(error)}" for name, error in errors.items())
        rest = f" {', '.join(parts)}."
    words = f"{are} {'right' if is_right else 'off'}:"
    return VerdictLine(sign="fits" if is_right else "tight", words=words, rest=rest)


def _off(error: float) -> str:
    """'equal to the byte', 'within 0.01 %', '12 % too low'."""
    if not error:
        return "equal to the byte"
    if abs(error) <= 0.01:
        return f"within {math.ceil(10_000 * abs(error)) / 100:g} %"
    return f"{100 * abs(error):.0f} % too {'low' if error < 0 else 'high'}"


def peaks_table(results: Sequence[Result]) -> Table:
    """A row for each run: its peak, predicted and measured in one unit, the phase that it is in,
    and how fast it went."""
    measured = [r.record.measurement for r in results]
    peaks = [counted_peak(r.prediction) for r in results]
    unit, size = units.byte_unit(max([*peaks, *(m.peak_requested_bytes or 0 for m in measured)]))
    names = {r.record.workload.model.id for r in results}
    words = distinctions([r.record.workload for r in results])
    rows = []
    for r, m, what, peak in zip(results, measured, words, peaks, strict=True):
        status, *_, error, step, tokens = run_texts(r.record, r.prediction)
        model = r.record.workload.model.id.rpartition("/")[2] if len(names) > 1 else ""
        least = "" if m.went_through else "≥ "
        found = m.peak_requested_bytes
        cells = (
            capital(method_label(r.prediction)),
            model,
            what,
            f"{'' if r.prediction.is_whole else '≥ '}{units.in_unit(peak, size)}",
            "" if found is None else f"{least}{units.in_unit(found, size)}",
            *(error, step, tokens),
            status if status != "ok" else "",
            run_labels.PHASE_LABELS[m.peak_phase] if m.peak_phase else "",
        )
        rows.append(cells)
    heads = ("predicted", "measured", "error", "step", "tokens", "", "peak in")
    columns = (f"Peak, {unit}", "model", "setup", *heads)
    return with_words_last(filled(cell_table(columns, rows, left=3)))


def _warnings(results: Sequence[Result]) -> Iterator[str]:
    """What makes numbers doubtful, each once, and why runs ended early."""
    flags: dict[str, None] = {}
    for r in results:
        late = ["host_bound"] if r.speed and r.speed.host_bound else []
        flags |= dict.fromkeys([*r.record.measurement.flags, *late])
        failure = r.record.measurement.failure
        if failure is not None and not r.record.measurement.went_through:
            phase = failure.phase or ""
            where = f" in {run_labels.phase_label(phase)}" if phase else ""
            status = run_labels.STATUS_LABELS[r.record.measurement.status]
            yield f"✗ {capital(method_label(r.prediction))}, {status}{where}: {failure.reason}"
    for flag in flags:
        yield f"! {capital(run_labels.FLAG_DEFINITIONS[flag])}."


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
        whole = replace(workload.setup, lora=None, quantization=None)
        base = full.get(replace(workload, setup=whole))
        if workload.setup.lora is not None and base is not None:
            ratio = ratio_of([r.record for r in base], [r.record for r in lora])
            if ratio:
                one, other = (way_label(r[0].record.workload.setup) for r in (base, lora))
                lines.append(f"{workload.model.id}: {ratio_line(one, other, ratio)}")
    return lines


def ratio_of(full: Sequence[Record], lora: Sequence[Record]) -> Ratio | None:
    """None where they were not measured under the same conditions, which their records say."""
    try:
        return full_against_lora(full, lora)
    except UsageError:
        return None


# --- batch searches -------------------------------------------------------------------------------


def search_blocks(found: Sequence[LargestBatch], probes: Mapping[str, Result]) -> list[Block]:
    """Each search: what it proved, and a row for each probe. `probes` are all results by record
    id."""
    blocks: list[Block] = []
    for each in found:
        results = [probes[record.id] for record in each.records]
        workload = results[0].record.workload
        first, *rest = search_lines(each)
        name = f"{workload.model.id}, {method_label(results[0].prediction)}"
        tokens = f"{units.count_text(workload.setup.seq_len)} tokens"
        words = f"{name}: {first if each.batch_size else 'no batch trains.'}"
        blocks += [
            VerdictLine(sign="fits" if each.batch_size else "does_not_fit", words=words),
            *([] if each.batch_size else [paragraph(first)]),
            peaks_table(results),
            dim(f"Batches of {tokens}.", *rest),
        ]
    return blocks


def search_lines(found: LargestBatch) -> list[str]:
    """What is proven, what was predicted, and what a doubt is."""
    device = found.records[0].environment.device
    memory = found.records[0].conditions.budget_bytes or device.total_bytes
    within = f"{units.bytes_text(memory)} of {device.name}" if memory else device.name
    size = units.count_text(found.batch_size)
    lines = [f"Not even one sequence trains within {within}."]
    if found.batch_size:
        sizes = (record.workload.setup.batch_size for record in found.records)
        larger = [other for other in sizes if other > found.batch_size]
        failed = f", and {units.count_text(min(larger))} did not fit" if larger else ""
        trained = f"it trained in two processes{failed}"
        lines = [f"{size} is the largest batch within {within}; {trained}."]
    if found.predicted is not None:
        lines.append(f"Predicted: {units.count_text(found.predicted)}.")
    if not found.monotone:
        upper = units.count_text(found.upper)
        doubt = f"trained although a smaller one had not: the truth lies between {size} and {upper}"
        lines.append(f"! A larger batch, {upper}, {doubt}.")
    if found.emulated:
        lines.append("The memory was emulated by --budget.")
    return lines
