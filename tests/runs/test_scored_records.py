"""`benchmarks.truth.records`: rows of the error table."""

import records
from benchmarks.truth.records import cells
from lora_profiler.measuring.records.record import Record
from lora_profiler.runs.comparison.errors import ErrorSummary, compare, summary


def group_of(record: Record, metric: str, category: str, **predicted: object) -> ErrorSummary:
    found = summary(compare(record, records.make_prediction(**predicted)))
    return next(each for each in found if each.group == (metric, category))


def test_a_metric_of_which_only_nothing_was_measured_has_a_row() -> None:
    """Predicted 4 bytes, measured 0: no relative error, and no worst record."""
    record = records.make_record(persistent_bytes={"adapters": 0})
    group = group_of(record, "persistent_bytes", "adapters", persistent_bytes={"adapters": 4})
    assert group.worst_record_id is None
    assert cells(group, {}) == ["persistent_bytes", "adapters", "1", "", "", ""]


def test_the_worst_record_is_named() -> None:
    record = records.make_record(saved_activation_bytes=200_000)
    group = group_of(record, "saved_activation_bytes", "total")
    found = cells(group, {record.id: "a name"})
    assert found == ["saved_activation_bytes", "total", "1", "25.0000%", "-25.00 %", "a name"]
