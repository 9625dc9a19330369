"""Which cases are still owed, in what time, what an interruption keeps; and the batch search
against trying every size."""

import json
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lora_profiler.measuring.harness import Case, Heartbeat, MeasurementInterrupted, make_case
from lora_profiler.measuring.records.record import Conditions, Environment, Failure, Record
from lora_profiler.measuring.records.serialize import record_dict
from lora_profiler.measuring.records.store import Store
from lora_profiler.runs.campaign.batch_search import LargestBatch, ProbeFailedError, largest_batch
from lora_profiler.runs.campaign.runs import MARGIN_SECONDS, Outcome, Schedule, run_cases
from records import WORKLOAD, make_record


def case(batch_size: int = 2, repeat: int = 0, seed: int = 0) -> Case:
    setup = replace(WORKLOAD.setup, batch_size=batch_size)
    return make_case(replace(WORKLOAD, setup=setup), Conditions(seed=seed), repeat=repeat)


def record_of(asked: Case, status: str = "ok", environment: dict[str, Any] | None = None) -> Record:
    measured: dict[str, Any] = {}
    if status != "ok":
        measured = {"failure": Failure(reason="as planned", phase="forward"), "step_seconds": None}
    whose: dict[str, Any] = {"conditions": asked.conditions, "repeat": asked.repeat}
    found = make_record(asked.workload, environment=environment, **whose, **measured)
    return replace(found, measurement=replace(found.measurement, status=status))  # type: ignore[arg-type]


HERE = record_of(case()).environment.key


class Listener:
    def __init__(self) -> None:
        self.started_cases: list[int] = []
        self.finished_cases: list[tuple[int, str, bool]] = []

    def started(self, index: int, case: Case) -> None:
        self.started_cases.append(index)

    def progressed(self, index: int, heartbeat: Heartbeat) -> None:
        pass

    def finished(self, index: int, record: Record, stored_before: bool) -> None:
        self.finished_cases.append((index, record.measurement.status, stored_before))


class Clock:
    """Time passes only where somebody says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def measurer(
    results: Callable[[Case], Record], clock: Clock | None = None, seconds: float = 0.0
) -> Any:
    def measure(asked: Case, **options: Any) -> Record:
        measure.asked.append((asked, options))  # type: ignore[attr-defined]
        if clock is not None:
            clock.now += seconds
        return results(asked)

    measure.asked = []  # type: ignore[attr-defined]
    return measure


def run(cases: list[Case], store: Store, measure: Any, **options: Any) -> tuple[Outcome, Listener]:
    listener = Listener()
    told: dict[str, Any] = {"measure": measure, "environment_key": lambda *_: HERE} | options
    schedule = Schedule(**{f.name: told.pop(f.name) for f in fields(Schedule) if f.name in told})
    return run_cases(cases, store, listener, schedule, **told), listener


def sizes_of(cases: Iterable[Case]) -> list[int]:
    return [each.workload.setup.batch_size for each in cases]


def asked_of(measure: Any) -> list[int]:
    """Batches that were measured."""
    return sizes_of(asked for asked, _ in measure.asked)


def statuses(records: Iterable[Record]) -> list[str]:
    return [record.measurement.status for record in records]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "records.jsonl")


def test_every_case_is_stored_when_it_is_there_and_not_run_again(store: Store) -> None:
    cases = [case(1), case(2), case(2, repeat=1), case(4)]
    first = measurer(record_of)
    outcome, heard = run(cases, store, first, resume=True)
    assert [r.id for r in outcome.records] == [r.id for r in store.records()]
    assert heard.finished_cases == [(i, "ok", False) for i in range(4)]
    second = measurer(record_of)
    again, heard = run(cases, store, second, resume=True)
    assert second.asked == []
    assert [r.id for r in again.records] == [r.id for r in outcome.records]
    assert heard.finished_cases == [(i, "ok", True) for i in range(4)]


@pytest.mark.parametrize("changed", [case(3), case(2, repeat=7), case(2, seed=1)])
def test_a_changed_case_is_another_case(store: Store, changed: Case) -> None:
    run([case(2)], store, measurer(record_of))
    measure = measurer(record_of)
    run([case(2), changed], store, measure, resume=True)
    assert [asked for asked, _ in measure.asked] == [changed]


def test_another_environment_is_measured_anew_and_nothing_is_overwritten(store: Store) -> None:
    old = record_of(case(), environment={"packages": {"torch": "2.11.0"}})
    store.append(old)
    measure = measurer(record_of)
    run([case()], store, measure, resume=True)
    assert len(measure.asked) == 1
    assert {r.environment.packages["torch"] for r in store.records()} == {"2.11.0", "2.13.0"}


def test_failures_are_kept_and_rerun_only_where_asked(store: Store) -> None:
    ends = iter(["oom", "ok", "crash", "interrupted"])
    cases = [case(1), case(2), case(3), case(4)]
    run(cases, store, measurer(lambda asked: record_of(asked, next(ends))))
    measure = measurer(record_of)
    run(cases, store, measure, resume=True)
    assert asked_of(measure) == [4], "an interruption ends nothing"
    measure = measurer(record_of)
    run(cases, store, measure, resume=True, rerun=["oom"])
    assert asked_of(measure) == [1]
    assert statuses(r for r in store.records() if r.workload.setup.batch_size == 1) == ["ok"]


def test_without_resume_the_newest_wins(store: Store) -> None:
    run([case()], store, measurer(lambda asked: record_of(asked, "oom")))
    run([case()], store, measurer(record_of))
    assert statuses(store.records()) == ["ok"]


def test_a_deadline_leaves_out_what_would_not_end_in_time(store: Store) -> None:
    """Cases of 100 s: the first is expected to take 60. Of 400 s three fit, since the fourth would
    need 300 + 100 + margin."""
    clock = Clock()
    measure, cases = measurer(record_of, clock, 100.0), [case(b) for b in range(1, 8)]
    outcome, _ = run(cases, store, measure, deadline_seconds=400.0, clock=clock)
    assert 2 * 100 + 100 + MARGIN_SECONDS <= 400 < 3 * 100 + 100 + MARGIN_SECONDS
    assert len(outcome.records) == 3
    assert sizes_of(outcome.left) == [4, 5, 6, 7]
    assert [options["timeout_seconds"] for _, options in measure.asked] == [400.0, 300.0, 200.0]


def test_a_case_that_the_deadline_cuts_off_is_measured_again(store: Store) -> None:
    """Of 350 s the first case takes 150: the second is expected to end in time, gets the 200 s that
    are left, and uses them up. The third is not started. A case that used up its own limit is
    stored as such and not run again.
    """
    clock, ends = Clock(), iter(["ok", "timeout"])
    measure = measurer(lambda asked: record_of(asked, next(ends)), clock, 150.0)
    cases, limits = [case(1), case(2), case(3)], {"timeout_seconds": 300.0, "clock": clock}
    outcome, heard = run(cases, store, measure, deadline_seconds=350.0, **limits)
    assert [options["timeout_seconds"] for _, options in measure.asked] == [300.0, 200.0]
    assert sizes_of(outcome.left) == [2, 3]
    cut = outcome.records[1].measurement
    assert cut.status == "interrupted"
    assert cut.failure is not None and cut.failure.phase == "forward"
    assert "the deadline of this piece came after 200 s" in cut.failure.reason
    assert heard.finished_cases == [(0, "ok", False), (1, "interrupted", False)]
    ends = iter(["timeout", "ok"])
    measure = measurer(lambda asked: record_of(asked, next(ends)), clock, 150.0)
    run(cases, store, measure, resume=True, deadline_seconds=1000.0, **limits)
    assert asked_of(measure) == [2, 3]
    # the last limit was the case's own
    assert statuses(store.records()) == ["ok", "timeout", "ok"]


def test_a_cut_off_case_never_takes_the_place_of_a_whole_one(store: Store) -> None:
    run([case()], store, measurer(record_of))
    cut = measurer(lambda asked: record_of(asked, "timeout"))
    outcome, _ = run([case()], store, cut, deadline_seconds=200.0)
    assert statuses(outcome.records) == ["interrupted"]
    assert statuses(store.records()) == ["ok"]


def taking(record: Record, seconds: int) -> Record:
    ended = datetime.fromisoformat("2026-11-01T10:00:00+00:00") + timedelta(seconds=seconds)
    return replace(record, started_at="2026-11-01T10:00:00+00:00", ended_at=ended.isoformat())


@pytest.mark.parametrize(
    ("earlier", "started"),
    [
        ([], 1),  # a first guess of 60 s
        ([taking(record_of(case(8)), 100)], 1),
        # the longest counts
        ([taking(record_of(case(8)), 100), taking(record_of(case(9)), 160)], 0),
        ([taking(record_of(case(8), "crash"), 160)], 0),
        # another environment takes other times
        ([taking(record_of(case(8), environment={"threads": 64}), 160)], 1),
        ([taking(record_of(case(8), "unsupported"), 0), taking(record_of(case(9)), 160)], 0),
    ],
)
def test_earlier_pieces_tell_how_long_a_case_takes(
    store: Store, earlier: list[Record], started: int
) -> None:
    """200 s are left, 45 of them kept free."""
    for record in earlier:
        store.append(record)
    measure = measurer(record_of)
    outcome, _ = run([case(1)], store, measure, resume=True, deadline_seconds=200.0)
    assert (len(measure.asked), len(outcome.left)) == (started, 1 - started)


def test_a_refused_case_says_nothing_of_the_time_of_others(store: Store) -> None:
    """90 s are no time for a case of which nothing is known, whatever was refused in no time
    before."""
    clock = Clock()
    store.append(taking(record_of(case(8), "unsupported"), 0))
    for seconds, left in ((90.0, 2), (105.0, 1)):
        measure = measurer(record_of, clock, 0.1)
        limits = {"deadline_seconds": seconds, "clock": clock}
        outcome, _ = run([case(1), case(2)], store, measure, **limits)
        assert len(outcome.left) == left


def test_ctrl_c_keeps_what_has_finished_and_notes_what_has_not(store: Store) -> None:

    def results(asked: Case) -> Record:
        if asked.workload.setup.batch_size == 3:
            raise MeasurementInterrupted(record_of(asked, "interrupted"))
        return record_of(asked)

    outcome, _ = run([case(b) for b in (1, 2, 3, 4)], store, measurer(results))
    assert outcome.interrupted
    assert statuses(store.records()) == ["ok", "ok", "interrupted"]
    measure = measurer(record_of)
    run([case(b) for b in (1, 2, 3, 4)], store, measure, resume=True)
    assert asked_of(measure) == [3, 4]
    assert statuses(store.records()) == ["ok"] * 4


def test_a_result_left_by_a_killed_run_is_taken_in(store: Store) -> None:
    store.pending_path("left").write_text(json.dumps(record_dict(record_of(case()))))
    measure = measurer(record_of)
    outcome, _ = run([case()], store, measure, resume=True)
    assert measure.asked == []
    assert [r.id for r in outcome.records] == [record_of(case()).id]


# --- 9: the largest batch -------------------------------------------------------------------------


class Machine:
    """Trains batches up to `holds`, those in `retries` only after giving memory back."""

    def __init__(self, holds: int, retries: frozenset[int] = frozenset()) -> None:
        self.holds, self.retries = holds, retries
        self.asked: list[int] = []

    def __call__(self, asked: Case) -> Record:
        size = asked.workload.setup.batch_size
        self.asked.append(size)
        record = record_of(asked, "ok" if size <= self.holds else "oom")
        health = {"num_alloc_retries": 3 if size in self.retries else 0}
        return replace(record, measurement=replace(record.measurement, health=health))


def searches(
    count: int, near: tuple[float, float] = (0.7, 1.4)
) -> Iterator[tuple[int, int | None]]:
    """What a machine holds, and a prediction of it: none, the right one, or one that is off by a
    factor within `near`."""
    draw = random.Random(9)
    for _ in range(count):
        holds = draw.choice([0, 1, 2, 3, draw.randrange(4, 60), draw.randrange(60, 3000)])
        guessed = max(1, round(holds * draw.uniform(*near)))
        yield holds, draw.choice([None, max(holds, 1), guessed, guessed])


def most_probes(holds: int) -> int:
    """2 log2(b) + 2; but 1 trains twice and 2 fails, which no search can do in two probes."""
    return max(3, math.floor(2 * math.log2(max(holds, 1)) + 2))


@pytest.mark.parametrize(("holds", "predicted"), list(searches(50)))
def test_the_search_finds_what_trying_every_size_finds(holds: int, predicted: int | None) -> None:
    machine = Machine(holds)
    found = largest_batch(case(), machine, predicted)
    exhaustive = max((size for size in range(1, holds + 2) if size <= holds), default=0)
    assert found.batch_size == found.upper == exhaustive
    assert found.monotone
    assert holds + 1 in machine.asked, "the next one was seen to fail"
    if holds:
        assert machine.asked.count(holds) == 2, "the found one trained twice"
    # no other size twice
    assert len(machine.asked) == len(set(machine.asked)) + (1 if holds else 0)
    assert len(machine.asked) <= most_probes(holds)
    assert len(found.records) == len(machine.asked)


def over_the_bound(asked: Iterable[tuple[int, int | None]]) -> tuple[int, int]:
    """By how many probes the worst search lies above the bound, and how many searches there
    were."""
    over = []
    for holds, predicted in asked:
        machine = Machine(holds)
        assert largest_batch(SMALL_CASE, machine, predicted).batch_size == holds
        over.append(len(machine.asked) - most_probes(holds))
    return max(over), len(over)


SMALL_CASE = case()


def test_no_search_takes_more_probes_than_the_bound() -> None:
    """The bound is met exactly, by searches without a prediction and by others."""
    assert over_the_bound(searches(2000)) == (0, 2000)
    assert over_the_bound((holds, None) for holds in range(300)) == (0, 300)


def test_a_prediction_four_times_off_costs_at_most_four_probes_more() -> None:
    worst, _ = over_the_bound(searches(500, near=(0.25, 4.0)))
    assert 0 < worst <= 4
    guesses = ((holds, guess) for holds in range(1, 25) for guess in range(1, 4 * holds + 1))
    assert over_the_bound(guesses)[0] <= 4


def test_a_search_without_a_prediction_doubles() -> None:
    machine = Machine(5)
    largest_batch(case(), machine)
    assert machine.asked == [2, 4, 8, 6, 5, 5]
    machine = Machine(1)
    largest_batch(case(), machine)
    assert machine.asked == [2, 1, 1]


def test_from_a_prediction_it_goes_one_step_then_a_tenth_then_twice_as_far() -> None:
    for holds, first in ((60, [50, 51, 56, 66]), (40, [50, 49, 44, 34])):
        machine = Machine(holds)
        largest_batch(case(), machine, 50)
        assert machine.asked[:4] == first


def test_a_right_prediction_takes_three_probes() -> None:
    machine = Machine(37)
    assert largest_batch(case(), machine, 37).batch_size == 37
    assert machine.asked == [37, 38, 37]


def test_the_proof_is_a_run_of_its_own() -> None:
    found = largest_batch(case(), Machine(5), 5)
    proofs = [r for r in found.records if r.workload.setup.batch_size == 5]
    assert len({r.id for r in proofs}) == 2


def test_a_batch_that_fits_only_sometimes_does_not_count() -> None:
    class Moody(Machine):
        def __call__(self, asked: Case) -> Record:
            record = super().__call__(asked)
            fails = self.asked.count(10) == 2 and self.asked[-1] == 10
            return record_of(asked, "oom") if fails else record

    found: LargestBatch = largest_batch(case(), Moody(10), 10)
    assert (found.batch_size, found.upper, found.monotone) == (9, 10, False)


def test_retries_do_not_count_as_fitting() -> None:
    assert largest_batch(case(), Machine(12, retries=frozenset({11, 12})), 11).batch_size == 10


def test_a_probe_that_fails_otherwise_ends_the_search() -> None:
    with pytest.raises(ProbeFailedError, match="crash: as planned") as raised:
        largest_batch(case(), lambda asked: record_of(asked, "crash"))
    assert raised.value.record.measurement.status == "crash"


def test_the_environment_is_asked_for_only_where_something_is_stored(store: Store) -> None:
    asked: list[tuple[str, bool]] = []

    def environment_key(device: str, ranks: bool) -> str:
        asked.append((device, ranks))
        return HERE

    for _ in range(2):
        run([case()], store, measurer(record_of), environment_key=environment_key, resume=True)
    assert asked == [("cpu", False)]
    assert isinstance(store.records()[0].environment, Environment)
