"""Runs cases on a cluster, many at once, and stores each record the moment it comes back; what is
stored is not run again.

The store, and what is owed to it, are those of `runs`: a campaign may be begun on one machine and
finished on a cluster.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from lora_profiler.measuring.harness import Case
from lora_profiler.measuring.records.record import Record
from lora_profiler.measuring.records.serialize import record_from_dict
from lora_profiler.measuring.records.store import Store
from lora_profiler.runs.campaign.planned import Planned, RefusedCase
from lora_profiler.runs.campaign.runs import (
    EVERY_CASE,
    MARGIN_SECONDS,
    Durations,
    Observer,
    Schedule,
    durations_before,
    stored_before,
)
from lora_profiler.runs.cluster.ray import Begun, Ended, Event, Lost, Needs, needs

POLL_SECONDS = 1.0
"""Between two looks at the deadline while nothing comes back."""
END_SECONDS = 5.0
"""What a worker has to end its measured process before it is ended itself, and with it the process,
by the kernel."""


class Machines(Protocol):
    """`cluster.Cluster`, or what stands in for it in tests."""

    cpus: int

    def environment_keys(self, device: str, ranks: bool) -> frozenset[str]: ...
    def submit(self, case: Case, needs: Needs, timeout_seconds: float) -> Any: ...
    def next_events(
        self, handles: Sequence[Any], timeout_seconds: float
    ) -> list[tuple[Any, Event]]: ...
    def cancel(self, handle: Any, force: bool = False) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterOutcome:
    """`records` as they came, those stored before first. `left` were not begun or not ended before
    the deadline or Ctrl-C, which `interrupted` tells of; `lost` took two workers down, with what is
    known of it: both are still owed. `refused` cannot run where they were sent. None of the three
    has a record. `num_rescheduled` lost their worker once.
    """

    records: tuple[Record, ...]
    left: tuple[Case, ...]
    refused: tuple[RefusedCase, ...]
    lost: tuple[RefusedCase, ...]
    num_rescheduled: int
    interrupted: bool


def spread_cases(
    planned: Sequence[Planned],
    store: Store,
    observer: Observer,
    machines: Machines,
    schedule: Schedule = EVERY_CASE,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> ClusterOutcome:
    """Hands every owed case to the cluster and appends its record to `store`.

    "This environment" of `schedule` is any of the cluster's. A case that has not begun when it
    could no longer end in time, judging by the longest so far, is taken back, and one that runs
    then is ended. Raises StoreError, after everything that ran was ended.
    """
    run = _Run(
        store=store,
        observer=observer,
        machines=machines,
        timeout_seconds=schedule.timeout_seconds,
        clock=clock,
        began=clock(),
    )
    store.recover()
    cases = [plan.case for plan in planned]
    known = {}
    if schedule.resume:
        known = stored_before(cases, store, machines.environment_keys, schedule.rerun)
    if schedule.deadline_seconds is not None:
        run.deadline = run.began + schedule.deadline_seconds
        run.durations = durations_before(cases, store, machines.environment_keys)
    try:
        for index, plan in enumerate(planned):
            stored = known.get((plan.case.key, plan.case.repeat))
            if stored is not None:
                run.records.append(stored)
                observer.finished(index, stored, True)
            elif run.ends_late(plan.case):
                run.left.append(plan.case)
            else:
                run.submit(index, plan)
        while run.waiting:
            run.poll(POLL_SECONDS)
            run.cancel_late()
    except KeyboardInterrupt:
        run.interrupted = True
    finally:
        run.end()
    return run.result()


@dataclass(slots=True)
class _Task:
    index: int
    case: Case
    worker: int | None = None
    started: float = 0.0
    cancelled: bool = False


@dataclass(slots=True, kw_only=True)
class _Run:
    store: Store
    observer: Observer
    machines: Machines
    timeout_seconds: float
    clock: Callable[[], float]
    began: float
    deadline: float | None = None
    durations: Durations = field(default_factory=Durations)
    waiting: dict[Any, _Task] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    left: list[Case] = field(default_factory=list)
    refused: list[RefusedCase] = field(default_factory=list)
    lost: list[RefusedCase] = field(default_factory=list)
    num_rescheduled: int = 0
    interrupted: bool = False

    def submit(self, index: int, each: Planned) -> None:
        handle = self.machines.submit(
            each.case, needs(each, self.machines.cpus), self.timeout_seconds
        )
        self.waiting[handle] = _Task(index, each.case)

    def poll(self, seconds: float) -> None:
        """Waits so long at most for what comes next, and keeps it."""
        for handle, event in self.machines.next_events(list(self.waiting), seconds):
            task = self.waiting[handle]
            if isinstance(event, Begun):
                task.worker, task.started = event.worker, self.clock()
                self.observer.started(task.index, task.case)
            else:
                self._ended(task, event)
                del self.waiting[handle]

    def _ended(self, task: _Task, event: Event) -> None:
        if isinstance(event, Ended):
            self.num_rescheduled += event.worker != task.worker
            if event.record is not None:
                self._keep(task, record_from_dict(event.record))
            else:
                self.refused.append(RefusedCase(case=task.case, reason=event.refused or ""))
        elif isinstance(event, Lost) and not task.cancelled:
            self.lost.append(RefusedCase(case=task.case, reason=event.reason))
        else:
            self.left.append(task.case)

    def _keep(self, task: _Task, record: Record) -> None:
        self.store.append(record, replace=True)
        self.durations.note(task.case.workload, self.clock() - task.started)
        self.records.append(record)
        self.observer.finished(task.index, record, False)

    # --- the end ----------------------------------------------------------------------------------

    def ends_late(self, case: Case) -> bool:
        """Whether a case that begins now would not end in time."""
        expected = self.durations.expected_seconds(case.workload)
        return (
            self.deadline is not None and self.clock() + expected + MARGIN_SECONDS > self.deadline
        )

    def cancel_late(self) -> None:
        if self.deadline is None:
            return
        for handle, task in self.waiting.items():
            late = (
                self.ends_late(task.case) if task.worker is None else self.clock() > self.deadline
            )
            if late and not task.cancelled:
                self._cancel(handle, task)

    def end(self) -> None:
        """Takes back all that waits and ends all that runs; what ends well in that moment is
        kept."""
        for handle, task in self.waiting.items():
            self._cancel(handle, task)
        until = time.monotonic() + END_SECONDS
        while self.waiting and time.monotonic() < until:
            self.poll(min(POLL_SECONDS, max(0.0, until - time.monotonic())))
        for handle, task in self.waiting.items():
            self.machines.cancel(handle, force=True)
            self.left.append(task.case)
        self.waiting.clear()

    def _cancel(self, handle: Any, task: _Task) -> None:
        task.cancelled = True
        self.machines.cancel(handle)

    def result(self) -> ClusterOutcome:
        return ClusterOutcome(
            records=tuple(self.records),
            left=tuple(self.left),
            refused=tuple(self.refused),
            lost=tuple(self.lost),
            num_rescheduled=self.num_rescheduled,
            interrupted=self.interrupted,
        )
