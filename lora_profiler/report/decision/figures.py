"""A plan and a crossover, drawn."""

from lora_profiler.catalog import Gpu
from lora_profiler.planning.crossover import Crossover
from lora_profiler.planning.plan import TrainingPlan
from lora_profiler.planning.planned import cost_of, hours_of
from lora_profiler.report.charts.dots import FrontPoint, plan_front
from lora_profiler.report.charts.lines import MethodLine, crossover_lines
from lora_profiler.report.charts.plot import Limit
from lora_profiler.report.decision.crossover import sentences
from lora_profiler.report.decision.plan_words import layout_words, price_words, run_words
from lora_profiler.report.labels import way_label
from lora_profiler.report.page.parts import Drawing
from lora_profiler.units import count_text


def plan_drawing(name: str, plan: TrainingPlan) -> Drawing | None:
    """Hours against money of the runs that no other one beats; None where no run has both."""
    runs = [run for run in plan.front if run.hours and run.cost and run.cost.middle > 0]
    if not runs:
        return None
    named = (plan.recommended, min(runs, key=hours_of), min(runs, key=cost_of))
    points = [
        FrontPoint(
            name=run_words(run),
            said=f"{price_words(run)}; {layout_words(run.setup)}",
            method=run.setup.method,
            hours=hours_of(run),
            cost=cost_of(run),
            is_named=run in named,
            is_recommended=run is plan.recommended,
        )
        for run in runs
    ]
    said = [f"{point.name}: {point.said}" for point in points if point.is_named]
    return Drawing(
        name=name,
        caption="Hours and money of the runs that no other one beats.",
        description=f"{count_text(len(runs))} runs by hours and cost. {'. '.join(said)}.",
        figure=plan_front(points, runs[0].price.currency if runs[0].price else ""),
    )


def crossover_drawing(
    name: str, found: Crossover, batch_size: int, gpu: Gpu | None = None
) -> Drawing | None:
    """Peaks over lengths at `batch_size`, one of those asked about, below what `gpu` has; None
    where none is known."""
    at = [point for point in found.points if point.batch_size == batch_size]
    known = []
    for setup in (way.setup for way in found.workloads):
        peaks = {p.seq_len: p.peak_bytes[setup.method] for p in at if setup.method in p.peak_bytes}
        if peaks:
            way = way_label(setup)
            known.append(MethodLine(method=setup.method, name=way, peak_bytes=peaks))
    if not known:
        return None
    key = ("memory", batch_size)
    spans = [(c.first, c.last) for c in found.crossings if (c.quantity, c.batch_size) == key]
    ends = sorted({end for span in spans for end in span if end is not None})
    limit = Limit(label=gpu.name, bytes=gpu.usable_bytes) if gpu and gpu.usable_bytes else None
    return Drawing(
        name=name,
        caption=f"The peak of each method over the length, at batch {count_text(batch_size)}.",
        description=" ".join(sentences(found)),
        figure=crossover_lines(known, ends, limit),
    )
