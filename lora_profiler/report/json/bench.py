"""Records and their comparisons as the JSON of `lora-profile bench` and `compare`, and flat for
CSV."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, Literal, cast

from lora_profiler.campaign.batch_search import LargestBatch
from lora_profiler.comparison.errors import Comparison, ErrorSummary, Grouping
from lora_profiler.comparison.regressions import Change, Pairs, SetupChange
from lora_profiler.comparison.scored import Scored
from lora_profiler.comparison.throughput import throughput
from lora_profiler.records.record import Record
from lora_profiler.records.serialize import record_dict
from lora_profiler.report.json import picked, plain
from lora_profiler.report.measured.process_group import ranks_record
from lora_profiler.workload import setup_dict

if TYPE_CHECKING:
    from lora_profiler.records.serialize import RecordFields
    from lora_profiler.report.json import bench_types as types

SCHEMA_VERSION: Literal["1.0"] = "1.0"
MEASURED = (
    "num_parameters num_trainable_parameters attention_kernel tokens_per_step peak_phase"
    " peak_requested_bytes peak_allocated_bytes peak_reserved_bytes device_used_bytes"
)
"""Fields of `record.Measurement` that tables of runs have in full."""


def bench_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of what `bench --format json` and `compare --format json` print.

    Examples:
        >>> from lora_profiler import bench_schema
        >>> bench_schema()["type"]
        'object'
    """
    from lora_profiler.report.json.bench_types import BenchJson
    from lora_profiler.report.json.schema import payload_schema

    title = "lora-profile bench --format json, lora-profile compare --format json"
    return payload_schema(BenchJson, title=title)


def bench_payload(
    records: Sequence[Record],
    comparisons: Sequence[Comparison],
    largest_batches: Sequence[LargestBatch] = (),
) -> "types.BenchJson":
    """The whole document: raw samples, how predictions stand to them, how ranks stand to each
    other, and what batch searches proved. Nothing else is derived.

    Examples:
        >>> from pathlib import Path
        >>> from lora_profiler import Store, bench_payload
        >>> path = Path("benchmarks/records/cpu-epyc/cpu_families.jsonl")
        >>> record = Store(path).records()[0]
        >>> sorted(bench_payload([record], []))
        ['comparisons', 'records', 'schema_version']
    """
    document: types.BenchJson = {
        "schema_version": SCHEMA_VERSION,
        "records": _record_fields(records),
        "comparisons": [plain(comparison) for comparison in comparisons],
    }
    of_ranks = [ranks_record(record) for record in records if record.measurement.ranks]
    if of_ranks:
        document["ranks"] = of_ranks
    if largest_batches:
        document["largest_batches"] = [_largest_batch_dict(found) for found in largest_batches]
    return document


def compare_payload(
    scored: Sequence[Scored],
    comparisons: Sequence[Comparison],
    summaries: Sequence[Mapping[str, Any]],
) -> "types.BenchJson":
    """The same for `compare`: with errors by group (`summary_records`), and why records could not
    be predicted."""
    return {
        **bench_payload([s.record for s in scored], comparisons),
        "summaries": list(summaries),
        "refusals": [
            {"record_id": s.record.id, "reason": s.refusal} for s in scored if s.refusal is not None
        ],
    }


def summary_records(found: Sequence[ErrorSummary], by: Sequence[Grouping]) -> list[dict[str, Any]]:
    """One flat record a group: the values that its members share, and their errors."""
    errors = [f.name for f in fields(ErrorSummary) if f.name != "group"]
    return [
        {**dict(zip(by, s.group, strict=True)), **{name: getattr(s, name) for name in errors}}
        for s in found
    ]


def change_payload(
    pairs: Pairs, found: Sequence[Change], setup: Sequence[SetupChange]
) -> "types.BenchJson":
    """Two sets against each other: `records` are those before, `against` those after; nothing is
    predicted."""
    before = [*(r for pair in pairs.pairs for r in pair.before), *pairs.only_before]
    after = [*(r for pair in pairs.pairs for r in pair.after), *pairs.only_after]
    return {
        **bench_payload(before, ()),
        "against": _record_fields(after),
        "changes": [_change_dict(change) for change in found],
        "setup_changes": [plain(change) for change in setup],
        "outcomes": [
            {
                "case_key": pair.case_key,
                "before": [r.measurement.status for r in pair.before],
                "after": [r.measurement.status for r in pair.after],
            }
            for pair in pairs.pairs
        ],
    }


def _record_fields(records: Sequence[Record]) -> "list[RecordFields]":
    return [cast("RecordFields", record_dict(record)) for record in records]


_SIDES = ("before", "after")


def _change_dict(change: Change) -> dict[str, Any]:
    return {**asdict(change), "is_beyond_noise": change.is_beyond_noise}


def change_records(pairs: Pairs, found: Sequence[Change]) -> list[dict[str, Any]]:
    """One flat record a change for CSV, led by the model and method of its case."""
    workloads = {pair.case_key: pair.before[0].workload for pair in pairs.pairs}
    return [
        {
            "model": workloads[c.case_key].model.id,
            "method": workloads[c.case_key].setup.method,
            "case_key": c.case_key,
            "metric": c.metric,
            **{
                side if name == "value" else f"{side}_{name}": _cell(value)
                for side in _SIDES
                for name, value in asdict(getattr(c, side)).items()
            },
            "relative_change": c.relative_change,
            "is_beyond_noise": c.is_beyond_noise,
        }
        for c in found
    ]


def _largest_batch_dict(found: LargestBatch) -> "types.LargestBatchJson":
    workload = found.records[0].workload
    return {
        "model": workload.model.id,
        "setup": setup_dict(workload.setup) | {"batch_size": None},
        "batch_size": found.batch_size,
        "upper": found.upper,
        "monotone": found.monotone,
        "emulated": found.emulated,
        "predicted": found.predicted,
        "record_ids": [record.id for record in found.records],
    }


def run_records(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One flat record a run for CSV: what was asked, the bytes measured, and the speed that the
    samples give."""
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
        **picked(measurement, f"{MEASURED} workspace_bytes context_bytes saved_activation_bytes"),
        "timed_steps": len(measurement.step_seconds),
        "median_step_seconds": speed.steps.median if speed else None,
        "low_step_seconds": speed.steps.low if speed else None,
        "high_step_seconds": speed.steps.high if speed else None,
        "tokens_per_second": speed.tokens_per_second if speed else None,
    }


def _cell(value: Any) -> Any:
    return "; ".join(map(str, value)) if isinstance(value, list | tuple) else value


def comparison_records(
    records: Sequence[Record], comparisons: Sequence[Comparison]
) -> list[dict[str, Any]]:
    """One flat record a comparison for CSV, led by the model, method, family, device and status of
    its run."""
    runs = {record.id: _run_names(record) for record in records}
    return [{**runs[c.record_id], **asdict(c)} for c in comparisons]


def _run_names(record: Record) -> dict[str, str]:
    return {
        "model": record.workload.model.id,
        "method": record.workload.setup.method,
        "family": record.workload.model.model_type,
        "device": record.environment.device.name,
        "status": record.measurement.status,
    }
