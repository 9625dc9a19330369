"""Records as rows: what filters choose from, what the table of runs shows, and what figures are
drawn from."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import median
from typing import Literal

from lora_profiler.comparison.errors import GROUPINGS, Grouping
from lora_profiler.comparison.scored import Scored
from lora_profiler.dashboard.records import Loaded
from lora_profiler.records.record import STATUSES
from lora_profiler.report import labels
from lora_profiler.report.charts import ErrorDot, ScatterPoint
from lora_profiler.report.comparisons import run_name
from lora_profiler.report.measured_runs import COMPARED_PEAK, setting
from lora_profiler.report.method_label import way_label
from lora_profiler.workload import Method, Workload

Filter = Literal["model", "method", "device", "status"]
FILTERS: tuple[Filter, ...] = ("model", "method", "device", "status")
STRIPS: tuple[Grouping, ...] = tuple(
    name for name in GROUPINGS if name in ("method", "family", "model", "device")
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One record with the numbers of its row: bytes, seconds, tokens a second; None where there is
    none."""

    scored: Scored
    record_id: str
    model: str
    family: str
    method: Method
    way: str
    setting: str
    name: str
    device: str
    status: str
    measured_bytes: int | None
    predicted_bytes: int | None
    relative_error: float | None
    step_seconds: float | None
    tokens_per_second: float | None


@lru_cache(maxsize=8)
def runs(found: Loaded) -> tuple[Run, ...]:
    """A row for each record, failures included, in their order."""
    words: dict[
        Workload, tuple[str, str, str]
    ] = {}  # of many records few are of different workloads
    return tuple(_run(s, words) for s in found.scored)


def _run(s: Scored, words: dict[Workload, tuple[str, str, str]]) -> Run:
    workload, measurement = s.record.workload, s.record.measurement
    if workload not in words:
        words[workload] = way_label(workload.setup), setting(workload.setup), run_name(s.record)
    way, what, name = words[workload]
    peak = next((c for c in s.comparisons if c.metric == COMPARED_PEAK), None)
    known = s.prediction is not None and s.prediction.saved_activation_bytes is not None
    seconds = (
        median(measurement.step_seconds)
        if measurement.went_through and measurement.step_seconds
        else None
    )
    return Run(
        scored=s,
        record_id=s.record.id,
        model=workload.model.id,
        family=workload.model.model_type,
        method=workload.setup.method,
        way=way,
        setting=what,
        name=name,
        device=s.record.environment.device.name,
        status=measurement.status,
        measured_bytes=measurement.peak_requested_bytes,
        predicted_bytes=(
            s.prediction.peak.total_bytes if s.prediction is not None and known else None
        ),
        relative_error=peak.relative_error if peak else None,
        step_seconds=seconds,
        tokens_per_second=(
            measurement.tokens_per_step / seconds
            if seconds and measurement.tokens_per_step
            else None
        ),
    )


def choices(found: Iterable[Run], by: Filter) -> list[str]:
    """What a filter can be set to: methods and statuses in their own order, names by the
    alphabet."""
    present = {getattr(run, by) for run in found}
    order = {"method": tuple(labels.METHOD_LABELS), "status": STATUSES}.get(by)
    return [name for name in order if name in present] if order else sorted(present)


def filtered(found: Sequence[Run], wanted: Mapping[Filter, Collection[str]]) -> list[Run]:
    """Those that every filter lets through; an empty one lets all through."""
    active = [(by, set(names)) for by, names in wanted.items() if names]
    return [run for run in found if all(getattr(run, by) in names for by, names in active)]


def scatter(found: Iterable[Run]) -> list[ScatterPoint]:
    """Peaks of runs that went through."""
    return [
        ScatterPoint(
            label=run.name,
            method=run.method,
            predicted_bytes=run.predicted_bytes,
            measured_bytes=run.measured_bytes,
            record_id=run.record_id,
        )
        for run in found
        if run.relative_error is not None and run.predicted_bytes and run.measured_bytes
    ]


def strip(found: Iterable[Run], by: Grouping) -> list[ErrorDot]:
    """Errors of the peak, the groups in the order of `choices`."""
    dots = [
        ErrorDot(
            group=labels.METHOD_LABELS[run.method] if by == "method" else str(getattr(run, by)),
            label=run.name,
            error=run.relative_error,
            method=run.method,
            record_id=run.record_id,
        )
        for run in found
        if run.relative_error is not None
    ]
    order = list(labels.METHOD_LABELS.values())
    return sorted(
        dots, key=lambda dot: (order.index(dot.group) if by == "method" else 0, dot.group)
    )
