"""What `bench --rehearse` shows: each record of a pretended card beside its prediction. Nothing
here is called measured."""

from collections.abc import Sequence

from lora_profiler.campaign.results import Result
from lora_profiler.comparison.errors import counted, counted_peak
from lora_profiler.prediction import CATEGORIES
from lora_profiler.report import labels
from lora_profiler.report.blocks import Block, Row, Table, heading, paragraph
from lora_profiler.report.labels import method_label
from lora_profiler.report.measured import run_labels
from lora_profiler.report.measured.measurements import NAMED_PACKAGES
from lora_profiler.units import bytes_text, count_text


def rehearsed_blocks(results: Sequence[Result]) -> list[Block]:
    blocks = [block for result in results for block in _of_one(result)]
    limits = dict.fromkeys(limit for r in results for limit in r.record.environment.limits)
    return [*blocks, paragraph(*limits)]


def _of_one(result: Result) -> list[Block]:
    record, m = result.record, result.record.measurement
    label = method_label(result.prediction)
    status = run_labels.status_label(record)
    blocks: list[Block] = [
        heading(f"{record.workload.model.id}, {label}: {status}"),
        paragraph(_ran_on(result)),
    ]
    if m.failure is not None:
        phase = m.failure.phase or ""
        where = f"In {run_labels.PHASE_LABELS.get(phase, phase)}: " if phase else ""
        blocks.append(paragraph(f"{where}{m.failure.reason}"))
    return [*blocks, _bytes_beside(result)] if m.went_through else blocks


def _ran_on(result: Result) -> str:
    environment = result.record.environment
    packages = (
        f"{name} {environment.packages[name]}"
        for name in NAMED_PACKAGES
        if name in environment.packages
    )
    return f"{environment.device.name}: {', '.join(packages)}."


def _bytes_beside(result: Result) -> Table:
    """The steady peak by category, and the peaks of the allocator, beside what is predicted."""
    m, prediction = result.record.measurement, result.prediction
    rehearsed = m.attribution_bytes
    predicted = counted(prediction.workload, prediction.peak.bytes)
    rows = [
        _row(labels.CATEGORY_LABELS[name], rehearsed.get(name, 0), predicted.get(name, 0))
        for name in CATEGORIES
        if rehearsed.get(name) or predicted.get(name)
    ]
    memory = prediction.device_memory
    peaks = (
        ("requested peak", m.peak_requested_bytes, counted_peak(prediction)),
        ("allocated peak", m.peak_allocated_bytes, memory.allocated_bytes if memory else None),
        ("reserved peak", m.peak_reserved_bytes, memory.reserved_bytes if memory else None),
    )
    totals = [_row(name, size, other) for name, size, other in peaks if size is not None]
    return Table(
        title=f"the peak, and the prediction beside it ({prediction.exactness})",
        columns=("bytes", "rehearsed", "predicted", "difference", ""),
        rows=(*rows, *(Row(cells=row.cells, kind="total") for row in totals)),
    )


def _row(name: str, rehearsed: int, predicted: int | None) -> Row:
    if predicted is None:
        return Row(cells=(name, count_text(rehearsed), "-", "-", bytes_text(rehearsed)))
    difference = predicted - rehearsed
    text = f"{difference:+,}" if difference else "equal"
    cells = (name, count_text(rehearsed), count_text(predicted), text, bytes_text(rehearsed))
    return Row(cells=cells)
