"""Records and their comparisons as the JSON of `lora-profile bench` and `compare`, and flat for CSV. The schema lies beside."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from lora_profiler.campaign.batch_search import LargestBatch
from lora_profiler.compare import Comparison
from lora_profiler.record import Record
from lora_profiler.record_json import record_dict
from lora_profiler.throughput import throughput
from lora_profiler.workload import setup_dict

SCHEMA_VERSION = "1.0"
_MEASURED = (
    "num_parameters", "num_trainable_parameters", "attention_kernel", "tokens_per_step", "peak_phase", "peak_requested_bytes",
    "peak_allocated_bytes", "peak_reserved_bytes", "device_used_bytes", "workspace_bytes", "context_bytes",
    "saved_activation_bytes",
)  # fmt: skip


def bench_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of what `bench --format json` and `compare --format json` print."""
    from importlib.resources import files

    schema: dict[str, Any] = json.loads(files("lora_profiler.report").joinpath("bench.schema.json").read_text("utf-8"))
    return schema


def bench_payload(
    records: Sequence[Record], comparisons: Sequence[Comparison], largest_batches: Sequence[LargestBatch] = ()
) -> dict[str, Any]:
    """The whole document: raw samples, how predictions stand to them, and what batch searches proved. Nothing else is derived."""
    document = {
        "schema_version": SCHEMA_VERSION,
        "records": [record_dict(record) for record in records],
        "comparisons": [asdict(comparison) for comparison in comparisons],
    }
    if largest_batches:
        document["largest_batches"] = [_largest_batch_dict(found) for found in largest_batches]
    return document


def _largest_batch_dict(found: LargestBatch) -> dict[str, Any]:
    workload = found.records[0].workload
    probes = {"record_ids": [record.id for record in found.records]}
    rest = {f.name: getattr(found, f.name) for f in fields(found) if f.name != "records"}
    return {"model": workload.model.id, "setup": setup_dict(workload.setup) | {"batch_size": None}, **rest, **probes}


def run_records(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One flat record a run for CSV: what was asked, the bytes measured, and the speed that the samples give."""
    return [_run_record(record) for record in records]


def _run_record(record: Record) -> dict[str, Any]:
    measurement, speed = record.measurement, throughput(record)
    return {
        "record_id": record.id,
        "model": record.workload.model.id,
        **{name: _cell(value) for name, value in setup_dict(record.workload.setup).items()},
        "device_name": record.environment.device.name,
        "status": measurement.status,
        "flags": _cell(measurement.flags),
        "reason": measurement.failure.reason if measurement.failure else None,
        **{name: getattr(measurement, name) for name in _MEASURED},
        "timed_steps": len(measurement.step_seconds),
        "median_step_seconds": speed.steps.median if speed else None,
        "low_step_seconds": speed.steps.low if speed else None,
        "high_step_seconds": speed.steps.high if speed else None,
        "tokens_per_second": speed.tokens_per_second if speed else None,
    }


def _cell(value: Any) -> Any:
    return "; ".join(map(str, value)) if isinstance(value, list | tuple) else value


def comparison_records(records: Sequence[Record], comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """One flat record a comparison for CSV, led by the model, method and status of its run."""
    runs: Mapping[str, Record] = {record.id: record for record in records}
    return [
        {
            "model": runs[c.record_id].workload.model.id,
            "method": runs[c.record_id].workload.setup.method,
            "status": runs[c.record_id].measurement.status,
            **asdict(c),
        }
        for c in comparisons
    ]
