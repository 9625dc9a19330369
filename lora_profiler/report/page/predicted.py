"""Answers to questions, without records: the peak of each method, its step, its layers, the GPU,
and what would lower it; then all numbers."""

from collections.abc import Iterable, Sequence

from lora_profiler.planning.answers import Answer
from lora_profiler.planning.fit import size_fits
from lora_profiler.report import labels
from lora_profiler.report.answer.explain import levers_table
from lora_profiler.report.answer.predictions import model_parts
from lora_profiler.report.answer.timing import device_name, time_words
from lora_profiler.report.blocks import Beside, Drawing, Part, Section, paragraph, table
from lora_profiler.report.charts.bars import (
    CategoryBar,
    category_bars,
    lever_bars,
    time_bars,
    time_bars_of,
)
from lora_profiler.report.charts.lines import fit_map
from lora_profiler.report.charts.plot import Limit, shortened
from lora_profiler.report.labels import method_label
from lora_profiler.report.page.steps import curve_drawing, layer_parts
from lora_profiler.units import bytes_text, count_text

# --- the sections of each model -------------------------------------------------------------------


def predicted_sections(answers: Sequence[Answer]) -> Iterable[Section]:
    for number, members in enumerate(by_model(answers)):
        yield Section(
            f"predicted-{number}",
            f"Predicted: {_model(members)}",
            tuple(_figures(f"p{number}", members)),
        )


def numbers_sections(answers: Sequence[Answer]) -> Iterable[Section]:
    """The tables of each model, and what is known of how sure they are."""
    for number, members in enumerate(by_model(answers)):
        parts = model_parts(members)
        yield Section(
            f"numbers-{number}",
            f"In numbers: {_model(members)}",
            (paragraph(parts.title, *parts.setup), *parts.tables, *parts.notes),
        )


def by_model(answers: Sequence[Answer]) -> list[list[Answer]]:
    models = dict.fromkeys(answer.prediction.workload.model for answer in answers)
    return [[a for a in answers if a.prediction.workload.model == model] for model in models]


def _model(answers: Sequence[Answer]) -> str:
    return shortened(answers[0].prediction.workload.model.id)


def _figures(prefix: str, answers: Sequence[Answer]) -> Iterable[Part]:
    predictions = [answer.prediction for answer in answers]
    yield composition_drawing(f"{prefix}-bars", answers)
    yield from _known(times_drawing(f"{prefix}-times", answers))
    known = [answer for answer in answers if answer.prediction.is_whole]
    if known:
        curves = (answer_curve(f"{prefix}-curve-{n}", answer) for n, answer in enumerate(known))
        yield Beside(tuple(curves))
    yield from layer_parts(f"{prefix}-held", predictions)
    for number, answer in enumerate(answers):
        yield from _known(
            fit_drawing(f"{prefix}-fit-{number}", answer),
            levers_drawing(f"{prefix}-levers-{number}", answer),
        )


def _known(*drawings: Drawing | None) -> Iterable[Drawing]:
    return (drawing for drawing in drawings if drawing is not None)


def _limit(answer: Answer) -> Limit | None:
    gpu = answer.gpu
    if gpu is None or gpu.usable_bytes is None:
        return None
    return Limit(label=gpu.name, bytes=gpu.usable_bytes)


def composition_drawing(name: str, answers: Sequence[Answer]) -> Drawing:
    bars = [
        CategoryBar(
            label=method_label(a.prediction),
            bytes=a.prediction.peak.bytes,
            at_least=not a.prediction.is_whole,
        )
        for a in answers
    ]
    words = []
    for bar in bars:
        held = (f"{labels.CATEGORY_LABELS[c]} {bytes_text(n)}" for c, n in bar.bytes.items() if n)
        words.append(f"{bar.label}: {', '.join(held)}")
    models = dict.fromkeys(a.prediction.workload.model.id for a in answers)
    on = f" on {answers[0].gpu.name}" if answers[0].gpu else ""
    caption = f"Predicted peak of {', '.join(models)}{on}; the numbers are in the table below."
    description = f"Stacked bars of the peak by category. {'; '.join(words)}."
    return Drawing(name, caption, description, category_bars(bars, limit=_limit(answers[0])))


def times_drawing(name: str, answers: Sequence[Answer]) -> Drawing | None:
    """Where the time of each method's step goes; None where no time is known."""
    bars = time_bars_of(answers)
    if not bars:
        return None
    caption = f"Where the time of one step on {device_name(answers)} goes"
    description = f"Stacked bars of where the time of one step goes. {time_words(answers)}."
    sends = any(answer.sending_seconds for answer in answers)
    without = "; what GPUs send each other is not in it" if sends else ""
    numbers = "the numbers are in the table below"
    return Drawing(name, f"{caption}{without}; {numbers}.", description, time_bars(bars))


def answer_curve(name: str, answer: Answer) -> Drawing:
    """Memory over one steady step, below what the card has."""
    prediction = answer.prediction
    return curve_drawing(name, method_label(prediction), prediction, _limit(answer))


def fit_drawing(name: str, answer: Answer, engine: str = "auto") -> Drawing | None:
    """Which batches and lengths fit the card; None without one, and where nobody can tell."""
    if answer.gpu is None:
        return None
    setup = answer.prediction.workload.setup
    cells = size_fits(answer.prediction, answer.gpu, engine)
    if not cells:
        return None
    fitting = sum(cell.verdict == "fits" for cell in cells)
    on = f"{method_label(answer.prediction)} on {answer.gpu.name}"
    which = f"Which batch sizes and sequence lengths fit {answer.gpu.name}"
    return Drawing(
        name,
        f"{on}: peak and verdict at every batch and length.",
        f"{which}: of a grid of {count_text(len(cells))} sizes {count_text(fitting)}.",
        fit_map(cells, (setup.batch_size, setup.seq_len)),
        table(
            cells,
            (
                ("batch", lambda c: count_text(c.batch_size)),
                ("tokens", lambda c: count_text(c.seq_len)),
                ("peak", lambda c: bytes_text(c.peak_bytes) if c.peak_bytes is not None else ""),
                ("verdict", lambda c: labels.VERDICT_LABELS.get(c.verdict or "", "not known")),
            ),
            title="The numbers of the figure",
            left=0,
        ),
    )


def levers_drawing(name: str, answer: Answer) -> Drawing | None:
    """What lowers the peak; None where nothing does."""
    if not answer.levers:
        return None
    words = "; ".join(f"{lever.name} by {bytes_text(lever.saved_bytes)}" for lever in answer.levers)
    label = method_label(answer.prediction)
    return Drawing(
        name,
        f"{label}: single changes that lower the peak, each predicted anew.",
        f"What lowers the peak: {words}.",
        lever_bars(answer.levers),
        levers_table(answer.prediction, answer.levers),
    )
