"""Memory over one step, what each layer costs, full fine-tuning beside LoRA, and what the peaks are
made of: predicted beside measured, category by category."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from lora_profiler.measuring.records.record import PhaseSample
from lora_profiler.memory.prediction import Prediction
from lora_profiler.report.answer.layers import held_by_layers, layer_blocks
from lora_profiler.report.blocks import (
    Beside,
    Drawing,
    Fold,
    Part,
    Section,
    by_category,
    filled,
    paragraph,
    table,
)
from lora_profiler.report.charts.bars import (
    CategoryBar,
    category_bars,
    measured_curve,
    memory_curve,
    phase_samples,
)
from lora_profiler.report.charts.plot import Limit, shortened
from lora_profiler.report.labels import method_label
from lora_profiler.report.measured import run_labels
from lora_profiler.report.page.runs import NumberedRun, full_and_lora, worst_first
from lora_profiler.runs.comparison.errors import counted, group_peaks, predicted_peaks
from lora_profiler.units import byte_unit, bytes_text, count_text, error_text, in_unit

ALIKE = "Full fine-tuning and LoRA: the largest two runs that differ in nothing else."
_MORE = "The prediction at every moment, and the counters of all steps"
MOST_POINTS = 60
"""Of a curve, as rows of its table: the turning points that matter are few."""


def steps_section(
    runs: Sequence[NumberedRun], groups: Sequence[Sequence[NumberedRun]]
) -> Section | None:
    """Prediction and measurement of full fine-tuning and of LoRA on one pair of axes each, else of
    the largest run; each for itself in a fold.

    `groups` are the runs that are alike.
    """
    known = [r for r in runs if r.scored.prediction and r.record.measurement.went_through]
    largest = sorted(known, key=lambda run: -(run.measured_bytes or 0))[:1]
    shown = full_and_lora(groups) or largest
    if not shown:
        return None
    both = [drawing for run in shown if (drawing := step_drawing(run)) is not None]
    curves = [
        curve_drawing(f"curve-{run.number}", run.name, prediction)
        for run in shown
        if (prediction := run.scored.prediction) is not None and prediction.is_whole
    ]
    counters = [counters_drawing(run) for run in shown if run.record.measurement.phases]
    said = paragraph(ALIKE if len(shown) > 1 else "The run with the largest peak.")
    first, rest = (both, [*curves, *counters]) if both else (curves, counters)
    parts: list[Part] = [said, *([Beside(tuple(first))] if first else [])]
    if rest:
        parts.append(Fold(_MORE, (Beside(tuple(rest)),)))
    return Section("step", "Memory over one step", tuple(parts))


def layers_section(groups: Sequence[Sequence[NumberedRun]]) -> Section | None:
    """What each layer costs in full and with LoRA; None where no model has runs of both."""
    pair = full_and_lora(groups)
    predictions = [run.scored.prediction for run in pair if run.scored.prediction is not None]
    parts = layer_parts("layers", predictions)
    return Section("layers", "Layer by layer", (paragraph(ALIKE), *parts)) if parts else None


# --- one step -------------------------------------------------------------------------------------


def step_drawing(run: NumberedRun) -> Drawing | None:
    """Memory over one steady step, predicted and measured on one pair of axes; None where one of
    them is not known. A rehearsed run is called so."""
    record, prediction = run.record, run.scored.prediction
    peaks = group_peaks(record.measurement.phase_peak_bytes)
    if prediction is None or not prediction.is_whole or not peaks:
        return None
    predicted = predicted_peaks(prediction)
    workload = prediction.workload
    curve = [replace(point, bytes=counted(workload, point.bytes)) for point in prediction.curve]
    word = "rehearsed" if record.is_rehearsed else "measured"
    pairs = [(group, predicted[group], peaks[group]) for group in peaks if group in predicted]
    said = "; ".join(
        f"{run_labels.PHASE_LABELS[group]}: predicted {bytes_text(p)}, {word} {bytes_text(m)}"
        for group, p, m in pairs
    )
    areas = "Stacked areas of what is predicted, and across each part of the step"
    return Drawing(
        f"step-{run.number}",
        f"{run.name}: memory over one steady step, predicted and {word}.",
        f"{areas} the peak that was {word}. {said}.",
        measured_curve(curve, predicted, peaks, word=word),
        lines=(f"Each {word} peak has the prediction's error for that part.",),
        numbers=table(
            pairs,
            (
                ("part of the step", lambda row: run_labels.PHASE_LABELS[row[0]]),
                ("predicted", lambda row: bytes_text(row[1])),
                (word, lambda row: bytes_text(row[2])),
                ("error", lambda row: error_text(row[1] / row[2] - 1) if row[2] else ""),
            ),
            title=f"Peaks of the parts of a step, predicted and {word}",
        ),
    )


def curve_drawing(
    name: str, title: str, prediction: Prediction, limit: Limit | None = None
) -> Drawing:
    points = prediction.curve
    phases = (run_labels.PHASE_CURVE[point.phase] for point in points)
    peak = max(points, key=lambda point: point.total_bytes)
    engine = "at the moments that the rules know" if len(points) < 20 else "at its turning points"
    stride = -(-len(points) // MOST_POINTS)  # of a long curve the largest of each stretch
    kept = [
        max(points[i : i + stride], key=lambda point: point.total_bytes)
        for i in range(0, len(points), stride)
    ]
    rows = [
        ((run_labels.PHASE_CURVE[p.phase], p.module), p.bytes, p.total_bytes == peak.total_bytes)
        for p in kept
    ]
    module = f", {peak.module}" if peak.module else ""
    highest = f"{bytes_text(peak.total_bytes)} in {run_labels.PHASE_CURVE[peak.phase]}{module}"
    areas = f"Stacked areas of {title} through {', '.join(dict.fromkeys(phases))}"
    return Drawing(
        name,
        f"{title}: predicted memory over one steady step, by category, {engine}.",
        f"{areas}; the peak is {highest}.",
        memory_curve(points, limit=limit),
        filled(by_category("The numbers of the figure", ("phase", "module"), rows)),
    )


def counters_drawing(run: NumberedRun) -> Drawing:
    """Memory as it was measured, of a run whose counters were read."""
    samples = run.record.measurement.phases
    peaks = [sample.requested_peak_bytes or 0 for sample in samples]
    every = run_labels.COUNTER_LABELS
    names = [n for n in every if any(getattr(s, n) is not None for s in samples)]
    sizes = (getattr(s, name) or 0 for s in samples for name in names)
    unit, size = byte_unit(max(sizes, default=0))

    def counted(name: str) -> tuple[str, Callable[[PhaseSample], str]]:
        def text(sample: PhaseSample) -> str:
            value = getattr(sample, name)
            return "" if value is None else in_unit(value, size)

        return run_labels.COUNTER_LABELS[name], text

    phase = ("phase", lambda s: f"step {s.step}, {run_labels.PHASE_CURVE[s.phase]}")
    lines = f"Lines through {len(samples)} phases of several steps"
    return Drawing(
        f"counters-{run.number}",
        f"{run.name}: memory as it was measured, phase by phase.",
        f"{lines}; the largest peak is {bytes_text(max(peaks))}.",
        phase_samples(samples),
        table(samples, (phase, *map(counted, names)), title=f"The numbers of the figure, {unit}"),
    )


# --- layers ---------------------------------------------------------------------------------------


def layer_parts(name: str, predictions: Sequence[Prediction]) -> list[Part]:
    """What layers hold under each method, and what they cost as tables; nothing of no layer."""
    drawings = (held_drawing(f"{name}-{n}", each) for n, each in enumerate(predictions))
    held = tuple(drawing for drawing in drawings if drawing is not None)
    if not held:
        return []
    tables = tuple(layer_blocks(predictions))
    return [Beside(held), Fold("Every kind of layer as a table", tables)]


_TOLD = 5
"""Layers that a figure's description names."""


def held_drawing(name: str, prediction: Prediction) -> Drawing | None:
    """Which layers hold the memory of one method, all copies together, on a linear scale; None
    where no layer holds any."""
    rows = held_by_layers(prediction)
    if not rows:
        return None
    cells = [(row.name, f"x{row.count}" if row.count else "") for row in rows]
    numbers = [(names, row.bytes, False) for names, row in zip(cells, rows, strict=True)]
    label = method_label(prediction)
    copies = (f" x{row.count}" if row.count > 1 else "" for row in rows)
    bars = [
        CategoryBar(label=shortened(row.name, 38) + n, bytes=row.bytes)
        for row, n in zip(rows, copies, strict=True)
    ]
    words = "; ".join(f"{bar.label} {bytes_text(bar.total_bytes)}" for bar in bars[:_TOLD])
    return Drawing(
        name,
        f"{label}: memory by layer and category, all copies of a layer together.",
        f"Stacked bars of what layers hold, the largest first: {words}, and so on.",
        category_bars(bars),
        filled(by_category("The numbers of the figure", ("layer", "copies"), numbers)),
        lines=(
            "Weights include adapters and quantization constants; activations are what is saved for"
            " backward, the loss among them. Gradients and activations peak at different times.",
        ),
    )


# --- what the peaks are made of -------------------------------------------------------------------

FEW, CHOSEN, WORST = 8, 8, 4
"""So few are all shown at once; of more so many are chosen, and the worst besides."""
MOST_IN_FOLDS = 300
"""Up to so many runs every one is drawn, in folds by model."""


def composition_section(runs: Sequence[NumberedRun]) -> Section | None:
    """Bars of chosen runs, and of all by model where they are few; None of none known."""
    known = [run for run in runs if run.record.measurement.went_through]
    known = [run for run in known if run.record.measurement.attribution_bytes]
    if not known:
        return None
    if len(known) <= FEW:
        parts: list[Part] = [peaks_drawing("peaks", known, "Peak of every run")]
    else:
        worst = [run for run in worst_first(known)[:WORST] if run.error]
        what = "The largest peaks, one of each family and method"
        parts = [peaks_drawing("peaks", largest_of_each_kind(known), what)]
        if worst:
            parts.append(peaks_drawing("peaks-worst", worst, "The peaks that were predicted worst"))
        models = dict.fromkeys(run.model for run in known) if len(known) <= MOST_IN_FOLDS else ()
        for number, model in enumerate(models):
            members = [r for r in known if r.model == model]
            runs_of = f"{count_text(len(members))} run{'s' if len(members) > 1 else ''}"
            what = "Peak of every run of this model"
            drawing = peaks_drawing(f"peaks-{number}", members, what)
            parts.append(Fold(f"{shortened(model)}: {runs_of}", (drawing,)))
    return Section("composition", "What the peaks are made of", tuple(parts))


def largest_of_each_kind(known: Sequence[NumberedRun]) -> list[NumberedRun]:
    """The largest peak of each family and method, at most `CHOSEN`, the largest first."""
    picked: dict[tuple[str, str], NumberedRun] = {}
    for run in sorted(known, key=lambda run: -(run.measured_bytes or 0)):
        picked.setdefault((run.family, run.method), run)
    return list(picked.values())[:CHOSEN]


def peaks_drawing(name: str, members: Sequence[NumberedRun], what: str) -> Drawing:
    """Peaks predicted beside measured, by category; one run alone is named by the caption."""
    several = len(members) > 1
    what = what if several else f"{members[0].name}: the peak"
    bars = [bar for run in members for bar in _bars(run, run.name if several else "")]
    largest = max((bar.total_bytes for bar in bars), default=0)
    pairs = f"Stacked bars in pairs for {count_text(len(members))} run{'s' if several else ''}"
    rows = [((bar.group, bar.label), bar.bytes, False) for bar in bars]
    return Drawing(
        name,
        f"{what}, predicted and measured, by category.",
        f"{pairs}, the largest of {bytes_text(largest)}.",
        category_bars(bars),
        filled(by_category("The numbers of the figure", ("run", ""), rows)),
    )


def _bars(run: NumberedRun, name: str) -> Iterable[CategoryBar]:
    prediction, measured = run.scored.prediction, run.record.measurement
    if prediction is not None:
        lower = not prediction.is_whole
        yield CategoryBar(
            label="predicted",
            bytes=counted(prediction.workload, prediction.peak.bytes),
            group=name,
            at_least=lower,
        )
    yield CategoryBar(label="measured", bytes=measured.attribution_bytes, group=name)
