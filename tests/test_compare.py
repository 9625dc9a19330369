"""Predicted against measured on records made by hand, whose errors can be worked out on paper."""

from dataclasses import replace

import pytest

import records
from lora_profiler.analytic import predict
from lora_profiler.catalog import find_model
from lora_profiler.compare import METRICS, TOTAL, Comparison, compare, lower_bounds, misses, summary
from lora_profiler.record import STATUSES
from lora_profiler.record_checks import problems
from lora_profiler.workload import Workload


def by_place(found: tuple[Comparison, ...]) -> dict[tuple[str, str], tuple[int, int]]:
    return {(c.metric, c.category): (c.predicted, c.measured) for c in found}


def test_the_records_made_by_hand_hold_together() -> None:
    assert problems(records.make_record()) == []
    assert problems(records.make_record(device=records.H100, step_seconds=(0.1,) * 10)) == []


def test_every_row_of_a_record() -> None:
    """All that the default record and prediction of `records` share, in the order of the metrics."""
    found = compare(records.make_record(), records.make_prediction())
    assert by_place(found) == {
        ("peak_requested_bytes", TOTAL): (2_000_000, 2_000_000),
        ("peak_allocated_bytes", TOTAL): (2_000_000, 2_000_000),
        ("attribution_bytes", "parameters"): (400_000, 400_000),
        ("attribution_bytes", "gradients"): (400_000, 400_000),
        ("attribution_bytes", "optimizer_states"): (800_000, 800_000),
        ("attribution_bytes", "inputs"): (128, 0),
        ("attribution_bytes", "activations"): (0, 1_000),
        ("attribution_bytes", "logits_and_loss"): (0, 4),
        ("attribution_bytes", "temporaries"): (399_872, 398_000),
        ("attribution_bytes", "unattributed"): (0, 996),
        ("phase_peak_bytes", "setup"): (1_200_000, 1_200_128),
        ("phase_peak_bytes", "forward"): (1_360_000, 1_360_000),  # measured in the loss, 1,350,000 before it
        ("phase_peak_bytes", "backward"): (1_800_000, 1_800_000),
        ("phase_peak_bytes", "optimizer"): (2_000_000, 2_000_000),
        ("step1_phase_peak_bytes", "setup"): (400_000, 400_128),
        ("step1_phase_peak_bytes", "forward"): (560_000, 560_000),
        ("step1_phase_peak_bytes", "backward"): (1_000_000, 1_000_000),
        ("step1_phase_peak_bytes", "optimizer"): (2_000_000, 2_000_000),
        ("persistent_bytes", "parameters"): (400_000, 400_000),
        ("persistent_bytes", "gradients"): (400_000, 400_000),
        ("persistent_bytes", "optimizer_states"): (800_000, 800_000),
        ("saved_activation_bytes", TOTAL): (150_000, 150_000),
        ("num_parameters", TOTAL): (102_048, 102_048),
        ("num_trainable_parameters", TOTAL): (102_048, 102_048),
    }
    assert [c.metric for c in found] == sorted((c.metric for c in found), key=METRICS.index)
    assert {(c.record_id, c.engine) for c in found} == {(records.make_record().id, "analytic")}


def test_columns_of_the_attribution_add_up_to_the_peaks() -> None:
    record, prediction = records.make_record(), records.make_prediction()
    rows = [c for c in compare(record, prediction) if c.metric == "attribution_bytes"]
    assert sum(c.predicted for c in rows) == prediction.peak.total_bytes
    assert sum(c.measured for c in rows) == record.measurement.peak_requested_bytes


def test_the_error_is_signed_and_relative_to_what_was_measured() -> None:
    record = records.make_record(peak_requested_bytes=1_600_000, saved_activation_bytes=200_000, peak_allocated_bytes=0)
    found = {(c.metric, c.category): c.relative_error for c in compare(record, records.make_prediction())}
    assert found["peak_requested_bytes", TOTAL] == 0.25
    assert found["saved_activation_bytes", TOTAL] == -0.25
    assert found["peak_allocated_bytes", TOTAL] is None


def test_only_what_both_sides_give_has_a_row() -> None:
    bare = records.make_record(
        peak_requested_bytes=None, peak_allocated_bytes=None, attribution_bytes=None, persistent_bytes=None, num_parameters=None,
        phase_peak_bytes={"backward": 9, "clip": 7, "zero": 3}, step1_phase_peak_bytes=None, saved_activation_bytes=None,
    )  # fmt: skip
    assert set(by_place(compare(bare, records.make_prediction()))) == {
        ("phase_peak_bytes", "backward"), ("num_trainable_parameters", TOTAL),
    }  # fmt: skip


def test_reserved_and_device_bytes_have_no_rows_until_an_engine_predicts_them() -> None:
    record = records.make_record(device=records.H100, peak_reserved_bytes=3_000_000, device_used_bytes=4_000_000)
    assert not {c.metric for c in compare(record, records.make_prediction())} & {"peak_reserved_bytes", "device_used_bytes"}


def test_an_engine_that_does_not_know_the_activations_claims_no_peak() -> None:
    few = {name: records.STEADY[name] for name in ("setup", "optimizer_step")}
    prediction = records.make_prediction(steady=few, saved_activation_bytes=None, flops=None)
    found = by_place(compare(records.make_record(), prediction))
    assert {metric for metric, _ in found} == {
        "phase_peak_bytes", "step1_phase_peak_bytes", "persistent_bytes", "num_parameters", "num_trainable_parameters",
    }  # fmt: skip
    assert {c for m, c in found if m == "phase_peak_bytes"} == {"setup", "optimizer"}


def test_an_unknown_family_s_real_prediction_claims_no_peak() -> None:
    model = find_model("microsoft/phi-2")
    workload = Workload(model=model, setup=replace(records.WORKLOAD.setup, seq_len=16))
    found = by_place(compare(records.make_record(workload), predict(workload)))
    assert ("persistent_bytes", "parameters") in found
    assert not any(metric in ("peak_requested_bytes", "attribution_bytes") for metric, _ in found)


def test_parameters_are_the_models_own_on_both_sides_and_adapters_only_trained() -> None:
    """tiny GPT-2, c_attn 48 -> 144, c_proj 48 -> 48, c_fc 48 -> 192, c_proj 192 -> 48: (192 + 96 + 240 + 240) x 4 x 3 layers."""
    record = records.make_record(records.LORA_WORKLOAD, num_trainable_parameters=9_216)
    found = by_place(compare(record, predict(records.LORA_WORKLOAD)))
    assert found["num_parameters", TOTAL] == (102_048, 102_048)
    assert found["num_trainable_parameters", TOTAL] == (9_216, 9_216)


def test_buffers_are_held_against_those_of_the_moment_between_steps() -> None:
    held = {**records.PERSISTENT, "buffers": 64}
    steady = {**records.STEADY, "setup": {**records.STEADY["setup"], "buffers": 60}}
    found = by_place(compare(records.make_record(persistent_bytes=held), records.make_prediction(steady=steady)))
    assert found["persistent_bytes", "buffers"] == (60, 64)


@pytest.mark.parametrize("status", STATUSES)
def test_runs_that_did_not_go_through_have_bounds_and_no_errors(status: str) -> None:
    record = records.make_record(status=status)
    bounds = {"peak_requested_bytes": 2_000_000, "peak_allocated_bytes": 2_000_000}
    through = status in ("ok", "noisy")
    assert bool(compare(record, records.make_prediction())) == through
    assert lower_bounds(record) == ({} if through else bounds)


def test_between_micro_batches_is_not_between_steps() -> None:
    workload = replace(records.WORKLOAD, setup=replace(records.WORKLOAD.setup, accumulation=2))
    found = by_place(compare(records.make_record(workload), records.make_prediction(workload)))
    assert ("phase_peak_bytes", "forward") in found and ("step1_phase_peak_bytes", "forward") in found
    assert ("phase_peak_bytes", "setup") not in found and ("step1_phase_peak_bytes", "setup") not in found


def row(
    predicted: int, measured: int, record_id: str = "r", category: str = TOTAL, metric: str = "peak_requested_bytes"
) -> Comparison:
    error = (predicted - measured) / measured if measured else None
    return Comparison(
        record_id=record_id, engine="analytic", metric=metric, category=category,  # type: ignore[arg-type]
        predicted=predicted, measured=measured, relative_error=error,
    )  # fmt: skip


def test_a_summary_by_hand() -> None:
    """Errors +2 %, -6 %, 0 and +1 % (which is within 1 %): mean of absolute 2.25 %, median 0.5 %, worst -6 %."""
    rows = [row(102, 100, "a"), row(94, 100, "b"), row(100, 100, "c"), row(101, 100, "d")]
    (found,) = summary(rows)
    assert found.group == ("peak_requested_bytes", TOTAL)
    assert found.n == 4
    assert found.mean_absolute == pytest.approx(0.0225)
    assert found.median == pytest.approx(0.005)
    assert (found.worst, found.worst_record_id) == (pytest.approx(-0.06), "b")
    assert found.share_within_1_percent == 0.5


def test_summaries_leave_out_what_nobody_predicts_and_count_what_has_no_relative_error() -> None:
    rows = [
        row(0, 100, category="unattributed", metric="attribution_bytes"),
        row(0, 100, category="activations", metric="attribution_bytes"),
        row(7, 0, category="inputs", metric="attribution_bytes"),
    ]
    found = {s.group[1]: s for s in summary(rows)}
    assert set(found) == {"activations", "inputs"}
    assert (found["activations"].worst, found["activations"].share_within_1_percent) == (-1.0, 0.0)
    assert (found["inputs"].n, found["inputs"].worst, found["inputs"].mean_absolute) == (1, None, None)
    assert found["inputs"].share_within_1_percent == 0.0


def test_a_summary_is_in_the_order_of_metrics_and_goes_by_any_field() -> None:
    rows = [row(103, 100, metric="saved_activation_bytes"), row(101, 100), row(99, 100, category="setup")]
    assert [(s.group, s.n) for s in summary(rows, by=("metric",))] == [
        (("peak_requested_bytes",), 2),
        (("saved_activation_bytes",), 1),
    ]
    assert [s.n for s in summary(rows, by=())] == [3]
    assert summary([]) == ()


def test_misses_come_with_the_largest_difference_first() -> None:
    rows = [
        row(1_020, 1_000, "small"),
        row(1_009, 1_000, "within"),
        row(900_000, 1_000_000, "large"),
        row(5, 0, "nothing measured"),
        row(0, 5_000, "no claim", category="workspace"),
    ]
    assert [c.record_id for c in misses(rows)] == ["large", "small", "nothing measured"]
    assert [c.record_id for c in misses(rows, above=0.05)] == ["large", "nothing measured"]
