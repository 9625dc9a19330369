"""The records of a page, numbered: every one in a table of its own, and every one that did not go
through with its reason."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import median
from typing import Final

from lora_profiler.measuring.records.record import Record, Status
from lora_profiler.question.workload import Method, Workload
from lora_profiler.report.blocks import Card, Part, Section, Table, filled, paragraph, table
from lora_profiler.report.charts.plot import shortened
from lora_profiler.report.labels import way_label
from lora_profiler.report.measured import run_labels
from lora_profiler.report.measured.comparisons import run_cells
from lora_profiler.report.measured.measurements import comparison_text, ranks_text
from lora_profiler.report.measured.run_labels import advice
from lora_profiler.runs.comparison import errors
from lora_profiler.runs.comparison.throughput import Throughput, throughput
from lora_profiler.units import bytes_text, count_text, rate_text, seconds_text

MOST_ROWS = 800
"""Rows of the tables of all runs. The embedded data hold more."""
PEAK: errors.Metric = "peak_requested_bytes"
LONGEST_ID = 120
FEW = 4
"""Runs whose peaks are headlines."""


@dataclass(frozen=True, kw_only=True)
class NumberedRun:
    """A scored record as pages speak of it. `number` counts from 1 in the order given; what takes
    long is kept: the id, `cells` of model, method and setup, and the peak, predicted and measured,
    where both are known."""

    number: int
    scored: errors.Scored
    record_id: str
    record: Record
    cells: tuple[str, str, str]
    peak: errors.Comparison | None
    model: str
    family: str
    method: Method
    device: str
    status: Status

    @property
    def name(self) -> str:
        """'#12 gpt2, LoRA r16, batch 2 x 512, float32'."""
        return f"#{self.number} {', '.join(self.cells)}"

    @cached_property  # its intervals take most of a millisecond, which few pages need of all runs
    def speed(self) -> Throughput | None:
        return throughput(self.record)

    @property
    def step_seconds(self) -> float | None:
        measured = self.record.measurement
        known = measured.went_through and measured.step_seconds
        return median(measured.step_seconds) if known else None

    @property
    def tokens_per_second(self) -> float | None:
        seconds, tokens = self.step_seconds, self.record.measurement.tokens_per_step
        return tokens / seconds if seconds and tokens else None

    @property
    def is_timed(self) -> bool:
        return self.speed is not None and self.speed.tokens_per_second is not None

    @property
    def measured_bytes(self) -> int | None:
        return self.record.measurement.peak_requested_bytes

    @property
    def predicted_bytes(self) -> int | None:
        """The whole peak; None where only a lower bound of it is known."""
        prediction = self.scored.prediction
        if prediction is None or not prediction.is_whole:
            return None
        return errors.counted_peak(prediction)

    @property
    def error(self) -> float | None:
        return None if self.peak is None else self.peak.relative_error


def numbered(scored: Iterable[errors.Scored]) -> list[NumberedRun]:
    """A run for each record, failures included, in their order."""
    cells: dict[Workload, tuple[str, str, str]] = {}  # of many records few workloads differ
    runs = []
    for number, s in enumerate(scored, 1):
        record, workload = s.record, s.record.workload
        if workload not in cells:
            cells[workload] = run_cells(record)
        peaks = (c for c in s.comparisons if c.metric == PEAK and c.category == errors.TOTAL)
        runs.append(
            NumberedRun(
                number=number,
                scored=s,
                record_id=record.id,
                record=record,
                cells=cells[workload],
                peak=next(peaks, None),
                model=workload.model.id,
                family=workload.model.model_type,
                method=workload.setup.method,
                device=record.environment.device.name,
                status=record.measurement.status,
            )
        )
    return runs


def worst_first(runs: Sequence[NumberedRun]) -> list[NumberedRun]:
    """By the size of the peak's error, the largest first, those without one last; stable."""
    return sorted(runs, key=lambda run: -1.0 if run.error is None else abs(run.error), reverse=True)


# --- what differs in the method alone -------------------------------------------------------------


def groups_alike(runs: Sequence[NumberedRun]) -> list[list[NumberedRun]]:
    """Groups of runs with the same model, sizes, dtype, optimizer and device, one run a workload,
    full fine-tuning first.

    Only groups with several methods or ranks. In order of the largest peak, the largest first.
    """
    groups: dict[tuple[Workload, str], dict[Workload, NumberedRun]] = {}
    for run in runs:
        record = run.record
        if record.measurement.went_through:
            setup = replace(record.workload.setup, lora=None, quantization=None)
            key = replace(record.workload, setup=setup), record.environment.key
            groups.setdefault(key, {}).setdefault(record.workload, run)

    def order(run: NumberedRun) -> tuple[int, int, int]:
        setup = run.record.workload.setup
        rank = setup.lora.r if setup.lora else 0
        return ("full", "lora", "qlora").index(setup.method), rank, run.number

    several = [sorted(of.values(), key=order) for of in groups.values() if len(of) > 1]
    return sorted(several, key=lambda group: -max(run.measured_bytes or 0 for run in group))


def full_and_lora(groups: Sequence[Sequence[NumberedRun]]) -> list[NumberedRun]:
    """Full fine-tuning and the first LoRA of the first predicted group with both, or nothing."""
    for group in groups:
        full = [run for run in group if run.record.workload.setup.lora is None]
        lora = [run for run in group if run.record.workload.setup.lora is not None]
        if full and lora and full[0].scored.prediction and lora[0].scored.prediction:
            return [full[0], lora[0]]
    return []


# --- all of them ----------------------------------------------------------------------------------


def runs_section(runs: Sequence[NumberedRun]) -> Section | None:
    if not runs:
        return None
    parts: list[Part] = [runs_table(runs)]
    if len(runs) > MOST_ROWS:
        shown = sorted(worst_first(runs)[:MOST_ROWS], key=lambda run: run.number)
        said = (
            f"The {count_text(len(shown))} runs with the largest errors of"
            f" {count_text(len(runs))}; the downloads at the top hold all of them."
        )
        parts = [paragraph(said), runs_table(shown)]
    return Section("runs", "All runs", tuple(parts))


def runs_table(runs: Sequence[NumberedRun]) -> Table:
    found = table(
        runs,
        (
            *NAMES,
            ("status", lambda run: run_labels.status_label(run.record)),
            ("peak", _peak_text),
            ("ranks", lambda run: ranks_text(run.record)),
            ("predicted", _prediction_text),
            ("error", lambda run: comparison_text(run.peak) if run.peak else ""),
            ("step", lambda run: seconds_text(run.speed.steps.median) if run.speed else ""),
            ("tokens/s", tokens_text),
            ("record", _tail),
        ),
        title="Peak predicted and measured, time of a step",
        left=5,
    )
    return filled(found)


NAMES: Final[tuple[tuple[str, Callable[[NumberedRun], str]], ...]] = (
    ("#", lambda run: count_text(run.number)),
    ("model", lambda run: run.cells[0]),
    ("method", lambda run: run.cells[1]),
    ("setup", lambda run: run.cells[2]),
)
"""The columns that name a run."""


def tokens_text(run: NumberedRun) -> str:
    tokens = run.speed.tokens_per_second if run.speed else None
    return rate_text(tokens).removesuffix("/s") if tokens is not None else ""


def _tail(run: NumberedRun) -> str:
    """A record's id without the model and the method, which have columns of their own."""
    workload = run.record.workload
    named = f"{workload.model.id.replace('/', '--')}-{workload.setup.method}-"
    return shortened(run.record_id.removeprefix(named), LONGEST_ID)


def _peak_text(run: NumberedRun) -> str:
    if run.measured_bytes is None:
        return ""
    bound = "" if run.record.measurement.went_through else "≥ "
    return f"{bound}{bytes_text(run.measured_bytes)}"


def _prediction_text(run: NumberedRun) -> str:
    prediction = run.scored.prediction
    bound = "" if prediction is None or prediction.is_whole else "≥ "
    return f"{bound}{_bare_prediction(run)}"


# --- what did not go through ----------------------------------------------------------------------


def failures_section(runs: Sequence[NumberedRun]) -> Section | None:
    """Runs that did not go through, and workloads not predicted; a sentence without any."""
    if not runs:
        return None
    failed = [run for run in runs if not run.record.measurement.went_through]
    refused = [run for run in runs if run.scored.refusal is not None]
    parts: list[Part] = []
    if failed:
        parts += [failures_table(failed[:MOST_ROWS]), paragraph(*_definitions(failed))]
        if len(failed) > MOST_ROWS:
            of = f"The first {count_text(MOST_ROWS)} of {count_text(len(failed))}"
            parts.append(paragraph(f"{of}; the downloads hold all."))
    else:
        all_well = "Every run went through: none ran out of memory, crashed, or was ended."
        parts.append(paragraph(all_well))
    if refused:
        why = ("why", lambda run: shortened(run.scored.refusal or "", 300))
        title = "Runs that nothing could predict"
        parts.append(table(refused[:MOST_ROWS], (*NAMES, why), title=title, left=5))
    return Section("failures", "What did not go through", tuple(parts))


def failures_table(failed: Sequence[NumberedRun]) -> Table:
    """How each ended, what was known by then, what had been predicted, and what to try."""

    def reason(run: NumberedRun) -> str:
        failure = run.record.measurement.failure
        return shortened(failure.reason, LONGEST_ID) if failure else ""

    def least_peak(run: NumberedRun) -> str:
        least = errors.lower_bounds(run.record).get(PEAK)
        return "" if least is None else bytes_text(least)

    return table(
        failed,
        (
            *NAMES,
            ("status", lambda run: run_labels.STATUS_LABELS[run.status]),
            ("where", _where),
            ("reason", reason),
            ("at least, by then", least_peak),
            ("predicted", _bare_prediction),
        ),
        title="Runs that ended early: results too",
        left=7,
    )


def _where(run: NumberedRun) -> str:
    failure = run.record.measurement.failure
    if failure is None or failure.phase is None:
        return ""
    phase, step = failure.phase, failure.step
    label = run_labels.PHASE_LABELS.get(phase) or run_labels.STAGE_LABELS.get(phase, phase)
    return label if step is None else f"{label}, step {step}"


def _bare_prediction(run: NumberedRun) -> str:
    prediction = run.scored.prediction
    return bytes_text(errors.counted_peak(prediction)) if prediction else ""


def _definitions(failed: Sequence[NumberedRun]) -> list[str]:
    lines = []
    for status in dict.fromkeys(run.status for run in failed):
        remedies = dict.fromkeys(advice(run.record) for run in failed if run.status == status)
        label, meaning = run_labels.STATUS_LABELS[status], run_labels.STATUS_DEFINITIONS[status]
        to_try = (f"To try: {remedy}." for remedy in remedies if remedy)
        lines.append(" ".join([f"{label.capitalize()}: {meaning}.", *to_try]))
    return lines


# --- in short -------------------------------------------------------------------------------------


def run_cards(runs: Sequence[NumberedRun]) -> list[Card]:
    """How many, and how many of them went through; of a few, the peak of each."""
    if not runs:
        return []
    through = sum(run.record.measurement.went_through for run in runs)
    ended = len(runs) - through
    models = len({run.model for run in runs})
    of = f"of {count_text(models)} models; " if models > 1 else ""
    note = "all went through" if not ended else f"{count_text(ended)} did not go through"
    peaks = [_peak_card(run) for run in runs] if len(runs) <= FEW else []
    return [*peaks, Card(label="runs", value=count_text(len(runs)), note=of + note)]


def _peak_card(run: NumberedRun) -> Card:
    speed, predicted = run.speed, _bare_prediction(run)
    notes = [f"predicted {predicted}" if predicted else "not predicted"]
    notes += [comparison_text(run.peak)] if run.peak else []
    if speed and speed.tokens_per_second is not None:
        notes.append(rate_text(speed.tokens_per_second, "tokens"))
    size, name = _peak_text(run), way_label(run.record.workload.setup)
    status = run_labels.STATUS_LABELS[run.status]
    return Card(f"{name} peaks at" if size else name, size or status, note=", ".join(notes))
