"""One record: what was run, its numbers beside the predicted ones, what each of several ranks held,
how fast it went, or how it failed."""

from collections.abc import Mapping, Sequence
from typing import Any

from lora_profiler.measuring.records.record import Environment, RankMeasurement, Record
from lora_profiler.memory.prediction import CATEGORIES, Prediction
from lora_profiler.question import workload
from lora_profiler.question.option import Option
from lora_profiler.report import labels
from lora_profiler.report.answer.predictions import exactness_lines
from lora_profiler.report.answer.timing import predicted_time_line
from lora_profiler.report.blocks import (
    Block,
    Row,
    RowKind,
    Rows,
    Table,
    filled,
    heading,
    paragraph,
    table,
)
from lora_profiler.report.labels import method_label
from lora_profiler.report.measured import run_labels
from lora_profiler.report.measured.run_labels import advice, speed_lines
from lora_profiler.report.setup_words import adapter_line, attention_words, training_line, valued
from lora_profiler.runs.comparison.errors import TOTAL, Comparison, Metric, Result, lower_bounds
from lora_profiler.units import byte_unit, bytes_text, count_text, error_text, in_unit, percent_text


def ranks_table(record: Record) -> Table | None:
    """A row a rank, in the unit of the highest peak; a column that no rank fills is left out. None
    for a run of one process."""
    ranks = record.measurement.ranks
    if not ranks:
        return None
    unit, size = byte_unit(max((r.peak_requested_bytes or 0 for r in ranks), default=0))
    phases = run_labels.PHASE_LABELS

    def text(count: int | None) -> str:
        return "" if count is None else in_unit(count, size)

    found = table(
        ranks,
        (
            ("", lambda r: f"rank {r.rank}"),
            (f"peak, {unit}", lambda r: text(r.peak_requested_bytes)),
            ("in", lambda r: phases.get(r.peak_phase, r.peak_phase) if r.peak_phase else ""),
            (f"persistent, {unit}", lambda r: text(rank_persistent_bytes(r))),
            ("status", lambda r: run_labels.STATUS_LABELS[r.status]),
        ),
        title="Ranks",
    )
    return filled(found)


def rank_persistent_bytes(rank: RankMeasurement) -> int | None:
    return sum(rank.persistent_bytes.values()) if rank.persistent_bytes else None


def ranks_text(record: Record) -> str:
    """'2, alike' or '4, up to 3.1 % lower' for a cell beside the peak; nothing for a run of one
    process."""
    m = record.measurement
    if not m.ranks or m.rank_imbalance is None:
        return ""
    lower = f"up to {percent_text(m.rank_imbalance)} lower" if m.rank_imbalance else "alike"
    return f"{len(m.ranks)}, {lower}"


def ranks_lines(record: Record) -> list[str]:
    """What the table means, and what one process on the same data says of the losses."""
    m, setup = record.measurement, record.workload.setup
    if not m.ranks:
        return []
    lines = []
    if m.rank_imbalance is not None and m.went_through:
        same = "; all ranks have the same peak"
        lower = ", the one with the highest peak; the lowest is {} below it"
        how = lower.format(percent_text(m.rank_imbalance)) if m.rank_imbalance else same
        lines.append(f"All numbers above are those of one rank{how}.")
    if m.reference_loss and m.loss:
        steps = min(len(m.reference_loss), len(m.loss))
        lines.append(
            f"Mean loss of the ranks at step {steps}: {m.loss[steps - 1]:.6g}; of one process with"
            f" accumulation {setup.accumulation * setup.batches_at_once} on the same data:"
            f" {m.reference_loss[steps - 1]:.6g}."
        )
    return lines


NAMED_PACKAGES = ("torch", "transformers", "peft", "bitsandbytes")
NOTHING = "-"


def record_blocks(found: Result) -> list[Block]:
    label, status = method_label(found.prediction), run_labels.status_label(found.record)
    name = heading(f"{found.record.workload.model.id}, {label}: {status}")
    return [name, *record_details(found)]


def record_details(found: Result) -> list[Block]:
    record, prediction, speed = found.record, found.prediction, found.speed
    setup, expected = record.workload.setup, prediction.attention_kernel
    kernel = record.measurement.attention_kernel or expected
    setting_lines = [training_line(setup), attention_words(setup, [kernel])]
    if kernel != expected:
        setting_lines.append(f"attention ran by {kernel}, where {expected} was predicted")
    setting_lines += [adapter_line(setup)] if setup.lora else []
    setting_lines += [_conditions_line(record), environment_line(record.environment)]
    status = record.measurement.status
    late = ["host_bound"] if speed and speed.host_bound else []
    flags = dict.fromkeys([*record.measurement.flags, *late])
    status_lines = [
        f"{run_labels.STATUS_LABELS[status]}: {run_labels.STATUS_DEFINITIONS[status]}.",
        *(f"! {flag.replace('_', ' ')}: {run_labels.FLAG_DEFINITIONS[flag]}." for flag in flags),
    ]
    blocks: list[Block] = [paragraph(*setting_lines), paragraph(*status_lines)]
    if not record.measurement.went_through:
        return [*blocks, paragraph(*_failure_lines(record, prediction)), *_ranks_blocks(record)]
    table = error_table(record, found.comparisons)
    if table.rows:
        lines = [f"{run_labels.ERROR_DEFINITION}; empty where nothing is predicted."]
        if any(c.metric == "peak_requested_bytes" for c in found.comparisons):
            phase, at = record.measurement.peak_phase, labels.MOMENT_LABELS[prediction.peak.moment]
            where = f", measured in {run_labels.PHASE_LABELS[phase]}" if phase else ""
            lines.insert(0, f"The peak is predicted at {at}{where}.")
        blocks += [table, paragraph(*lines)]
    alone = alone_table(record)
    if alone.rows:
        blocks.append(alone)
    blocks += _ranks_blocks(record)
    if speed:
        lines = speed_lines(speed, found.utilisation)
        if found.timing and found.timing.step:
            lines.append(predicted_time_line(found.timing.step, speed.steps.median))
        blocks.append(paragraph(*lines))
    return [*blocks, paragraph(*exactness_lines([prediction]))]


def _ranks_blocks(record: Record) -> list[Block]:
    table, lines = ranks_table(record), ranks_lines(record)
    return [*([table] if table else []), *([paragraph(*lines)] if lines else [])]


# --- what was run ---------------------------------------------------------------------------------


def environment_line(environment: Environment) -> str:
    """'NVIDIA L4, 22.03 GiB, driver 580.1; Python 3.12.3, torch 2.11.0, ...': device and software
    of a run."""
    device = environment.device
    parts = [device.name]
    if device.total_bytes is not None:
        parts.append(bytes_text(device.total_bytes))
    if device.driver:
        parts.append(f"driver {device.driver}")
    if device.mig == "on":
        parts.append("a MIG slice")
    if device.kind == "cpu" and environment.threads is not None:
        parts.append(f"{environment.threads} thread{'s' if environment.threads > 1 else ''}")
    versions = [f"Python {environment.python}", *package_words(environment)]
    return "; ".join([", ".join(parts), ", ".join(versions)])


def package_words(environment: Environment) -> list[str]:
    """'torch 2.11.0' of each library that decides what memory is."""
    packages = environment.packages
    return [f"{name} {packages[name]}" for name in NAMED_PACKAGES if name in packages]


def _conditions_line(record: Record) -> str:
    held = record.conditions
    of_kind = held.weights in ("random", "hub")
    parts = [f"{held.weights} weights" if of_kind else f"weights of {held.weights}"]
    parts.append("random tokens" if held.text == "random" else f"text of {held.text}")
    if padding := record.workload.setup.padding:
        parts.append(f"{percent_text(padding)} padding")
    if held.trained_by:
        parts.append(f"trained by {held.trained_by} itself")
    if held.budget_bytes is not None:
        parts.append(f"held to {bytes_text(held.budget_bytes)}")
    if held.ballast_bytes:
        parts.append(f"{bytes_text(held.ballast_bytes)} of ballast held throughout")
    return ", ".join([*parts, f"seed {held.seed}"])


def _failure_lines(record: Record, prediction: Prediction) -> list[str]:
    failure = record.measurement.failure
    lines = []
    if failure:
        phase = failure.phase
        where = f" in {run_labels.phase_label(phase)}" if phase else ""
        step = f", step {failure.step}" if failure.step is not None else ""
        lines.append(f"It ended{where}{step}: {failure.reason}")
        sizes = {
            "requested": failure.tried_bytes,
            "free": failure.free_bytes,
            "allocated": failure.allocated_bytes,
            "reserved": failure.reserved_bytes,
        }
        known = [f"{bytes_text(size)} {name}" for name, size in sizes.items() if size is not None]
        if known:
            lines.append(f"At that moment: {', '.join(known)}.")
        if failure.exit_code is not None:
            lines.append(f"The process ended with code {failure.exit_code}.")
    lines += [
        f"At least, by then: {run_labels.METRIC_LABELS[name]} {bytes_text(size)}."
        for name, size in lower_bounds(record).items()
    ]
    peak = prediction.peak
    least = "" if prediction.is_whole else "at least "
    at = labels.MOMENT_LABELS[peak.moment]
    lines.append(f"Predicted: {least}{bytes_text(peak.total_bytes)} at {at}.")
    if (to_try := advice(record)) is not None:
        lines.append(f"To try: {to_try}.")
    return lines


# --- predicted against measured -------------------------------------------------------------------


def error_table(record: Record, comparisons: Sequence[Comparison]) -> Table:
    """Predicted, measured and signed error of every compared number. The parts of the peak add up
    to the peak in both columns; `not attributed` is among them even where it is nothing."""
    rows = _Rows(comparisons)
    peak = rows.find("peak_requested_bytes", TOTAL)
    parts = rows.of("attribution_bytes")
    if parts or peak:
        rows.sizes("what the peak is made of", [*parts, *([peak] if peak else [])])
        for category in CATEGORIES:
            found = rows.find("attribution_bytes", category)
            if found or (parts and category == "unattributed"):
                rows.line(labels.CATEGORY_LABELS[category], found)
        if peak:
            rows.line("peak", peak, kind="peak")
        allocated = rows.find("peak_allocated_bytes", TOTAL)
        if allocated and not (peak and peak.measured == allocated.measured):
            rows.line("peak allocated, rounded up", allocated)
        if reserved := rows.find("peak_reserved_bytes", TOTAL):
            rows.line(run_labels.METRIC_LABELS["peak_reserved_bytes"], reserved)
    phases = run_labels.PHASE_LABELS
    rows.lines("peak of each phase", rows.of("phase_peak_bytes"), phases)
    rows.lines("peak of each phase in step 1", rows.of("step1_phase_peak_bytes"), phases)
    kept = rows.of("persistent_bytes")
    rows.lines("persistent", kept, labels.CATEGORY_LABELS)
    if kept:
        rows.sum(kept)
    saved = {TOTAL: "activations and loss"}
    rows.lines("saved for backward", rows.of("saved_activation_bytes"), saved)
    counts = [("model", c) for c in rows.of("num_parameters")]
    counts += [("trained", c) for c in rows.of("num_trainable_parameters")]
    if counts:
        rows.section("parameters")
    for label, c in counts:
        rows.add(label, count_text(c.predicted), count_text(c.measured), comparison_text(c))
    return rows.table("", "predicted", "measured", "error")


class _Rows(Rows):
    """Of comparisons; those without one have nothing on either side."""

    def __init__(self, comparisons: Sequence[Comparison]) -> None:
        super().__init__()
        self._comparisons = comparisons

    def of(self, metric: Metric) -> list[Comparison]:
        return [c for c in self._comparisons if c.metric == metric]

    def find(self, metric: Metric, category: str) -> Comparison | None:
        return next((c for c in self.of(metric) if c.category == category), None)

    def sizes(self, title: str, shown: Sequence[Comparison]) -> None:
        self.section(title, (max(c.predicted, c.measured) for c in shown))

    def lines(self, title: str, found: Sequence[Comparison], names: Mapping[str, str]) -> None:
        if found:
            self.sizes(title, found)
        for c in found:
            self.line(names[c.category], c)

    def line(self, label: str, c: Comparison | None, kind: RowKind = "plain") -> None:
        sides = (c.predicted, c.measured) if c else (0, 0)
        self.add(label, *map(self.text, sides), comparison_text(c) if c else "", kind=kind)

    def sum(self, parts: Sequence[Comparison]) -> None:
        predicted, measured = sum(c.predicted for c in parts), sum(c.measured for c in parts)
        error = error_text((predicted - measured) / measured) if measured else NOTHING
        self.add("sum", self.text(predicted), self.text(measured), error, kind="total")


def comparison_text(c: Comparison) -> str:
    """The signed error; a dash where nothing was measured to relate it to, nothing where nothing
    was predicted."""
    if not c.is_claim:
        return ""
    return NOTHING if c.relative_error is None else error_text(c.relative_error)


def alone_table(record: Record) -> Table:
    """Memory beside the tensors' that was measured and that nothing predicts; only what was
    measured has a row."""
    m = record.measurement
    requested, allocated = m.peak_requested_bytes, m.peak_allocated_bytes
    reserved, used = m.peak_reserved_bytes, m.device_used_bytes

    def beyond(whole: int | None, part: int | None) -> int | None:
        return None if whole is None or part is None else whole - part

    sizes = {
        "rounding": beyond(allocated, requested) or None,
        "workspace_bytes": m.workspace_bytes,
        "peak_reserved_bytes": reserved,
        "fragmentation": beyond(reserved, allocated),
        "device_used_bytes": used,
        "outside": beyond(used, reserved),
        "context_bytes": m.context_bytes,
    }
    known = {name: size for name, size in sizes.items() if size is not None}
    unit, size = byte_unit(max(known.values(), default=0))
    inside = ("fragmentation", "outside")
    rows = [
        Row(cells=(run_labels.ALONE_LABELS[k], in_unit(v, size)), indent=1 + (k in inside))
        for k, v in known.items()
    ]
    return Table(title=f"Other measured memory, {unit}", columns=("", "measured"), rows=tuple(rows))


# --- what sets runs apart -------------------------------------------------------------------------


def distinctions(workloads: Sequence[workload.Workload]) -> list[str]:
    """For each workload, in words, the settings in which they differ; model, method and rank have
    cells of their own."""
    setups = [workload.setup_dict(w.setup) for w in workloads]
    values = ({str(s[o.name]) for s in setups if s[o.name] is not None} for o in _TOLD)
    differing = [option for option, found in zip(_TOLD, values, strict=True) if len(found) > 1]
    return [", ".join(filter(None, (_words(o, setup) for o in differing))) for setup in setups]


def setting(setup: workload.TrainSetup) -> str:
    """'batch 4 x 256, bfloat16, fused, float32 adapters': sizes and dtype, then whatever is not as
    by default."""
    own, usual = workload.setup_dict(setup), workload.setup_dict(_USUAL)
    usual["adapter_dtype"] = setup.dtype  # another one costs memory, the default too
    rest = [
        _words(option, own)
        for option in _TOLD
        if option.name not in ("batch_size", "seq_len", "dtype", "device")
        and own[option.name] != usual[option.name]
    ]
    sizes = f"batch {count_text(setup.batch_size)} x {count_text(setup.seq_len)}"
    return ", ".join(filter(None, (sizes, setup.dtype, *rest)))


_USUAL = workload.TrainSetup(lora=workload.LoraConfig(), quantization=workload.Quantization())
_PARTS = (workload.TrainSetup, workload.LoraConfig, workload.Quantization)
_FIRST = (
    *("batch_size", "seq_len", "accumulation", "dtype", "precision", "checkpointing"),
    *("targets", "adapter_dtype", "dropout", "alpha", "use_rslora"),
    "recipe",
)
"""Told first of each part; what is not named here follows in the order of the command line."""


_TOLD = sorted(
    (option for option in workload.OPTIONS if option.declared.words),
    key=lambda o: (
        o.declared.added,
        _PARTS.index(o.owner),
        _FIRST.index(o.name) if o.name in _FIRST else len(_FIRST),
    ),
)


def _words(option: Option, setup: Mapping[str, Any]) -> str:
    value, words = setup[option.name], option.declared.words
    if value is None or value == [] or (option.name == "alpha" and value == 2 * setup["rank"]):
        return ""
    return valued(words, value)


def category_label(metric: str, category: str) -> str:
    """The words for a category of a metric: a part of memory, a group of phases, or the whole."""
    if category == TOTAL:
        return "whole"
    is_phase = metric.endswith("phase_peak_bytes")
    return (run_labels.PHASE_LABELS if is_phase else labels.CATEGORY_LABELS)[category]
