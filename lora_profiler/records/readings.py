"""What was read of a run while it goes, in the words of its record."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lora_profiler.records.record import PhaseSample


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """Of `Measurement`, as far as it is known."""

    phases: tuple[PhaseSample, ...] = ()
    warmup_seconds: tuple[float, ...] = ()
    step_seconds: tuple[float, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.phases or self.warmup_seconds or self.step_seconds)

    def since(self, before: "Readings") -> "Readings":
        """What `before` did not have yet."""
        return Readings(
            phases=self.phases[len(before.phases) :],
            warmup_seconds=self.warmup_seconds[len(before.warmup_seconds) :],
            step_seconds=self.step_seconds[len(before.step_seconds) :],
        )

    def with_later(self, later: "Readings") -> "Readings":
        """And what was read after it."""
        return Readings(
            phases=self.phases + later.phases,
            warmup_seconds=self.warmup_seconds + later.warmup_seconds,
            step_seconds=self.step_seconds + later.step_seconds,
        )


def readings_dict(readings: Readings) -> dict[str, Any]:
    """As JSON, without what was not read."""
    known = ({n: v for n, v in asdict(s).items() if v is not None} for s in readings.phases)
    found = {**asdict(readings), "phases": list(known)}
    return {name: values for name, values in found.items() if values}


def readings_from_dict(data: Mapping[str, Any]) -> Readings:
    """Raises TypeError for what `readings_dict` did not write."""
    lists = {name: tuple(values) for name, values in data.items()}
    lists["phases"] = tuple(PhaseSample(**sample) for sample in lists.get("phases", ()))
    return Readings(**lists)
