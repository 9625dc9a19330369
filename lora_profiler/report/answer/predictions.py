"""The answer of `lora-profile predict` about one model: methods side by side, what holds the peak,
the card's verdict."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.answers import ActivationExcess, Answer, activation_excess
from lora_profiler.question.workload import Method
from lora_profiler.report import labels, setup_words
from lora_profiler.report.answer.comparison_table import (
    MethodRows,
    comparison_table,
    data_lines,
    epoch_table,
)
from lora_profiler.report.answer.verdicts import leaves_open, long_samples_lines
from lora_profiler.report.blocks import Block, Paragraph, RowKind, Table, heading, paragraph
from lora_profiler.report.evidence import likely_lines
from lora_profiler.report.labels import UNKNOWN, method_label, sureness
from lora_profiler.units import byte_unit, bytes_text, count_text, in_unit

if TYPE_CHECKING:
    from lora_profiler.planning.fit import Fit


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParts:
    """All that is said about one model, part by part; a table with nothing to show is None."""

    title: str
    setup: tuple[str, ...]
    data: tuple[str, ...]
    epoch: Table | None
    comparison: Table
    card: Table | None
    times: Table | None
    communication: Table | None
    peaks: tuple[str, ...]
    time_notes: tuple[str, ...]
    exactness: tuple[str, ...]
    peak_interval: tuple[str, ...]

    @property
    def tables(self) -> list[Table]:
        tables = (self.epoch, self.comparison, self.card, self.times, self.communication)
        return [table for table in tables if table is not None]

    @property
    def notes(self) -> list[Paragraph]:
        notes = (self.peaks, self.time_notes, self.exactness, self.peak_interval)
        return [paragraph(*lines) for lines in notes if lines]


def model_blocks(answers: Sequence[Answer], engine: str = "auto") -> list[Block]:
    """All blocks about one model, asked with one setup and one or more methods."""
    parts = model_parts(answers, engine)
    above = [paragraph(*lines) for lines in (parts.setup, parts.data) if lines]
    return [heading(parts.title), *above, *parts.tables, *parts.notes]


def model_parts(answers: Sequence[Answer], engine: str = "auto") -> ModelParts:
    predictions = [answer.prediction for answer in answers]
    times = communication = None
    time_notes: list[str] = []
    if any(answer.timing or answer.communication for answer in answers):
        from lora_profiler.report.answer import timing

        times, communication = timing.time_table(answers), timing.communication_table(answers)
        time_notes = [*timing.time_lines(answers), *timing.communication_lines(answers)]
    data: list[str] = []
    epoch = None
    if answers[0].over_data is not None:
        data, epoch = data_lines(answers[0]), epoch_table(answers)
    workload = predictions[0].workload
    rules = f"memory rules of {workload.setup.device}{setup_words.platform_words(workload)}"
    worst = "worst " if answers[0].over_data else ""
    training, attention = setup_words.asked_words(predictions)
    setup = [worst + training, f"{attention}, {rules}"]
    setup += setup_words.trainer_lines(answers[0].trainer, [p.workload for p in predictions])
    setup += [
        setup_words.adapter_line(p.workload.setup) for p in predictions if p.workload.setup.lora
    ]
    return ModelParts(
        title=setup_words.title_words(predictions[0]),
        setup=tuple(setup),
        data=tuple(data),
        epoch=epoch,
        comparison=comparison_table(answers),
        card=card_table(answers) if answers[0].gpu is not None else None,
        times=times,
        communication=communication,
        peaks=tuple(_peak_lines(answers, engine)),
        time_notes=tuple(time_notes),
        exactness=tuple(exactness_lines(predictions, open_methods(answers))),
        peak_interval=tuple(likely_lines(answers)),
    )


def card_table(answers: Sequence[Answer]) -> Table:
    """The card's verdict: peak, each part of the reserve, headroom, and the largest sizes."""
    from lora_profiler.report.answer.short_answer import room

    gpu = answers[0].gpu
    assert gpu is not None
    fits = [a.fit for a in answers]
    setup = answers[0].prediction.workload.setup
    usable = gpu.usable_bytes or 0
    unit, size = byte_unit(usable)

    rows = MethodRows(answers)

    def row(
        label: str, value: "Callable[[Fit], str]", kind: RowKind = "plain", of: int = 1
    ) -> None:
        rows.add(label, *(value(f) if f else UNKNOWN for f in fits), kind=kind, indent=of)

    def limit(value: int | None) -> str:
        return UNKNOWN if value is None else count_text(value) if value else "none"

    def rank(answer: Answer) -> str:
        if answer.fit is None:
            return UNKNOWN
        lora = answer.prediction.workload.setup.lora
        return limit(answer.fit.highest_rank) if lora is not None and lora.has_rank else "-"

    known, length = [fit.reserve for fit in fits if fit], count_text(setup.seq_len)
    least = in_unit(known[0].least_context_bytes, size) if known else UNKNOWN
    simulated = {fit.reserve.is_simulated for fit in fits if fit and fit.verdict != "does_not_fit"}
    kinds = {(): "", (True,): ", simulated", (False,): ", at most"}
    fragmentation = f"fragmentation{kinds.get(tuple(simulated), ', or its bound')}"
    if any(fit.verdict == "does_not_fit" for fit in fits if fit):
        fragmentation += " (0 where it does not fit)"
    row("peak", lambda f: room(f).peak)
    row("reserve for what tensors do not show", lambda f: room(f).reserve)
    row(f"driver context and kernels (from {least})", lambda f: room(f).context, of=2)
    row("BLAS workspaces", lambda f: room(f).workspaces, of=2)
    row(fragmentation, lambda f: room(f).fragmentation, of=2)
    row("headroom", lambda f: room(f).headroom)
    row("verdict", lambda f: labels.VERDICT_LABELS[f.verdict], kind="peak")
    row(f"largest batch of {length} tokens", lambda f: limit(f.largest_batch_size))
    row(f"longest sequence at batch {setup.batch_size}", lambda f: limit(f.longest_seq_len))
    if any(a.prediction.workload.setup.lora for a in answers):
        rows.add("highest rank", *map(rank, answers))
    name = gpu.key if gpu.name == gpu.key else f"{gpu.key} ({gpu.name})"
    title = f"{name}, {'~' if gpu.usable_is_estimated else ''}{in_unit(usable, size)} {unit} usable"
    return rows.of_methods(title, unit)


def _peak_lines(answers: Sequence[Answer], engine: str) -> list[str]:
    lines = []
    for prediction in (a.prediction for a in answers):
        peak, label = prediction.peak, method_label(prediction)
        at, size = labels.MOMENT_LABELS[peak.moment], bytes_text(peak.total_bytes)
        words = f"{label} peaks at {size}: {at}"
        if not prediction.is_whole:
            unknown = "its activations, which come on top, are not known"
            words = f"{label} needs at least {size} ({at}); {unknown}"
        lines.append(f"* {words}.")
    for answer in (a for a in answers if a.levers):
        lever = answer.levers[0]
        saving = f"{bytes_text(lever.saved_bytes)} ({100 * lever.saved_fraction:.0f} %)"
        change = f"{lever.name} ({lever.option}) lowers the peak most, by {saving}"
        lines.append(f"{method_label(answer.prediction)}: {change}.")
    predictions = [a.prediction for a in answers]
    full = next((p for p in predictions if p.workload.setup.method == "full"), None)
    lora = next((p for p in predictions if p.workload.setup.method != "full"), None)
    if full and lora and (excess := activation_excess(full, lora, engine)):
        lines.append(excess_line(excess))
    for answer in answers:
        lines += _fit_notes(answer)
    return lines


def excess_line(excess: ActivationExcess) -> str:
    lora, full = bytes_text(excess.lora_bytes), bytes_text(excess.full_bytes)
    text = f"LoRA keeps more for backward than full ({lora} against {full})"
    if excess.causes:
        text += ": " + ", and ".join(_EXCESS[c][0] for c in excess.causes)
    if excess.remedied_bytes < excess.lora_bytes:
        fixes = " and ".join(_EXCESS[c][1] for c in excess.causes)
        text += f"; with {fixes} it would keep {bytes_text(excess.remedied_bytes)}"
    return text + "."


_EXCESS = {
    "adapter_dtype": (
        "every adapted layer keeps its own copy of its input in the adapter's dtype",
        "adapters in the base's dtype",
    ),
    "dropout": (
        "adapter dropout keeps the dropped input and a mask of every adapted layer",
        "no dropout",
    ),
}
"""What makes LoRA keep more, and what would not."""


def _fit_notes(answer: Answer) -> list[str]:
    if answer.gpu is None:
        return []
    label = method_label(answer.prediction)
    if answer.fit is None:
        unknown = "because its activations are not known to this engine"
        return [f"{label}: whether it fits is not known, {unknown}."]
    if answer.long_samples:
        return list(long_samples_lines(answer))
    longest = answer.fit.longest_seq_len
    trained_for = answer.prediction.workload.model.trained_length
    if longest is None:
        exactly = "because the step was traced at exactly this size"
        return [f"{label}: which other sizes fit is not known, {exactly}."]
    if trained_for is not None and longest > trained_for:
        words = f"memory allows {count_text(longest)} tokens"
        return [f"{label}: {words}; the model's context length is {count_text(trained_for)}."]
    return []


def open_methods(answers: Sequence[Answer]) -> frozenset[Method]:
    """Methods of answers whose question leaves open what changes the peak."""
    return frozenset(a.prediction.workload.setup.method for a in answers if leaves_open(a))


def exactness_lines(
    predictions: Sequence[Prediction], open_methods: Collection[Method] = ()
) -> list[str]:
    """What each peak claims to be, and then what the answers take for granted. Nothing is exact of
    methods whose question leaves something open."""
    methods: dict[str, list[str]] = {}
    within = "an estimate, within {} wherever it was checked"
    for p in predictions:
        is_open = p.workload.setup.method in open_methods
        exact = "computed byte for byte for the options above" if is_open else "exact"
        sure = sureness(p, exact, "a lower bound", within, "an estimate")
        text = f"the peak is {sure} ({p.engine} engine)."
        methods.setdefault(text, []).append(method_label(p))
    lines = [f"{', '.join(names)}: {text}" for text, names in methods.items()]
    return [*lines, *assumption_lines(predictions)]


def assumption_lines(predictions: Sequence[Prediction]) -> list[str]:
    """What they take for granted, each once."""
    return [f"- {text}" for text in dict.fromkeys(t for p in predictions for t in p.assumptions)]
