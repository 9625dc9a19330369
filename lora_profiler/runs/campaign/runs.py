"""Runs cases one after the other and stores each the moment it is there; what is stored already is
not run again."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from lora_profiler.measuring.harness import (
    Case,
    Heartbeat,
    MeasurementInterrupted,
    environment_of,
    measure_case,
)
from lora_profiler.measuring.harness.pretended import Pretended
from lora_profiler.measuring.records.record import Failure, Record
from lora_profiler.measuring.records.store import Store, finished
from lora_profiler.question.workload import Workload

Measure = Callable[..., Record]
"""`measure_case`, or what stands in for it in tests."""
EnvironmentKey = Callable[[str, bool], str]
"""(device, whether several ranks train) -> the key of the environment that a case would run in
now."""
EnvironmentKeys = Callable[[str, bool], frozenset[str]]
"""The same of all machines that a case may run on: several on several."""
MARGIN_SECONDS = 45.0
"""Kept free at the end of a piece with a deadline, for a case that takes longer than those before
it."""
FIRST_ESTIMATE_SECONDS = 60.0


@dataclass(slots=True)
class Durations:
    """The longest of each kind so far."""

    _longest: dict[tuple[str, str], float] = field(default_factory=dict)

    def note(self, workload: Workload, seconds: float) -> None:
        """Keeps the longest. A case that took no second was refused, which says nothing of
        others."""
        if seconds >= 1:
            kind = kind_of(workload)
            self._longest[kind] = max(seconds, self._longest.get(kind, 0.0))

    def expected_seconds(self, workload: Workload) -> float:
        """The longest case of the kind so far, else of all, else a first guess."""
        return self._longest.get(kind_of(workload)) or max(
            self._longest.values(), default=FIRST_ESTIMATE_SECONDS
        )


def kind_of(workload: Workload) -> tuple[str, str]:
    """Cases of one kind take times of one size."""
    return workload.model.fingerprint, workload.setup.method


def wall_seconds(record: Record) -> float | None:
    """Wall time of a whole run, its process included; None where it was not noted."""
    if record.started_at is None or record.ended_at is None:
        return None
    return (
        datetime.fromisoformat(record.ended_at) - datetime.fromisoformat(record.started_at)
    ).total_seconds()


def key_of_environment(device: str, ranks: bool, pretended: Pretended | None = None) -> str:
    return environment_of(device, ranks=ranks, pretended=pretended).key


class Observer(Protocol):
    """What a face wants to hear; every call names the case by its place in the list."""

    def started(self, index: int, case: Case) -> None: ...
    def progressed(self, index: int, heartbeat: Heartbeat) -> None: ...
    def finished(self, index: int, record: Record, stored_before: bool) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Which cases run, and until when. With `resume`, one that has a terminal record of this
    environment is not run again, unless its status is in `rerun`. With `deadline_seconds`, none is
    started that would not end in time. `timeout_seconds` are a case's own."""

    resume: bool = False
    rerun: tuple[str, ...] = ()
    deadline_seconds: float | None = None
    timeout_seconds: float = 1800.0


EVERY_CASE = Schedule()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`records` in the order of the cases, those stored before among them; `left` could not be
    started, or not ended, in time.

    A case that the deadline cut off is among both: its record says how far it came. `interrupted`
    tells that Ctrl-C ended the run; what had finished by then is stored.
    """

    records: tuple[Record, ...]
    left: tuple[Case, ...]
    interrupted: bool


def run_cases(
    cases: Sequence[Case],
    store: Store,
    observer: Observer,
    schedule: Schedule = EVERY_CASE,
    *,
    first: int = 0,
    measure: Measure = measure_case,
    environment_key: EnvironmentKey = key_of_environment,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Measures every case and appends its record to `store`; results that a killed run left behind
    are taken in first.

    How long a case takes is judged by the longest so far, records of this environment among them;
    after one that would miss the deadline later ones may be shorter, so they are looked at too. One
    that the deadline cuts off before its own time limit has not shown that it takes too long: its
    record is `interrupted`, and the next piece measures it again.

    The observer is told of the cases by numbers from `first` on.

    Raises StoreError where a record cannot be kept, and what `measure` raises before it starts a
    process.
    """
    began = clock()
    deadline_seconds, timeout_seconds = schedule.deadline_seconds, schedule.timeout_seconds
    store.recover()

    def here(device: str, ranks: bool) -> frozenset[str]:
        return frozenset({environment_key(device, ranks)})

    stored = stored_before(cases, store, here, schedule.rerun) if schedule.resume else {}
    durations = (
        durations_before(cases, store, here) if deadline_seconds is not None else Durations()
    )
    records: list[Record] = []
    left: list[Case] = []
    for index, case in enumerate(cases, first):
        known = stored.get((case.key, case.repeat))
        if known is not None:
            records.append(known)
            observer.finished(index, known, True)
            continue
        expected = durations.expected_seconds(case.workload)
        if (
            deadline_seconds is not None
            and clock() - began + expected + MARGIN_SECONDS > deadline_seconds
        ):
            left.append(case)
            continue
        observer.started(index, case)
        pending = store.pending_path(f"{case.key}.{case.repeat}")
        rest = (
            timeout_seconds
            if deadline_seconds is None
            else min(timeout_seconds, deadline_seconds - (clock() - began))
        )
        before = clock()
        try:
            record = measure(
                case,
                timeout_seconds=rest,
                progress=lambda heartbeat, index=index: observer.progressed(index, heartbeat),
                result_path=pending,
            )
        except MeasurementInterrupted as stop:
            store.append(stop.record)
            records.append(stop.record)
            rest_of_cases = cases[index - first + 1 :]
            return Outcome(records=tuple(records), left=tuple(rest_of_cases), interrupted=True)
        if rest < timeout_seconds and record.measurement.status == "timeout":
            record = _cut_off(record, rest)
            left.append(case)
        store.append(record, replace=True)
        pending.unlink(missing_ok=True)
        durations.note(case.workload, clock() - before)
        records.append(record)
        observer.finished(index, record, False)
    return Outcome(records=tuple(records), left=tuple(left), interrupted=False)


def stored_before(
    cases: Sequence[Case], store: Store, here: EnvironmentKeys, rerun: Iterable[str]
) -> dict[tuple[str, int], Record]:
    """Terminal records by case and repeat, of the environments that the cases would run in now."""
    wanted = {(case.key, case.repeat) for case in cases}
    records = store.records()
    done = finished(records, rerun)
    candidates = [r for r in records if r.id in done and (r.case_key, r.repeat) in wanted]
    return {(r.case_key, r.repeat): r for r in _of_environment(candidates, here)}


def durations_before(cases: Sequence[Case], store: Store, here: EnvironmentKeys) -> Durations:
    """What this environment's records took: an earlier piece has shown what a later one may
    expect."""
    devices = {case.workload.setup.device for case in cases}
    durations = Durations()
    for record in _of_environment(
        [r for r in store.records() if r.workload.setup.device in devices], here
    ):
        durations.note(record.workload, wall_seconds(record) or 0.0)
    return durations


def _of_environment(records: Sequence[Record], here: EnvironmentKeys) -> list[Record]:
    """Those measured in an environment of now, which is asked for only where there are any, since
    that takes seconds."""
    places = {r.id: (r.workload.setup.device, r.workload.setup.world_size > 1) for r in records}
    keys = {place: here(*place) for place in sorted(set(places.values()))}
    return [r for r in records if r.environment.key in keys[places[r.id]]]


def _cut_off(record: Record, seconds: float) -> Record:
    """The record of a case whose time limit was the deadline's, after `seconds`: no verdict on the
    case."""
    reason = (
        f"the deadline of this piece came after {seconds:.0f} s, before the case's own time limit;"
        " another piece measures it"
    )
    failure = replace(record.measurement.failure or Failure(reason=reason), reason=reason)
    return replace(
        record, measurement=replace(record.measurement, status="interrupted", failure=failure)
    )
