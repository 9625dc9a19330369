"""The answer of `lora-profile predict` about one model: methods side by side, what holds the peak,
the card's verdict."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_profiler.planning.answers import Answer
from lora_profiler.planning.diagnostics import ActivationExcess
from lora_profiler.prediction import CATEGORIES, MOMENTS, Moment, Prediction
from lora_profiler.report import labels
from lora_profiler.report.blocks import Block, Paragraph, Row, RowKind, Table, heading, paragraph
from lora_profiler.report.empirical_interval import likely_lines
from lora_profiler.report.method_label import method_label
from lora_profiler.report.trainer import trainer_lines
from lora_profiler.units import (
    byte_unit,
    bytes_text,
    count_text,
    flops_text,
    in_unit,
    percent_text,
    short_count_text,
)
from lora_profiler.workload import (
    STORED_OPTIONS,
    LoraConfig,
    Precision,
    TrainSetup,
    Workload,
    setup_dict,
)

if TYPE_CHECKING:
    from lora_profiler.planning.fit import Fit
    from lora_profiler.planning.reserve import Reserve

UNKNOWN = "?"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelParts:
    """All that is said about one model, each part by its name; a table is None where it has nothing
    to show."""

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
    likely: tuple[str, ...]

    @property
    def tables(self) -> list[Table]:
        tables = (self.epoch, self.comparison, self.card, self.times, self.communication)
        return [table for table in tables if table is not None]

    @property
    def notes(self) -> list[Paragraph]:
        """What stands below the tables."""
        notes = (self.peaks, self.time_notes, self.exactness, self.likely)
        return [paragraph(*lines) for lines in notes if lines]


def model_blocks(answers: Sequence[Answer], excess: ActivationExcess | None = None) -> list[Block]:
    """All blocks about one model, asked with one setup and one or more methods."""
    parts = model_parts(answers, excess)
    above = [paragraph(*lines) for lines in (parts.setup, parts.data) if lines]
    return [heading(parts.title), *above, *parts.tables, *parts.notes]


def model_parts(answers: Sequence[Answer], excess: ActivationExcess | None = None) -> ModelParts:
    """What `model_blocks` puts in a row, by name."""
    predictions = [answer.prediction for answer in answers]
    times = communication = None
    time_notes: list[str] = []
    if any(answer.timing for answer in answers):
        from lora_profiler.report.timing import time_lines, time_table

        times = time_table(answers)
        time_notes = time_lines(answers)
        if any(answer.communication for answer in answers):
            from lora_profiler.report.communication import communication_lines

            time_notes += communication_lines(answers)
    if answers[0].communication is not None:
        from lora_profiler.report.communication import communication_table

        communication = communication_table(answers)
    data: list[str] = []
    epoch = None
    if answers[0].over_data is not None:
        from lora_profiler.report.data import data_lines, epoch_table

        data, epoch = data_lines(answers[0]), epoch_table(answers)
    return ModelParts(
        title=title_words(predictions[0]),
        setup=tuple(_setup_lines(answers)),
        data=tuple(data),
        epoch=epoch,
        comparison=comparison_table(answers),
        card=card_table(answers) if answers[0].gpu is not None else None,
        times=times,
        communication=communication,
        peaks=tuple(_peak_lines(answers, excess)),
        time_notes=tuple(time_notes),
        exactness=tuple(exactness_lines(predictions)),
        likely=tuple(likely_lines(answers)),
    )


def title_words(prediction: Prediction) -> str:
    model = prediction.workload.model
    return (
        f"{model.id}: {model.model_type}, {model.num_layers} layers,"
        f" {short_count_text(model.num_parameters)} parameters"
    )


def _setup_lines(answers: Sequence[Answer]) -> list[str]:
    predictions = [a.prediction for a in answers]
    workload = predictions[0].workload
    kernels = list(dict.fromkeys(p.attention_kernel for p in predictions))
    dtypes = list(dict.fromkeys(p.workload.setup.dtype for p in predictions))
    rules = f"memory rules of {workload.setup.device}{platform_words(workload)}"
    worst = "worst " if answers[0].over_data else ""
    lines = [
        worst + training_line(workload.setup, dtypes),
        f"{attention_words(workload.setup, kernels)}, {rules}",
    ]
    lines += trainer_lines(answers[0].trainer, [p.workload for p in predictions])
    return lines + [adapter_line(p.workload.setup) for p in predictions if p.workload.setup.lora]


def platform_words(workload: Workload) -> str:
    """' (sm_90, torch 2.13)': whose kernels they are, on CUDA."""
    if workload.setup.device != "cuda":
        return ""
    platform = workload.platform
    return f" ({platform.capability_text or 'sm_80 to sm_89'}, torch {platform.torch_text})"


_PRECISION_WORDS: Mapping[Precision, str] = {
    "pure": "",
    "amp": " under bfloat16 autocast",
    "fsdp-mixed": " under FSDP's mixed precision",
}


def training_line(setup: TrainSetup, dtypes: Sequence[str] = ()) -> str:
    """'batch 1 x 2,048 tokens, bfloat16 weights, adamw (foreach)'. `dtypes` are those of several
    methods, where they differ."""
    micro = f" x {setup.accumulation} micro-batches" if setup.accumulation > 1 else ""
    autocast = _PRECISION_WORDS[setup.precision]
    packed = (
        f" packed from sequences of {count_text(setup.packed)}"
        if setup.packed and setup.is_packed
        else ""
    )
    sizes = f"batch {setup.batch_size} x {count_text(setup.seq_len)} tokens{packed}{micro}"
    optimizer = f"{setup.optimizer} ({setup.optimizer_impl})"
    weights = f"{' / '.join(dtypes) or setup.dtype} weights{autocast}"
    return ", ".join((sizes, weights, optimizer, *_heading_words(setup, TrainSetup)))


def _heading_words(setup: TrainSetup, part: type) -> list[str]:
    """What the options of `part` say where they are not the default."""
    values = setup_dict(setup)
    words = []
    for option in STORED_OPTIONS:
        value = values[option.name]
        if option.owner is part and option.declared.heading and value not in (option.default, []):
            shown = (
                ", ".join(map(str, value))
                if isinstance(value, list)
                else f"{value:g}"
                if isinstance(value, float)
                else value
            )
            words.append(option.declared.heading.format(shown, **values))
    return words


def attention_words(setup: TrainSetup, kernels: Sequence[str]) -> str:
    """'no checkpointing, flash attention'."""
    return (
        f"{'with checkpointing' if setup.checkpointing else 'no checkpointing'},"
        f" {' / '.join(kernels)} attention"
    )


def adapter_line(setup: TrainSetup) -> str:
    """'LoRA: rank 16, alpha 32, targets all-linear, float32 adapters', and what else is not the
    default."""
    lora, quantization = setup.lora, setup.quantization
    assert lora is not None
    targets = lora.target_modules
    text = (
        "PEFT's default"
        if targets is None
        else targets
        if isinstance(targets, str)
        else ", ".join(targets)
    )
    line = (
        f"{labels.METHOD_LABELS[setup.method]}: rank {lora.r}, alpha {lora.alpha:g}, targets {text}"
    )
    line += f", {lora.adapter_dtype} adapters"
    line = ", ".join((line, *_heading_words(setup, LoraConfig)))
    if quantization:
        line += (
            f", {'LLM.int8' if quantization.quant_type == 'int8' else 'NF4'} base"
            f"{' with double quantisation' if quantization.is_nested else ''},"
            f" {quantization.recipe} recipe"
        )
    return line


def comparison_table(answers: Sequence[Answer]) -> Table:
    """Parameters, persistent bytes, activations, moments, peak and FLOPs, one column a method.

    With full fine-tuning first and one other method, a last column gives the other as a share of
    full.
    """
    predictions = [a.prediction for a in answers]
    names = [method_label(p) for p in predictions]
    ratio = len(predictions) == 2 and predictions[0].workload.setup.method == "full"
    columns = (
        ("", *names, f"{labels.METHOD_LABELS[predictions[1].workload.setup.method]} / full")
        if ratio
        else ("", *names)
    )
    builder = _Rows(ratio)

    builder.section("parameters")
    parameters = [p.parameters for p in predictions]
    builder.numbers("model", [p.base for p in parameters], count_text, share=False)
    if any(p.adapter for p in parameters):
        builder.numbers("adapters", [p.adapter for p in parameters], count_text)
    builder.numbers("trained", [p.trainable for p in parameters], count_text, kind="total")
    builder.texts(
        "fewer trained than in full",
        [percent_text(p.reduction_vs_full) if p.trainable < p.base else "" for p in parameters],
    )

    totals = [sum(p.persistent_bytes.values()) for p in predictions]
    builder.section("persistent", totals)
    for key, label in labels.PERSISTENT_LABELS.items():
        parts = [p.persistent_bytes.get(key, 0) for p in predictions]
        if any(parts):
            builder.sizes(label, parts)
    builder.sizes("sum", totals, kind="total")

    saved = [p.saved_activation_bytes for p in predictions]
    if any(s is not None for s in saved):
        builder.section("saved for backward", [s or 0 for s in saved])
        builder.sizes("activations and loss", saved)

    steady = [{m.moment: m for m in p.moments if m.step == "steady"} for p in predictions]
    peaks = [p.peak for p in predictions]
    builder.section("memory at each moment", [p.total_bytes for p in peaks])
    for moment in MOMENTS:
        if any(moment in s for s in steady):
            at = [s.get(moment) for s in steady]
            builder.moments(labels.MOMENT_LABELS[moment], at, peaks)
    known = all(p.saved_activation_bytes is not None for p in predictions)
    builder.sizes(
        "peak" if known else "peak without activations", [p.total_bytes for p in peaks], kind="peak"
    )

    builder.section("what the peak is made of", [p.total_bytes for p in peaks])
    for category in CATEGORIES:
        held = [p.bytes.get(category, 0) for p in peaks]
        if any(
            held
        ):  # the methods' peaks may be different moments: a share of one part would say nothing
            builder.sizes(labels.CATEGORY_LABELS[category], held, share=False)
    builder.sizes("sum", [p.total_bytes for p in peaks], kind="total")

    flops = [p.flops for p in predictions]
    if any(f is not None for f in flops):
        builder.section("compute per micro-batch")
        builder.numbers("forward", [f.forward if f else None for f in flops], flops_text)
        builder.numbers("backward", [f.backward if f else None for f in flops], flops_text)
        if any(f and f.recompute for f in flops):
            builder.numbers("recompute", [f.recompute if f else None for f in flops], flops_text)
        builder.numbers("sum", [f.total if f else None for f in flops], flops_text, kind="total")
        builder.numbers("per token", [f.per_token if f else None for f in flops], flops_text)
    return Table(columns=columns, rows=tuple(builder.rows))


class _Rows:
    """Collects rows of one comparison; a section of bytes writes all its values in the unit of its
    largest."""

    def __init__(self, ratio: bool) -> None:
        self.rows: list[Row] = []
        self.ratio = ratio
        self.size = 1

    def section(self, title: str, sizes: Sequence[int] = ()) -> None:
        if sizes:
            unit, self.size = byte_unit(max(sizes))
            title = f"{title}, {unit}"
        self.rows.append(Row(cells=(title,), kind="section"))

    def texts(self, label: str, texts: Sequence[str], share: str = "", kind: str = "plain") -> None:
        if any(texts):
            cells = (label, *texts, share) if self.ratio else (label, *texts)
            self.rows.append(Row(cells=cells, kind=kind, indent=1))  # type: ignore[arg-type]

    def numbers(
        self,
        label: str,
        values: Sequence[int | None],
        text: Callable[[int], str],
        kind: str = "plain",
        *,
        share: bool = True,
    ) -> None:
        self.texts(
            label,
            [UNKNOWN if v is None else text(v) for v in values],
            self._share(values) if share else "",
            kind,
        )

    def sizes(
        self, label: str, values: Sequence[int | None], kind: str = "plain", *, share: bool = True
    ) -> None:
        self.numbers(label, values, lambda v: in_unit(v, self.size), kind, share=share)

    def moments(self, label: str, at: Sequence[Moment | None], peaks: Sequence[Moment]) -> None:
        totals = [m.total_bytes if m else None for m in at]
        texts = [
            (
                UNKNOWN
                if m is None
                else ("* " if m.moment == peak.moment else "") + in_unit(m.total_bytes, self.size)
            )
            for m, peak in zip(at, peaks, strict=True)
        ]
        self.texts(label, texts, self._share(totals))

    def _share(self, values: Sequence[int | None]) -> str:
        if (
            not self.ratio
            or values[0] is None
            or values[1] is None
            or values[0] == 0
            or values[0] == values[1]
        ):
            return ""
        return percent_text(values[1] / values[0])


def card_table(answers: Sequence[Answer]) -> Table:
    """The verdict on the card that was asked about: peak, each part of the reserve, headroom, and
    the largest sizes."""
    from lora_profiler.report.room import room

    gpu = answers[0].gpu
    assert gpu is not None
    fits = [a.fit for a in answers]
    setup = answers[0].prediction.workload.setup
    usable = gpu.usable_bytes or 0
    unit, size = byte_unit(usable)

    def row(
        label: str, value: "Callable[[Fit], str]", kind: RowKind = "plain", indent: int = 1
    ) -> Row:
        cells = (label, *(value(f) if f else UNKNOWN for f in fits))
        return Row(cells=cells, kind=kind, indent=indent)

    def limit(value: int | None) -> str:
        return UNKNOWN if value is None else count_text(value) if value else "none"

    def rank(answer: Answer) -> str:
        if answer.fit is None:
            return UNKNOWN
        return limit(answer.fit.highest_rank) if answer.prediction.workload.setup.lora else "-"

    known = [fit.reserve for fit in fits if fit]
    least = in_unit(known[0].least_context_bytes, size) if known else UNKNOWN
    rows = [
        row("peak", lambda f: room(f).peak),
        row("reserve for what tensors do not show", lambda f: room(f).reserve),
        row(f"driver context and kernels (from {least})", lambda f: room(f).context, indent=2),
        row("BLAS workspaces", lambda f: room(f).workspaces, indent=2),
        row(_fragmentation_label(known), lambda f: room(f).fragmentation, indent=2),
        row("headroom", lambda f: room(f).headroom),
        row("verdict", lambda f: labels.VERDICT_LABELS[f.verdict], kind="peak"),
        row(
            f"largest batch of {count_text(setup.seq_len)} tokens",
            lambda f: limit(f.largest_batch_size),
        ),
        row(f"longest sequence at batch {setup.batch_size}", lambda f: limit(f.longest_seq_len)),
    ]
    if any(a.prediction.workload.setup.lora for a in answers):
        rows.append(Row(cells=("highest rank", *map(rank, answers)), indent=1))
    name = gpu.key if gpu.name == gpu.key else f"{gpu.key} ({gpu.name})"
    title = f"{name}, {'~' if gpu.usable_is_estimated else ''}{in_unit(usable, size)} {unit} usable"
    return Table(
        title=title,
        columns=(unit, *(method_label(a.prediction) for a in answers)),
        rows=tuple(rows),
    )


def _fragmentation_label(reserves: "Sequence[Reserve]") -> str:
    simulated = {reserve.is_simulated for reserve in reserves}
    if simulated == {True}:
        return "fragmentation, simulated"
    return "fragmentation, at most" if simulated == {False} else "fragmentation, or its bound"


def _peak_lines(answers: Sequence[Answer], excess: ActivationExcess | None) -> list[str]:
    lines = [f"* {peak_words(a.prediction)}." for a in answers]
    lines += [words for a in answers if (words := _lever_words(a))]
    if excess:
        lines.append(excess_line(excess))
    for answer in answers:
        lines += _fit_notes(answer)
    return lines


def peak_words(prediction: Prediction) -> str:
    peak = prediction.peak
    at, label = labels.MOMENT_LABELS[peak.moment], method_label(prediction)
    if prediction.saved_activation_bytes is None:
        return (
            f"{label} needs at least {bytes_text(peak.total_bytes)} ({at}); its activations, which"
            " come on top, are not known"
        )
    return f"{label} peaks at {bytes_text(peak.total_bytes)}: {at}"


def _lever_words(answer: Answer) -> str:
    if not answer.levers:
        return ""
    lever = answer.levers[0]
    saving = f"{bytes_text(lever.saved_bytes)} ({100 * lever.saved_fraction:.0f} %)"
    return (
        f"{method_label(answer.prediction)}: {lever.name} ({lever.option}) lowers the peak most, by"
        f" {saving}."
    )


def excess_line(excess: ActivationExcess) -> str:
    """One line on why LoRA keeps more for backward than full fine-tuning."""
    why = {
        "adapter_dtype": (
            "every adapted layer keeps its own copy of its input in the adapter's dtype"
        ),
        "dropout": "adapter dropout keeps the dropped input and a mask of every adapted layer",
    }
    text = (
        f"LoRA keeps more for backward than full ({bytes_text(excess.lora_bytes)} against"
        f" {bytes_text(excess.full_bytes)})"
    )
    if excess.causes:
        text += ": " + ", and ".join(why[c] for c in excess.causes)
    if excess.remedied_bytes < excess.lora_bytes:
        fixes = {"adapter_dtype": "adapters in the base's dtype", "dropout": "no dropout"}
        text += (
            f"; with {' and '.join(fixes[c] for c in excess.causes)} it would keep"
            f" {bytes_text(excess.remedied_bytes)}"
        )
    return text + "."


def _fit_notes(answer: Answer) -> list[str]:
    if answer.gpu is None:
        return []
    label = method_label(answer.prediction)
    if answer.fit is None:
        return [
            f"{label}: whether it fits is not known, because its activations are not known to this"
            " engine."
        ]
    longest, trained_for = (
        answer.fit.longest_seq_len,
        answer.prediction.workload.model.trained_length,
    )
    if longest is None:
        return [
            f"{label}: which other sizes fit is not known, because the step was traced at exactly"
            " this size."
        ]
    if trained_for is not None and longest > trained_for:
        allowed, made_for = count_text(longest), count_text(trained_for)
        return [f"{label}: memory allows {allowed} tokens, the model was made for {made_for}."]
    return []


def exactness_lines(predictions: Sequence[Prediction]) -> list[str]:
    """What each peak claims to be, and then what the answers take for granted."""
    methods: dict[str, list[str]] = {}
    for p in predictions:
        methods.setdefault(_exactness_text(p), []).append(method_label(p))
    lines = [f"{', '.join(names)}: {text}" for text, names in methods.items()]
    return lines + [
        f"- {text}" for text in dict.fromkeys(text for p in predictions for text in p.assumptions)
    ]


def _exactness_text(prediction: Prediction) -> str:
    if prediction.exactness == "exact":
        return f"the peak is exact ({prediction.engine} engine)."
    if prediction.saved_activation_bytes is None:
        return f"the peak is a lower bound ({prediction.engine} engine)."
    bound = (
        f", within {100 * prediction.error_bound:g} % wherever it was checked"
        if prediction.error_bound
        else ""
    )
    return f"the peak is an estimate{bound} ({prediction.engine} engine)."
