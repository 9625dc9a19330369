"""One command's worth of measuring: its cases in turn, or the probes of a batch search, with one
store and one deadline."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

from lora_profiler.measuring.harness import Case, MeasurementInterrupted, measure_case
from lora_profiler.measuring.harness.pretended import Pretended
from lora_profiler.measuring.records.record import Record
from lora_profiler.measuring.records.store import Store
from lora_profiler.runs.campaign import runs
from lora_profiler.runs.campaign.batch_search import LargestBatch, largest_batch
from lora_profiler.runs.campaign.interrupts import Interrupt, last_when_interrupted
from lora_profiler.runs.campaign.planned import Planned, planned
from lora_profiler.runs.campaign.progress import Progress


class TimeIsUpError(Exception):
    """A search could not start its next probe before the deadline; what it measured is stored."""


@dataclass(slots=True, kw_only=True)
class Session:
    """How cases are run: see `runs.run_cases`. The environment is asked for once a device. With
    `pretended` they are rehearsed there."""

    store: Store
    progress: Progress
    interrupt: Interrupt
    schedule: runs.Schedule = runs.EVERY_CASE
    pretended: Pretended | None = None
    clock: Callable[[], float] = time.monotonic
    _began: float = 0.0
    _environment_key: runs.EnvironmentKey = field(default=runs.key_of_environment)

    def __post_init__(self) -> None:
        self._began = self.clock()
        key = runs.key_of_environment
        if self.pretended is not None:
            key = partial(key, pretended=self.pretended)
        self._environment_key = cache(key)

    def run(self, cases: Sequence[Planned]) -> runs.Outcome:
        """Every case in turn. Raises StoreError, and KeyboardInterrupt where Ctrl-C came between
        two cases."""
        rows = [self.progress.add(plan) for plan in cases]
        return self._run([plan.case for plan in cases], rows[0] if rows else 0)

    def search(self, start: Planned, predicted: int | None) -> LargestBatch:
        """The largest batch of a case, each probe a row and a record.

        Raises ProbeFailedError, TimeIsUpError, and MeasurementInterrupted on Ctrl-C.
        """
        return largest_batch(start.case, self._probe, predicted)

    def interrupted(self, record: Record | None = None) -> None:
        """Ctrl-C ended the case that ran; `record`, if there is one, tells where it stood."""
        self.interrupt.requested = True
        self.progress.interrupt(record)

    def _probe(self, case: Case) -> Record:
        outcome = self._run([case], self.progress.add(planned(case)))
        if outcome.interrupted:
            raise MeasurementInterrupted(outcome.records[-1])
        if outcome.left:
            raise TimeIsUpError("the deadline leaves no time for another probe.")
        return outcome.records[0]

    def _run(self, cases: Sequence[Case], first_row: int) -> runs.Outcome:
        schedule = self.schedule
        if schedule.deadline_seconds is not None:
            gone = self.clock() - self._began
            schedule = replace(schedule, deadline_seconds=schedule.deadline_seconds - gone)
        measure = measure_case
        if self.pretended is not None:
            measure = partial(measure_case, pretended=self.pretended)
        outcome = runs.run_cases(
            cases,
            self.store,
            self.progress,
            schedule,
            first=first_row,
            measure=last_when_interrupted(measure, self.interrupt),
            environment_key=self._environment_key,
        )
        if outcome.interrupted:
            self.interrupted(outcome.records[-1])
        return outcome
