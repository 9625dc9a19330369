"""Two sets of records against each other, on records made by hand."""

import statistics
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import records
from lora_profiler.measuring.records.record import Record
from lora_profiler.runs.comparison.regressions import (
    CHANGE_METRICS,
    Change,
    ChangeMetric,
    Pair,
    SetupChange,
    Side,
    changes,
    paired,
    setup_changes,
)

OTHER_TORCH = {"packages": {**records.PACKAGES, "torch": "2.14.0"}}
L4 = replace(records.H100, name="NVIDIA L4", total_bytes=23_034 * 2**20, uuid_hash="bbbb")
STEADY_STEPS = (0.1,) * 10


def later(record: Record, hour: int = 12) -> Record:
    return replace(record, ended_at=f"2026-11-01T{hour}:00:00+00:00")


def of_pair(before: Record, after: Record) -> tuple[Change, ...]:
    return changes(paired([before], [after]).pairs)


# --- pairs ----------------------------------------------------------------------------------------


def test_cases_are_joined_by_their_key_whatever_the_environment() -> None:
    before = [records.make_record(), records.make_record(records.LORA_WORKLOAD)]
    seven = replace(records.WORKLOAD, setup=replace(records.WORKLOAD.setup, batch_size=7))
    other = records.make_record(seven)
    after = [other, records.make_record(environment=OTHER_TORCH)]
    found = paired(before, after)
    (pair,) = found.pairs
    assert (pair.case_key, pair.before) == (before[0].case_key, (before[0],))
    assert pair.after == (after[1],)
    assert found.only_before == (before[1],)
    assert found.only_after == (other,)
    assert found.left_out == 0


def test_repeats_of_a_case_stand_together() -> None:
    before = [records.make_record(repeat=i) for i in range(3)]
    after = [records.make_record(repeat=i, environment=OTHER_TORCH) for i in range(2)]
    (pair,) = paired(before, after).pairs
    assert (pair.before, pair.after) == (tuple(before), tuple(after))


def test_of_two_environments_the_one_that_ran_last_counts() -> None:
    old = later(records.make_record(), 11)
    new = later(records.make_record(environment=OTHER_TORCH), 12)
    for order in ([old, new], [new, old]):
        found = paired(order, [records.make_record()])
        assert found.pairs[0].before == (new,)
        assert found.left_out == 1


def test_a_case_on_several_devices_is_paired_with_the_same_device() -> None:
    large, small = records.make_record(device=records.H100), records.make_record(device=L4)
    found = paired([large, small], [small])
    assert [(p.before, p.after) for p in found.pairs] == [((small,), (small,))]
    assert found.only_before == (large,)
    found = paired([large, small], [small, large])
    assert [(p.before, p.after) for p in found.pairs] == [
        ((large,), (large,)),
        ((small,), (small,)),
    ]
    found = paired([large], [small])  # one each: what the change of the device did
    assert [(p.before, p.after) for p in found.pairs] == [((large,), (small,))]
    found = paired([large], [large, small])
    assert found.only_after == (small,)


@pytest.mark.parametrize(
    ("before", "after", "is_lost", "is_won"),
    [
        ("ok", "noisy", False, False),
        ("ok", "oom", True, False),
        ("oom", "ok", False, True),
        ("oom", "crash", False, False),
    ],
)
def test_what_goes_through_no_more_is_lost(
    before: str, after: str, is_lost: bool, is_won: bool
) -> None:
    runs = [(records.make_record(status=status),) for status in (before, after)]
    pair = Pair(case_key="k", before=runs[0], after=runs[1])
    assert (pair.is_lost, pair.is_won) == (is_lost, is_won)


# --- numbers --------------------------------------------------------------------------------------


def test_every_number_by_hand() -> None:
    """2,000,000 B to 2,100,000 B is +5 %; steps of 0.1 s to 0.08 s are -20 %, and 16 tokens in them
    160/s to 200/s, +25 %."""
    before = records.make_record(
        step_seconds=STEADY_STEPS, peak_reserved_bytes=4_000_000, device_used_bytes=0
    )
    after = records.make_record(
        step_seconds=(0.08,) * 10,
        peak_requested_bytes=2_100_000,
        peak_reserved_bytes=3_000_000,
        device_used_bytes=5,
    )
    found = {c.metric: c for c in of_pair(before, after)}
    assert list(found) == list(CHANGE_METRICS)
    assert {metric: (c.before.value, c.after.value) for metric, c in found.items()} == {
        "peak_requested_bytes": (2_000_000, 2_100_000),
        "peak_allocated_bytes": (2_000_000, 2_000_000),
        "peak_reserved_bytes": (4_000_000, 3_000_000),
        "device_used_bytes": (0, 5),
        "step_seconds": (0.1, 0.08),
        "tokens_per_second": (160, 200),
    }
    assert {metric: c.relative_change for metric, c in found.items()} == {
        "peak_requested_bytes": 0.05,
        "peak_allocated_bytes": 0,
        "peak_reserved_bytes": -0.25,
        "device_used_bytes": None,
        "step_seconds": pytest.approx(-0.2),
        "tokens_per_second": pytest.approx(0.25),
    }
    assert {c.before.record_ids for c in found.values()} == {(before.id,)}


def test_what_one_side_did_not_measure_has_no_change() -> None:
    before = records.make_record(peak_reserved_bytes=4_000_000)
    after = records.make_record(step_seconds=None, peak_requested_bytes=None)
    assert [c.metric for c in of_pair(before, after)] == ["peak_allocated_bytes"]
    assert of_pair(before, records.make_record(status="oom")) == ()
    assert of_pair(before, records.make_record(tokens_per_step=None))[-1].metric == "step_seconds"


def test_of_repeats_the_largest_peak_and_the_median_of_all_steps() -> None:
    """Steps 0.1 x 10, 0.3 x 4 and 0.5 x 7 have their 11th of 21 at 0.3; a run that failed counts
    for nothing."""
    steps = ((0.1,) * 10, (0.3,) * 4, (0.5,) * 7)
    runs = [
        records.make_record(repeat=i, step_seconds=s, peak_requested_bytes=2_000_000 + i)
        for i, s in enumerate(steps)
    ]
    failed = records.make_record(repeat=3, status="oom", peak_requested_bytes=9_000_000)
    (pair,) = paired([*runs, failed], [records.make_record()]).pairs
    peak, step = changes([pair], ("peak_requested_bytes", "step_seconds"))
    assert (peak.before.value, peak.before.n) == (2_000_002, 3)
    assert (step.before.value, step.before.n) == (0.3, 21)
    assert step.before.record_ids == tuple(r.id for r in runs)


STEPS = st.lists(st.floats(0.001, 10), min_size=1, max_size=40)


@given(STEPS, STEPS)
def test_medians_and_their_change_are_those_of_statistics(
    old: list[float], new: list[float]
) -> None:
    before, after = (records.make_record(step_seconds=tuple(steps)) for steps in (old, new))
    step, rate = changes(paired([before], [after]).pairs, ("step_seconds", "tokens_per_second"))
    of_old, of_new = statistics.median(old), statistics.median(new)
    assert step.before.value == pytest.approx(of_old)
    assert step.relative_change == pytest.approx(of_new / of_old - 1, abs=1e-9)
    assert rate.relative_change == pytest.approx(of_old / of_new - 1, abs=1e-9)
    for side, samples in ((step.before, old), (step.after, new)):
        assert side.low is not None and side.high is not None
        assert min(samples) <= side.low <= side.value <= side.high <= max(samples)
    assert rate.is_beyond_noise == step.is_beyond_noise


def change(
    metric: ChangeMetric, before: float, after: float, width: float | None = None, n: int = 10
) -> Change:
    """`width` is that of the interval to either side of a median."""

    def side(value: float) -> Side:
        low, high = (None, None) if width is None else (value - width, value + width)
        return Side(value=value, low=low, high=high, n=n, record_ids=("r",))

    return Change(
        case_key="k",
        metric=metric,
        before=side(before),
        after=side(after),
        relative_change=(after - before) / before,
    )


@pytest.mark.parametrize(
    ("found", "beyond_noise", "worse_by_5_percent"),
    [
        (change("peak_requested_bytes", 1000, 1051), True, True),
        (change("peak_requested_bytes", 1000, 1050), True, False),
        (change("peak_requested_bytes", 1000, 1000), False, False),
        (change("peak_requested_bytes", 1000, 500), True, False),
        (change("step_seconds", 1.0, 1.1, width=0.04), True, True),
        (change("step_seconds", 1.0, 1.1, width=0.06), False, False),
        (change("step_seconds", 1.0, 1.1, width=0.04, n=5), False, False),
        (change("step_seconds", 1.0, 0.5, width=0.04), True, False),
        (change("tokens_per_second", 100.0, 94.0, width=1.0), True, True),
        (change("tokens_per_second", 100.0, 94.0, width=4.0), False, False),
        (change("tokens_per_second", 100.0, 200.0, width=1.0), True, False),
    ],
)
def test_worse_is_more_memory_or_time_or_fewer_tokens_beyond_noise(
    found: Change, beyond_noise: bool, worse_by_5_percent: bool
) -> None:
    assert found.is_beyond_noise == beyond_noise
    assert found.is_worse_by_more_than(0.05) == worse_by_5_percent


# --- the set-up -----------------------------------------------------------------------------------


def test_only_what_differs_in_the_set_up_is_told_device_first() -> None:
    before = records.make_record(
        device=records.H100, environment={"command": "lora-profile bench a", "threads": 2}
    )
    changed: dict[str, Any] = {
        "device": replace(records.H100, driver="590.2"),
        "environment": {
            "command": "lora-profile bench b",
            "threads": 4,
            "packages": {"torch": "2.14.0", "transformers": "5.24.0", "trl": "1.16"},
            "variables": {"OMP_NUM_THREADS": "4"},
        },
    }
    assert setup_changes([before, before], [records.make_record(**changed)]) == (
        SetupChange(field="device.driver", before=("580.1",), after=("590.2",)),
        SetupChange(field="packages.peft", before=("0.21.2",), after=()),
        SetupChange(field="packages.torch", before=("2.13.0",), after=("2.14.0",)),
        SetupChange(field="packages.trl", before=(), after=("1.16",)),
        SetupChange(field="threads", before=("2",), after=("4",)),
        SetupChange(field="variables.OMP_NUM_THREADS", before=(), after=("4",)),
    )


def test_several_set_ups_on_a_side_are_all_told() -> None:
    two = [records.make_record(device=records.H100), records.make_record(device=L4)]
    found = {c.field: (c.before, c.after) for c in setup_changes(two, two[:1])}
    assert found["device.name"] == (
        ("NVIDIA H100 80GB HBM3", "NVIDIA L4"),
        ("NVIDIA H100 80GB HBM3",),
    )
    assert setup_changes(two, reversed(two)) == ()
