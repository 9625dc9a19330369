"""Runs cases one after the other and stores each the moment it is there; what is stored already is not run again."""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from lora_profiler.harness import Case, Heartbeat, MeasurementInterrupted, environment_of, measure_case
from lora_profiler.record import Record
from lora_profiler.store import Store, finished

Measure = Callable[..., Record]
"""`measure_case`, or what stands in for it in tests."""
FIRST_ESTIMATE_SECONDS = 60.0
MARGIN_SECONDS = 45.0
"""Kept free at the end of a piece with a deadline, for a case that takes longer than those before it."""


class Observer(Protocol):
    """What a face wants to hear; every call names the case by its place in the list."""

    def started(self, index: int, case: Case) -> None: ...
    def progressed(self, index: int, heartbeat: Heartbeat) -> None: ...
    def finished(self, index: int, record: Record, stored_before: bool) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`records` in the order of the cases, those stored before among them; `left` could not be started in time.

    `interrupted` tells that Ctrl-C ended the run; what had finished by then is stored.
    """

    records: tuple[Record, ...]
    left: tuple[Case, ...]
    interrupted: bool


def run_cases(
    cases: Sequence[Case],
    store: Store,
    observer: Observer,
    *,
    resume: bool = False,
    rerun: Iterable[str] = (),
    deadline_seconds: float | None = None,
    timeout_seconds: float = 1800.0,
    measure: Measure = measure_case,
    environment_key: Callable[[str], str] = lambda device: environment_of(device).key,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Measures every case and appends its record to `store`; results that a killed run left behind are taken in first.

    With `resume`, a case that has a terminal record of this environment is not run again, unless its status is in `rerun`.
    With `deadline_seconds`, no case is started that would not end in time, judging by the longest so far; later ones may be
    shorter, so they are looked at too.

    Raises StoreError where a record cannot be kept, and what `measure` raises before it starts a process.
    """
    began = clock()
    store.recover()
    stored = _stored(cases, store, environment_key, rerun) if resume else {}
    records: list[Record] = []
    left: list[Case] = []
    longest: dict[str, float] = {}
    for index, case in enumerate(cases):
        known = stored.get((case.key, case.repeat))
        if known is not None:
            records.append(known)
            observer.finished(index, known, True)
            continue
        expected = _expected_seconds(case, longest)
        if deadline_seconds is not None and clock() - began + expected + MARGIN_SECONDS > deadline_seconds:
            left.append(case)
            continue
        observer.started(index, case)
        pending = store.pending_path(f"{case.key}.{case.repeat}")
        rest = timeout_seconds if deadline_seconds is None else min(timeout_seconds, deadline_seconds - (clock() - began))
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
            return Outcome(records=tuple(records), left=tuple(cases[index + 1 :]), interrupted=True)
        store.append(record, replace=True)
        pending.unlink(missing_ok=True)
        kind = _kind(case)
        longest[kind] = max(clock() - before, longest.get(kind, 0.0))
        records.append(record)
        observer.finished(index, record, False)
    return Outcome(records=tuple(records), left=tuple(left), interrupted=False)


def _stored(
    cases: Sequence[Case], store: Store, environment_key: Callable[[str], str], rerun: Iterable[str]
) -> dict[tuple[str, int], Record]:
    """Terminal records by case and repeat, of the environments that the cases would run in now."""
    wanted = {(case.key, case.repeat) for case in cases}
    found = store.records()
    done = finished(found, rerun)
    candidates = [r for r in found if r.id in done and (r.case_key, r.repeat) in wanted]
    if not candidates:  # asking for the environment takes seconds
        return {}
    keys = {device: environment_key(device) for device in {case.workload.setup.device for case in cases}}
    here = [r for r in candidates if r.environment.key == keys.get(r.workload.setup.device)]
    return {(r.case_key, r.repeat): r for r in here}


def _kind(case: Case) -> str:
    """Cases of one model and method take times of one size."""
    return f"{case.workload.model.fingerprint} {case.workload.setup.method}"


def _expected_seconds(case: Case, longest: dict[str, float]) -> float:
    """The longest case of the kind so far, else of all, else a first guess."""
    return longest.get(_kind(case)) or max(longest.values(), default=FIRST_ESTIMATE_SECONDS)


def seconds_taken(record: Record) -> float | None:
    """Wall time of a whole run, its process included; None where it was not noted."""
    if record.started_at is None or record.ended_at is None:
        return None
    return (datetime.fromisoformat(record.ended_at) - datetime.fromisoformat(record.started_at)).total_seconds()
