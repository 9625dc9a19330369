"""`benchmarks.truth.records`: rows of the error table."""

import records
from benchmarks.truth import records as scored
from lora_profiler.comparison.errors import compare, summary


def test_a_metric_of_which_only_nothing_was_measured_has_a_row() -> None:
    """Predicted 4 bytes, measured 0: no relative error, and no worst record."""
    prediction = records.make_prediction(persistent_bytes={"adapters": 4})
    record = records.make_record(persistent_bytes={"adapters": 0})
    (group,) = [
        g
        for g in summary(compare(record, prediction))
        if g.group == ("persistent_bytes", "adapters")
    ]
    assert group.worst_record_id is None
    assert scored.row(group, {}) == "| persistent_bytes | adapters | 1 |  |  |  |"


def test_the_worst_record_is_named() -> None:
    record = records.make_record(saved_activation_bytes=200_000)
    (group,) = [
        g
        for g in summary(compare(record, records.make_prediction()))
        if g.group[0] == "saved_activation_bytes"
    ]
    assert (
        scored.row(group, {record.id: "a name"})
        == "| saved_activation_bytes | total | 1 | 25.0000% | -25.00 % | a name |"
    )
