"""What stands first on a page: the verdict on each method that was asked about and what would make
it fit, and what LoRA changed against full fine-tuning where both were run."""

from collections.abc import Iterable, Sequence

from lora_profiler.comparison.paired_runs import full_against_lora
from lora_profiler.errors import UsageError
from lora_profiler.planning.answers import Answer
from lora_profiler.report import labels
from lora_profiler.report.answer.short_answer import remedy_lines, sureness_words, verdict_words
from lora_profiler.report.charts.labels import shortened
from lora_profiler.report.labels import method_label, way_label
from lora_profiler.report.page.parts import Card
from lora_profiler.report.page.predicted import by_model
from lora_profiler.report.page.runs import Run, full_and_lora, peak_of
from lora_profiler.report.setup_words import title_words, training_line
from lora_profiler.units import bytes_text, change_text


def question_lines(answers: Sequence[Answer]) -> Iterable[str]:
    """What was asked about each model."""
    for members in by_model(answers):
        predictions = [answer.prediction for answer in members]
        dtypes = list(dict.fromkeys(p.workload.setup.dtype for p in predictions))
        setup = predictions[0].workload.setup
        yield f"{title_words(predictions[0])}; {training_line(setup, dtypes)}."


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
        known = prediction.saved_activation_bytes is not None
        if answer.gpu is None or answer.fit is None:
            cards = answer.smallest_cards if known and answer.gpu is None else ()
            least = [f"the smallest card: {cards[0].name}"] if cards else []
            yield Card(
                label=f"{name} peaks at",
                value=peak if known else f"≥ {peak}",
                note="; ".join([*least, sureness_words(answer)]),
            )
            continue
        words = verdict_words(answer).partition(": ")[2] or verdict_words(answer).partition(", ")[2]
        notes = [f"peak {peak}, {words}", *remedy_lines(answer), sureness_words(answer)]
        yield Card(
            label=f"{name} on {answer.gpu.name}",
            value=labels.VERDICT_LABELS[answer.fit.verdict],
            note="; ".join(notes),
        )


def pair_cards(groups: Sequence[Sequence[Run]]) -> Iterable[Card]:
    """LoRA's peak and step time as measured, against those of the full fine-tuning that differs in
    nothing else; nothing where no such two were run."""
    pair = full_and_lora(groups)
    if not pair:
        return
    full, lora = pair
    name = way_label(lora.scored.record.workload.setup)
    model = shortened(full.model)
    if peak_of(full):
        yield Card(
            label=f"Peak of {name} against full",
            value=change_text(peak_of(lora) / peak_of(full) - 1),
            note=f"{model}: {bytes_text(peak_of(lora))} against {bytes_text(peak_of(full))}",
        )
    try:
        ratio = full_against_lora([full.scored.record], [lora.scored.record])
    except UsageError:  # not measured under the same conditions, which the records say
        return
    yield Card(
        label=f"Step of {name} against full",
        value=change_text(ratio.ratio - 1),
        note=(
            f"{model}: {ratio.ratio:.3f} of the time, 95 % interval {ratio.low:.3f} to"
            f" {ratio.high:.3f}"
        ),
    )
