"""Where one way overtakes another, drawn at one batch."""

from lora_profiler.catalog import Gpu
from lora_profiler.planning.crossover import Crossover
from lora_profiler.report import charts
from lora_profiler.report.charts import Limit, MethodLine
from lora_profiler.report.decision.crossover import sentences
from lora_profiler.report.labels import way_label
from lora_profiler.report.page.parts import Drawing
from lora_profiler.units import count_text


def crossover_drawing(
    name: str, found: Crossover, batch_size: int, gpu: Gpu | None = None
) -> Drawing | None:
    """Peaks over lengths at `batch_size`, one of those asked about, below what `gpu` has; None
    where none is known."""
    at = [point for point in found.points if point.batch_size == batch_size]
    lines = [
        MethodLine(
            method=way.setup.method,
            name=way_label(way.setup),
            peak_bytes={
                point.seq_len: point.peak_bytes[way.setup.method]
                for point in at
                if way.setup.method in point.peak_bytes
            },
        )
        for way in found.workloads
    ]
    known = [line for line in lines if line.peak_bytes]
    if not known:
        return None
    ends = sorted(
        {
            end
            for crossing in found.crossings
            if (crossing.quantity, crossing.batch_size) == ("memory", batch_size)
            for end in (crossing.first, crossing.last)
            if end is not None
        }
    )
    limit = Limit(label=gpu.name, bytes=gpu.usable_bytes) if gpu and gpu.usable_bytes else None
    return Drawing(
        name=name,
        caption=f"The peak of each method over the length, at batch {count_text(batch_size)}.",
        description=" ".join(sentences(found)),
        figure=charts.crossover_lines(known, ends, limit),
    )
