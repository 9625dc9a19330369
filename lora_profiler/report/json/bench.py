"""Records and their comparisons as the JSON of `lora-profile bench` and `compare`, and flat for
CSV."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, Literal, NotRequired, TypedDict, cast, get_type_hints

from lora_profiler.measuring.records.record import Record, Status
from lora_profiler.measuring.records.serialize import RecordFields, record_dict
from lora_profiler.question.workload import setup_dict
from lora_profiler.report.json import SCHEMA_VERSION, cell, part, payload_schema, picked
from lora_profiler.report.measured.measurements import rank_persistent_bytes
from lora_profiler.runs.campaign.batch_search import LargestBatch
from lora_profiler.runs.comparison.errors import Comparison, ErrorSummary, Grouping, Metric, Scored
from lora_profiler.runs.comparison.regressions import Change, Pairs, SetupChange
from lora_profiler.runs.comparison.throughput import throughput

MEASURED = (
    "num_parameters num_trainable_parameters attention_kernel tokens_per_step peak_phase"
    " peak_requested_bytes peak_allocated_bytes peak_reserved_bytes device_used_bytes"
)
"""Fields of `record.Measurement` that tables of runs have in full."""


if TYPE_CHECKING:
    ChangeJson = Any
    SummaryJson = Any
else:  # a dataclass as JSON has it, beside what follows from it or leads it
    ChangeJson = TypedDict("ChangeJson", get_type_hints(Change) | {"is_beyond_noise": bool})
    ChangeJson.__doc__ = """A number that a case has on both sides.

    relative_change: (after - before) / before; null where it was 0 before. is_beyond_noise: bytes:
    any difference; medians: of 6 samples or more, with intervals that lie apart.
    """
    _NAMES = dict.fromkeys(("engine", "method", "family", "model", "device"), NotRequired[str])
    _ERRORS = {name: kind for name, kind in get_type_hints(ErrorSummary).items() if name != "group"}
    SummaryJson = TypedDict("SummaryJson", {"metric": Metric, "category": str, **_NAMES, **_ERRORS})
    SummaryJson.__doc__ = """Errors by metric, category and what --by names.

    n: claims; those where 0 was measured have no relative error. worst: the largest in size, with
    its sign; worst_under: the lowest below 0, worst_over: the highest above 0, null if none is.
    """


class RanksJson(TypedDict):
    """How the ranks of a record stand to each other. `imbalance` is how much lower the lowest peak
    is than the highest, as a share of it."""

    record_id: str
    peak_requested_bytes: list[int | None]
    persistent_bytes: list[int | None]
    max_peak_requested_bytes: int | None
    imbalance: float | None


class LargestBatchJson(TypedDict):
    """What bench --largest-batch proved of one model and method.

    setup: as in a workload, batch_size null. batch_size: trained in two processes, and one more ran
    out of memory; 0 if not even 1 trained. upper: the largest that trained; above batch_size only
    if not monotone: a batch trained that is larger than one that did not. emulated: a budget stood
    in for the device's memory. predicted: where the search began. record_ids: every probe, in
    order.
    """

    model: str
    setup: dict[str, Any]
    batch_size: int
    upper: int
    monotone: bool
    emulated: bool
    predicted: int | None
    record_ids: list[str]


class RefusedRecord(TypedDict):
    """A record that nothing could predict."""

    record_id: str
    reason: str


class CaseStatuses(TypedDict):
    """The statuses of the runs of a case that both sides have."""

    case_key: str
    before: list[Status]
    after: list[Status]


class BenchJson(TypedDict):
    """Raw samples of real runs and how predictions stand to them. Bytes are integers; what was not
    measured is null, never 0; a missing phase or category was not seen. New keys may be added under
    the same schema_version.

    ranks: one entry a record of several ranks; absent without one. largest_batches: bench
    --largest-batch. summaries, refusals: compare. against, changes, setup_changes, outcomes:
    compare --against; `against` are the records after, where `records` are those before, and
    nothing is predicted then.
    """

    schema_version: Literal["1.0"]
    records: list[RecordFields]
    comparisons: list[Comparison]
    ranks: NotRequired[list[RanksJson]]
    largest_batches: NotRequired[list[LargestBatchJson]]
    summaries: NotRequired[list[SummaryJson]]
    refusals: NotRequired[list[RefusedRecord]]
    against: NotRequired[list[RecordFields]]
    changes: NotRequired[list[ChangeJson]]
    setup_changes: NotRequired[list[SetupChange]]
    outcomes: NotRequired[list[CaseStatuses]]


def bench_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of what `bench --format json` and `compare --format json` print.

    Examples:
        >>> from lora_profiler.report.json.bench import bench_schema
        >>> bench_schema()["type"]
        'object'
    """
    title = "lora-profile bench --format json, lora-profile compare --format json"
    return payload_schema(BenchJson, title=title)


def bench_payload(
    records: Sequence[Record],
    comparisons: Sequence[Comparison],
    largest_batches: Sequence[LargestBatch] = (),
) -> BenchJson:
    """The whole document: raw samples, how predictions stand to them, how ranks stand to each
    other, and what batch searches proved. Nothing else is derived.

    Examples:
        >>> from pathlib import Path
        >>> from lora_profiler import Store
        >>> from lora_profiler.report.json.bench import bench_payload
        >>> path = Path("benchmarks/records/cpu-epyc/cpu_families.jsonl")
        >>> record = Store(path).records()[0]
        >>> sorted(bench_payload([record], []))
        ['comparisons', 'records', 'schema_version']
    """
    document: BenchJson = {
        "schema_version": SCHEMA_VERSION,
        "records": _record_fields(records),
        "comparisons": [cast(Any, asdict(comparison)) for comparison in comparisons],
    }
    of_ranks = [_ranks(record) for record in records if record.measurement.ranks]
    if of_ranks:
        document["ranks"] = of_ranks
    if largest_batches:
        document["largest_batches"] = [
            part(
                LargestBatchJson,
                found,
                model=found.records[0].workload.model.id,
                setup=setup_dict(found.records[0].workload.setup) | {"batch_size": None},
                record_ids=[record.id for record in found.records],
            )
            for found in largest_batches
        ]
    return document


def compare_payload(
    scored: Sequence[Scored],
    comparisons: Sequence[Comparison],
    summaries: Sequence[Mapping[str, Any]],
) -> BenchJson:
    """The same for `compare`, with `summary_records` and why records could not be predicted."""
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
) -> BenchJson:
    """Two sets: `records` before, `against` after; nothing is predicted."""
    before = [*(r for pair in pairs.pairs for r in pair.before), *pairs.only_before]
    after = [*(r for pair in pairs.pairs for r in pair.after), *pairs.only_after]
    return {
        **bench_payload(before, ()),
        "against": _record_fields(after),
        "changes": [part(ChangeJson, change) for change in found],
        "setup_changes": [cast(Any, asdict(change)) for change in setup],
        "outcomes": [
            {
                "case_key": pair.case_key,
                "before": [r.measurement.status for r in pair.before],
                "after": [r.measurement.status for r in pair.after],
            }
            for pair in pairs.pairs
        ],
    }


def _record_fields(records: Sequence[Record]) -> list[RecordFields]:
    return [cast(RecordFields, record_dict(record)) for record in records]


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
                side if name == "value" else f"{side}_{name}": cell(value)
                for side in ("before", "after")
                for name, value in asdict(getattr(c, side)).items()
            },
            "relative_change": c.relative_change,
            "is_beyond_noise": c.is_beyond_noise,
        }
        for c in found
    ]


def _ranks(record: Record) -> RanksJson:
    m = record.measurement
    peaks = [r.peak_requested_bytes for r in m.ranks]
    return {
        "record_id": record.id,
        "peak_requested_bytes": peaks,
        "persistent_bytes": [rank_persistent_bytes(r) for r in m.ranks],
        "max_peak_requested_bytes": max((p for p in peaks if p is not None), default=None),
        "imbalance": m.rank_imbalance,
    }


def run_records(records: Sequence[Record]) -> list[dict[str, Any]]:
    return list(map(_run_record, records))


def _run_record(record: Record) -> dict[str, Any]:
    """Flat for CSV: what was asked, bytes measured, and speed."""
    measurement, speed = record.measurement, throughput(record)
    return {
        "record_id": record.id,
        "model": record.workload.model.id,
        **{name: cell(value) for name, value in setup_dict(record.workload.setup).items()},
        "device_name": record.environment.device.name,
        "status": measurement.status,
        "flags": cell(measurement.flags),
        "reason": measurement.failure.reason if measurement.failure else None,
        **picked(measurement, f"{MEASURED} workspace_bytes context_bytes saved_activation_bytes"),
        "timed_steps": len(measurement.step_seconds),
        "median_step_seconds": speed.steps.median if speed else None,
        "low_step_seconds": speed.steps.low if speed else None,
        "high_step_seconds": speed.steps.high if speed else None,
        "tokens_per_second": speed.tokens_per_second if speed else None,
    }


def comparison_records(
    records: Sequence[Record], comparisons: Sequence[Comparison]
) -> list[dict[str, Any]]:
    """A flat record a comparison for CSV, led by what its run was."""
    runs = {
        record.id: {
            "model": record.workload.model.id,
            "method": record.workload.setup.method,
            "family": record.workload.model.model_type,
            "device": record.environment.device.name,
            "status": record.measurement.status,
        }
        for record in records
    }
    return [{**runs[c.record_id], **asdict(c)} for c in comparisons]
