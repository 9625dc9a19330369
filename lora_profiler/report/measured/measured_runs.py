"""Many records: a row for each run, live or at the end, and the errors of all of them by metric and
category."""

from collections.abc import Mapping, Sequence
from typing import Any

from lora_profiler.comparison.errors import (
    TOTAL,
    Comparison,
    ErrorSummary,
    compare,
    counted_peak,
    summary,
)
from lora_profiler.comparison.throughput import throughput
from lora_profiler.option import Option
from lora_profiler.prediction import Prediction
from lora_profiler.records.record import Record
from lora_profiler.report import labels
from lora_profiler.report.blocks import Row, Table, filled
from lora_profiler.report.labels import method_label
from lora_profiler.report.measured import run_labels
from lora_profiler.units import (
    bytes_text,
    count_text,
    error_text,
    percent_text,
    rate_text,
    seconds_text,
)
from lora_profiler.workload import (
    OPTIONS,
    LoraConfig,
    Quantization,
    TrainSetup,
    Workload,
    setup_dict,
)

RUN_COLUMNS = ("model", "method", "setup", "status", "peak", "predicted", "error", "step", "tokens")
COMPARED_PEAK = "peak_requested_bytes"


def run_row(record: Record, prediction: Prediction, distinction: str = "") -> Row:
    """One run under `RUN_COLUMNS`. `distinction` says what sets it apart from its neighbours: see
    `distinctions`."""
    measured = record.measurement.peak_requested_bytes
    error = next(
        (c.relative_error for c in compare(record, prediction) if c.metric == COMPARED_PEAK), None
    )
    speed = throughput(record)
    tokens = speed.tokens_per_second if speed else None
    at_least = "" if record.measurement.went_through else ">= "
    lower = "" if prediction.saved_activation_bytes is not None else ">= "
    return Row(
        cells=(
            record.workload.model.id,
            method_label(prediction),
            distinction,
            run_labels.status_label(record),
            at_least + bytes_text(measured) if measured is not None else "",
            lower + bytes_text(counted_peak(prediction)),
            error_text(error) if error is not None else "",
            seconds_text(speed.steps.median) if speed else "",
            rate_text(tokens) if tokens is not None else "",
        )
    )


def run_text(record: Record, prediction: Prediction, distinction: str = "") -> str:
    """The same on one line, for a run that has just ended: 'gpt2, full, batch 4: ok, peak 2.3 GiB,
    predicted ...'."""
    model, method, what, status, peak, predicted, error, step, tokens = run_row(
        record, prediction, distinction
    ).cells
    parts = [
        status,
        f"peak {peak}" if peak else "",
        f"predicted {predicted}",
        f"error {error}" if error else "",
    ]
    parts += [f"{step} a step" if step else "", tokens.replace("/s", " tokens/s")]
    return f"{', '.join(filter(None, (model, method, what)))}: {', '.join(filter(None, parts))}"


def summary_table(pairs: Sequence[tuple[Record, Prediction]]) -> Table:
    """A row for each record, failures included, in the order given. A column that no run fills is
    left out."""
    words = distinctions([record.workload for record, _ in pairs])
    rows = [
        run_row(record, prediction, what)
        for (record, prediction), what in zip(pairs, words, strict=True)
    ]
    return filled(Table(columns=RUN_COLUMNS, rows=tuple(rows), left=4))


# --- what sets runs apart -------------------------------------------------------------------------


def distinctions(workloads: Sequence[Workload]) -> list[str]:
    """For each workload, in words, the settings in which they differ; model, method and rank have
    cells of their own."""
    setups = [setup_dict(w.setup) for w in workloads]
    differing = [
        option
        for option in _TOLD
        if len({str(s[option.name]) for s in setups if s[option.name] is not None}) > 1
    ]
    return [", ".join(filter(None, (_words(o, setup) for o in differing))) for setup in setups]


def setting(setup: TrainSetup) -> str:
    """'batch 4 x 256, bfloat16, fused, float32 adapters': sizes and dtype, then whatever is not as
    by default."""
    own, usual = setup_dict(setup), setup_dict(_USUAL)
    usual["adapter_dtype"] = setup.dtype  # another one costs memory, the default too
    rest = [
        _words(option, own)
        for option in _TOLD
        if option.name not in ("batch_size", "seq_len", "dtype", "device")
        and own[option.name] != usual[option.name]
    ]
    sizes = f"batch {count_text(setup.batch_size)} x {count_text(setup.seq_len)}"
    return ", ".join(filter(None, (sizes, setup.dtype, *rest)))


_USUAL = TrainSetup(lora=LoraConfig(), quantization=Quantization())
_PARTS = (TrainSetup, LoraConfig, Quantization)
_FIRST = (
    *("batch_size", "seq_len", "accumulation", "dtype", "precision", "checkpointing"),
    *("targets", "adapter_dtype", "dropout", "alpha", "use_rslora"),
    "recipe",
)
"""Told first of each part; what is not named here follows in the order of the command line."""


def _order(option: Option) -> tuple[int, int, int]:
    position = _FIRST.index(option.name) if option.name in _FIRST else len(_FIRST)
    return option.declared.added, _PARTS.index(option.owner), position


_TOLD = sorted((option for option in OPTIONS if option.declared.words), key=_order)


def _words(option: Option, setup: Mapping[str, Any]) -> str:
    value, words = setup[option.name], option.declared.words
    if value is None or value == [] or (option.name == "alpha" and value == 2 * setup["rank"]):
        return ""
    if option.kind == "switch":
        return words.split("|")[0 if value else 1]
    if isinstance(value, list):
        value = " ".join(map(str, value))
    elif isinstance(value, int):
        value = count_text(value)
    elif isinstance(value, float):
        value = f"{value:g}"
    return words.format(value)


# --- errors of all --------------------------------------------------------------------------------


def error_summary(
    comparisons: Sequence[Comparison], names: Mapping[str, str] | None = None
) -> Table:
    """Mean and worst error of each metric and category, and where the worst is. Rows that nothing
    predicts are left out.

    `names` are shorter ones for the records, by id.
    """
    rows = []
    metric = ""
    for found in summary(comparisons):
        if found.group[0] != metric:
            metric = found.group[0]
            rows.append(Row(cells=(run_labels.METRIC_LABELS[metric],), kind="section"))
        rows.append(
            Row(
                cells=(
                    category_label(metric, found.group[1], "all together"),
                    *_error_cells(found, names or {}),
                ),
                indent=1,
            )
        )
    columns = ("", "n", "mean of absolute", "median", "worst", "within 1 %", "worst record")
    return Table(title="Errors over all records", columns=columns, rows=tuple(rows))


def category_label(metric: str, category: str, whole: str = "whole") -> str:
    """The words for a category of a metric: a part of memory, a group of phases, or the whole."""
    if category == TOTAL:
        return whole
    is_phase = metric.endswith("phase_peak_bytes")
    return (run_labels.PHASE_LABELS if is_phase else labels.CATEGORY_LABELS)[category]


def _error_cells(found: ErrorSummary, names: Mapping[str, str]) -> tuple[str, ...]:
    within = f"{100 * found.share_within_1_percent:.0f} %"
    if found.mean_absolute is None or found.median is None or found.worst is None:
        return (count_text(found.n), "", "", "", within, "")
    absolute = percent_text(found.mean_absolute) if found.mean_absolute else "exact"
    worst = (found.worst_record_id or "") if found.worst else ""
    errors = (absolute, error_text(found.median), error_text(found.worst), within)
    return (count_text(found.n), *errors, names.get(worst, worst))
