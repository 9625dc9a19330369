"""Where every case of a run stands and how long the rest will take: what a face draws, without
drawing it."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import fmean
from typing import Literal

from lora_profiler.measuring.harness import Case, Heartbeat
from lora_profiler.measuring.records.record import Record
from lora_profiler.runs.campaign.planned import Planned
from lora_profiler.runs.campaign.runs import kind_of, wall_seconds

State = Literal["waiting", "running", "done", "stored", "interrupted"]


@dataclass(slots=True, kw_only=True)
class CaseRow:
    """One case as it goes. `seconds` is what it took, `expected` what an earlier run of the same
    case took, None if unknown.

    "stored" is one that a run before had measured already.
    """

    planned: Planned
    state: State = "waiting"
    heartbeat: Heartbeat | None = None
    record: Record | None = None
    seconds: float | None = None
    expected: float | None = None
    began: float | None = None

    @property
    def kind(self) -> tuple[str, str]:
        return kind_of(self.planned.case.workload)


@dataclass(slots=True)
class Progress:
    """All rows of a run, which it observes (`runs.Observer`).

    `tell` is called with the place and the row whenever one starts or ends, `beat` with each
    heartbeat.

    `clock` gives seconds. `at_once` cases run side by side.
    """

    earlier: Iterable[Record] = ()
    tell: Callable[[int, CaseRow], None] = lambda index, row: None
    beat: Callable[[int, CaseRow], None] = lambda index, row: None
    clock: Callable[[], float] = time.monotonic
    at_once: int = 1
    rows: list[CaseRow] = field(default_factory=list)
    _earlier_seconds: dict[str, float] = field(default_factory=dict)
    _began: float = 0.0

    def __post_init__(self) -> None:
        self._began = self.clock()
        for record in self.earlier:
            seconds = wall_seconds(record)
            if seconds is not None and record.measurement.went_through:
                self._earlier_seconds[record.case_key] = seconds

    def add(self, planned: Planned) -> int:
        """A row for one more case; its place."""
        self.rows.append(
            CaseRow(planned=planned, expected=self._earlier_seconds.get(planned.case.key))
        )
        return len(self.rows) - 1

    def started(self, index: int, case: Case) -> None:
        row = self.rows[index]
        row.state, row.began = "running", self.clock()
        self.tell(index, row)

    def progressed(self, index: int, heartbeat: Heartbeat) -> None:
        row = self.rows[index]
        row.heartbeat = heartbeat
        self.beat(index, row)

    def finished(self, index: int, record: Record, stored_before: bool) -> None:
        row = self.rows[index]
        row.seconds = self.elapsed(row)
        row.state, row.record = "stored" if stored_before else "done", record
        self.tell(index, row)

    def interrupt(self, record: Record | None) -> None:
        """The row that runs was stopped by hand; `record` tells where it stood."""
        for index, row in enumerate(self.rows):
            if row.state == "running":
                row.state, row.record, row.seconds = "interrupted", record, self.elapsed(row)
                self.tell(index, row)

    # --- times ------------------------------------------------------------------------------------

    @property
    def seconds_gone(self) -> float:
        return self.clock() - self._began

    def elapsed(self, row: CaseRow) -> float | None:
        """Seconds that a row took or has been running; None before it starts and for what was
        stored."""
        if row.seconds is not None or row.began is None:
            return row.seconds
        return self.clock() - row.began

    def seconds_left(self) -> float | None:
        """What the rows still to come will take together; None as long as nothing is known to judge
        by.

        A case took before what it will take again; else as long as those of its kind in this run,
        else as all of them.
        """
        left = 0.0
        for row in self.rows:
            if row.state in ("waiting", "running"):
                expected = self._expected(row)
                if expected is None:
                    return None
                left += max(0.0, expected - (self.elapsed(row) or 0.0))
        return left / self.at_once

    def _expected(self, row: CaseRow) -> float | None:
        if row.expected is not None:
            return row.expected
        taken = [r for r in self.rows if r.state == "done" and r.seconds is not None]
        alike = [r for r in taken if r.kind == row.kind] or taken
        return fmean(r.seconds for r in alike if r.seconds is not None) if alike else None
