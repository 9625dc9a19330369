"""The numbers of a page for machines: every record with its own numbers, and every comparison,
column by column."""

from collections.abc import Sequence
from typing import Any

from lora_profiler.comparison.errors import Comparison
from lora_profiler.planning.answers import Answer
from lora_profiler.report.json.predict import answer_dict
from lora_profiler.report.page.runs import Run
from lora_profiler.workload import setup_dict

SCHEMA_VERSION = "1.0"
MEASURED = (
    "num_parameters",
    "num_trainable_parameters",
    "attention_kernel",
    "tokens_per_step",
    "peak_phase",
    "peak_requested_bytes",
    "peak_allocated_bytes",
    "peak_reserved_bytes",
    "device_used_bytes",
    "saved_activation_bytes",
)
"""Fields of `record.Measurement` that every record of a page has in full."""


def page_data(runs: Sequence[Run], answers: Sequence[Answer]) -> dict[str, Any]:
    """{"schema_version", "records": {name: [...]}, "comparisons": [...], "refusals": [...],
    "predictions": [...]}.

    `records` has a list for each field, with one value a record. Each of `comparisons` is one
    metric and category of an engine: `measured` has one value a record too, null where nothing was
    compared, and so has `difference`, which is predicted - measured; relative_error is difference /
    measured. `predictions` are those of `predict --format json`.
    """
    rows = [_row(run) for run in runs]
    return {
        "schema_version": SCHEMA_VERSION,
        "records": {name: [row[name] for row in rows] for name in (rows[0] if rows else ())},
        "comparisons": _comparisons(runs),
        "refusals": [
            {"record_id": run.record_id, "reason": run.scored.refusal}
            for run in runs
            if run.scored.refusal is not None
        ],
        "predictions": [answer_dict(answer) for answer in answers],
    }


def _row(run: Run) -> dict[str, Any]:
    record = run.scored.record
    measured = record.measurement
    return {
        "record_id": run.record_id,
        "model": record.workload.model.id,
        "model_type": record.workload.model.model_type,
        **setup_dict(record.workload.setup),
        "device_name": record.environment.device.name,
        "status": measured.status,
        "flags": list(measured.flags),
        "reason": measured.failure.reason if measured.failure else None,
        **{name: getattr(measured, name) for name in MEASURED},
        "timed_steps": len(measured.step_seconds),
        "median_step_seconds": run.speed.steps.median if run.speed else None,
    }


def _comparisons(runs: Sequence[Run]) -> list[dict[str, Any]]:
    columns: dict[tuple[str, str, str], dict[int, Comparison]] = {}
    for number, run in enumerate(runs):
        for c in run.scored.comparisons:
            columns.setdefault((c.metric, c.category, c.engine), {})[number] = c
    numbers = range(len(runs))
    return [
        {
            "metric": metric,
            "category": category,
            "engine": engine,
            "measured": [by_run[n].measured if n in by_run else None for n in numbers],
            "difference": [
                by_run[n].predicted - by_run[n].measured if n in by_run else None for n in numbers
            ],
        }
        for (metric, category, engine), by_run in columns.items()
    ]
