"""How long a case takes, judging by those before it."""

from dataclasses import dataclass, field
from datetime import datetime

from lora_profiler.records.record import Record
from lora_profiler.workload import Workload

FIRST_ESTIMATE_SECONDS = 60.0


@dataclass(slots=True)
class Durations:
    """The longest of each kind so far. Cases of one model and method take times of one size."""

    _longest: dict[tuple[str, str], float] = field(default_factory=dict)

    def note(self, workload: Workload, seconds: float) -> None:
        """Keeps the longest. A case that took no second was refused, which says nothing of
        others."""
        if seconds >= 1:
            kind = _kind(workload)
            self._longest[kind] = max(seconds, self._longest.get(kind, 0.0))

    def expected_seconds(self, workload: Workload) -> float:
        """The longest case of the kind so far, else of all, else a first guess."""
        return self._longest.get(_kind(workload)) or max(
            self._longest.values(), default=FIRST_ESTIMATE_SECONDS
        )


def _kind(workload: Workload) -> tuple[str, str]:
    return workload.model.fingerprint, workload.setup.method


def seconds_taken(record: Record) -> float | None:
    """Wall time of a whole run, its process included; None where it was not noted."""
    if record.started_at is None or record.ended_at is None:
        return None
    return (
        datetime.fromisoformat(record.ended_at) - datetime.fromisoformat(record.started_at)
    ).total_seconds()
