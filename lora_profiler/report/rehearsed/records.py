"""What `bench --rehearse` shows: each record of a pretended card beside its prediction. Nothing
here is called measured."""

from collections.abc import Sequence

from lora_profiler.comparison.errors import counted, counted_peak
from lora_profiler.comparison.scored import Result
from lora_profiler.prediction import CATEGORIES
from lora_profiler.report import labels
from lora_profiler.report.blocks import Block, Row, RowKind, Table, heading, paragraph
from lora_profiler.report.labels import method_label
from lora_profiler.report.measured import run_labels
from lora_profiler.report.measured.measurements import package_words
from lora_profiler.units import bytes_text, count_text


def rehearsed_blocks(results: Sequence[Result]) -> list[Block]:
    blocks = [block for result in results for block in _of_one(result)]
    limits = dict.fromkeys(limit for r in results for limit in r.record.environment.limits)
    return [*blocks, paragraph(*limits)]


def _of_one(result: Result) -> list[Block]:
    record, m = result.record, result.record.measurement
    environment = record.environment
    label = method_label(result.prediction)
    status = run_labels.status_label(record)
    blocks: list[Block] = [
        heading(f"{record.workload.model.id}, {label}: {status}"),
        paragraph(f"{environment.device.name}: {', '.join(package_words(environment))}."),
    ]
    if m.failure is not None:
        phase = m.failure.phase or ""
        where = f"In {run_labels.PHASE_LABELS.get(phase, phase)}: " if phase else ""
        blocks.append(paragraph(f"{where}{m.failure.reason}"))
    return [*blocks, _bytes_beside(result)] if m.went_through else blocks


def _bytes_beside(result: Result) -> Table:
    """The steady peak by category, and the peaks of the allocator, beside what is predicted."""
    m, prediction = result.record.measurement, result.prediction
    rehearsed = m.attribution_bytes
    predicted = counted(prediction.workload, prediction.peak.bytes)
    rows = [
        beside(labels.CATEGORY_LABELS[name], size, predicted.get(name, 0), bytes_text(size))
        for name in CATEGORIES
        for size in [rehearsed.get(name, 0)]
        if size or predicted.get(name)
    ]
    memory = prediction.device_memory
    peaks = (
        ("requested peak", m.peak_requested_bytes, counted_peak(prediction)),
        ("allocated peak", m.peak_allocated_bytes, memory.allocated_bytes if memory else None),
        ("reserved peak", m.peak_reserved_bytes, memory.reserved_bytes if memory else None),
    )
    rows += [
        beside(name, size, other, bytes_text(size), kind="total")
        for name, size, other in peaks
        if size is not None
    ]
    return Table(
        title=f"the peak, and the prediction beside it ({prediction.exactness})",
        columns=("bytes", "rehearsed", "predicted", "difference", ""),
        rows=tuple(rows),
    )


def beside(
    name: str, rehearsed: int, predicted: int | None, *more: str, kind: RowKind = "plain"
) -> Row:
    """What was rehearsed, what is predicted, and the difference."""
    if predicted is None:
        return Row(cells=(name, count_text(rehearsed), "-", "-", *more), kind=kind)
    difference = predicted - rehearsed
    text = f"{difference:+,}" if difference else "equal"
    cells = (name, count_text(rehearsed), count_text(predicted), text, *more)
    return Row(cells=cells, kind=kind)
