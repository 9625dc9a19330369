"""Predicted against measured: one row for each metric and category that a record and its prediction both speak of."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Literal

from lora_profiler.prediction import CATEGORIES, Category, Engine, Moment, MomentName, Phase, Prediction, Step
from lora_profiler.record import Measurement, Record

Metric = Literal[
    "peak_requested_bytes", "peak_allocated_bytes", "attribution_bytes", "phase_peak_bytes", "step1_phase_peak_bytes",
    "persistent_bytes", "saved_activation_bytes", "num_parameters", "num_trainable_parameters",
]  # fmt: skip
METRICS: tuple[Metric, ...] = Metric.__args__  # type: ignore[attr-defined]  # typing has no public accessor on an alias
TOTAL = "total"
"""The category of a metric that is one number."""

PHASE_GROUPS: Mapping[str, tuple[tuple[Phase, ...], tuple[MomentName, ...]]] = {
    "setup": (("setup",), ("setup",)),
    "forward": (("forward", "loss"), ("last_layer_forward", "end_of_forward")),
    "backward": (("backward",), ("loss_backward", "last_layer_backward", "first_layer_backward")),
    "optimizer": (("optimizer",), ("optimizer_step",)),
}
"""Measured phases and predicted moments that lie in the same part of a step. Nothing is predicted of clip and zero."""

_CATEGORY_ORDER = (TOTAL, *CATEGORIES, *PHASE_GROUPS)

NOT_PREDICTED: frozenset[Category] = frozenset({"workspace", "communication", "unattributed"})
"""Categories that no engine claims yet: their rows make the columns add up, and are no errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One number, predicted and measured. `category` is a memory category, a group of phases, or "total".

    `relative_error` is (predicted - measured) / measured, None where 0 was measured.
    """

    record_id: str
    engine: Engine
    metric: Metric
    category: str
    predicted: int
    measured: int
    relative_error: float | None

    @property
    def is_claim(self) -> bool:
        """Whether the prediction says anything: not so in a row that is there for its measured side alone."""
        return self.predicted != 0 or self.category not in NOT_PREDICTED

    def is_within(self, share: float) -> bool:
        """Whether predicted and measured are equal up to `share` of what was measured."""
        return abs(self.predicted - self.measured) <= share * abs(self.measured)


def compare(record: Record, prediction: Prediction) -> tuple[Comparison, ...]:
    """Every number that both sides give, in the order of `METRICS`.

    `prediction` is that of `record.workload`. Peaks are compared in steady state; a category that one side alone has counts as 0
    on the other. `peak_allocated_bytes` is held against the predicted peak too, although rounding comes on top. Reserved and
    device bytes have no rows, since no engine predicts them. Nothing is said of a run that did not go through: its peaks are
    `lower_bounds`. An engine that does not know the activations makes no claim on what holds them. With several micro-batches a
    step, the phase "setup" was also measured between them, where gradients live: that is no moment of the prediction's.
    """
    if not record.measurement.went_through:
        return ()
    record_id, between_micro_batches = record.id, record.workload.setup.accumulation > 1
    return tuple(
        Comparison(
            record_id=record_id,
            engine=prediction.engine,
            metric=metric,
            category=category,
            predicted=predicted,
            measured=measured,
            relative_error=(predicted - measured) / measured if measured else None,
        )
        for metric, category, predicted, measured in _pairs(record.measurement, prediction)
        if measured is not None and not (category == "setup" and between_micro_batches)
    )


def lower_bounds(record: Record) -> dict[str, int]:
    """Peaks of a run that ended early, by metric: a whole run needs at least these. Empty for one that went through."""
    measurement = record.measurement
    if measurement.went_through:
        return {}
    names = ("peak_requested_bytes", "peak_allocated_bytes", "peak_reserved_bytes", "device_used_bytes")
    found = {name: getattr(measurement, name) for name in names}
    return {name: size for name, size in found.items() if size is not None}


Pair = tuple[Metric, str, int, int | None]
"""(metric, category, predicted, measured)."""


def _pairs(measured: Measurement, prediction: Prediction) -> Iterator[Pair]:
    knows_activations = prediction.saved_activation_bytes is not None
    if knows_activations:
        peak = prediction.peak
        yield "peak_requested_bytes", TOTAL, peak.total_bytes, measured.peak_requested_bytes
        yield "peak_allocated_bytes", TOTAL, peak.total_bytes, measured.peak_allocated_bytes
        yield from _by_category("attribution_bytes", peak.bytes, measured.attribution_bytes)
    yield from _by_phase("phase_peak_bytes", _at(prediction, "steady"), measured.phase_peak_bytes)
    yield from _by_phase("step1_phase_peak_bytes", _at(prediction, 1), measured.step1_phase_peak_bytes)
    setup = _at(prediction, "steady").get("setup")
    persistent = {"buffers": setup.bytes.get("buffers", 0) if setup else 0, **prediction.persistent_bytes}
    yield from _by_category("persistent_bytes", persistent, measured.persistent_bytes)
    if prediction.saved_activation_bytes is not None:
        yield "saved_activation_bytes", TOTAL, prediction.saved_activation_bytes, measured.saved_activation_bytes
    parameters = prediction.parameters
    yield "num_parameters", TOTAL, parameters.base, measured.num_parameters  # neither counts adapters here
    yield "num_trainable_parameters", TOTAL, parameters.trainable, measured.num_trainable_parameters


def _at(prediction: Prediction, step: Step) -> dict[MomentName, Moment]:
    return {m.moment: m for m in prediction.moments if m.step == step}


def _by_category(
    metric: Metric, predicted: Mapping[Category, int] | Mapping[str, int], measured: Mapping[Category, int]
) -> Iterator[Pair]:
    if not measured:
        return
    for category in CATEGORIES:
        sizes = predicted.get(category, 0), measured.get(category, 0)
        if any(sizes):
            yield metric, category, *sizes


def _by_phase(metric: Metric, moments: Mapping[MomentName, Moment], measured: Mapping[Phase, int]) -> Iterator[Pair]:
    for group, (phases, names) in PHASE_GROUPS.items():
        predicted = [moments[name].total_bytes for name in names if name in moments]
        found = [measured[phase] for phase in phases if phase in measured]
        if predicted and found:
            yield metric, group, max(predicted), max(found)


# --- many records -------------------------------------------------------------------------------------------------------

Field = Literal["engine", "metric", "category"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorSummary:
    """Errors of `n` claims that share the values in `group`.

    Mean of the absolute errors, median, and the worst with its sign and record. Claims where 0 was measured have no relative
    error: they count in `n` and, unless 0 was predicted, as not within 1 %, and nowhere else; None where there is no other.
    """

    group: tuple[str, ...]
    n: int
    mean_absolute: float | None
    median: float | None
    worst: float | None
    worst_record_id: str | None
    share_within_1_percent: float


def summary(comparisons: Iterable[Comparison], by: Sequence[Field] = ("metric", "category")) -> tuple[ErrorSummary, ...]:
    """Errors gathered by the named fields, in the order of metrics and categories. Rows that are no claim are left out."""
    groups: dict[tuple[str, ...], list[Comparison]] = {}
    for c in sorted(comparisons, key=lambda c: (METRICS.index(c.metric), _CATEGORY_ORDER.index(c.category))):
        if c.is_claim:
            groups.setdefault(tuple(str(getattr(c, name)) for name in by), []).append(c)
    return tuple(_summed(group, members) for group, members in groups.items())


def _summed(group: tuple[str, ...], members: Sequence[Comparison]) -> ErrorSummary:
    errors = [(c.relative_error, c.record_id) for c in members if c.relative_error is not None]
    worst, record_id = max(errors, key=lambda e: abs(e[0]), default=(None, None))
    return ErrorSummary(
        group=group,
        n=len(members),
        mean_absolute=fmean(abs(e) for e, _ in errors) if errors else None,
        median=median(e for e, _ in errors) if errors else None,
        worst=worst,
        worst_record_id=record_id,
        share_within_1_percent=sum(c.is_within(0.01) for c in members) / len(members),
    )


def misses(comparisons: Iterable[Comparison], above: float = 0.01) -> tuple[Comparison, ...]:
    """Claims that are off by more than `above` of what was measured, the largest difference first."""
    found = [c for c in comparisons if c.is_claim and not c.is_within(above)]
    return tuple(sorted(found, key=lambda c: -abs(c.predicted - c.measured)))
