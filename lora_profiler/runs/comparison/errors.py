"""Predicted against measured: one row for each metric and category that a record and its prediction
both speak of."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import fmean, median
from typing import TYPE_CHECKING, Literal, get_args

from lora_profiler._common.process import collector_paused
from lora_profiler.errors import LoraProfilerError
from lora_profiler.measuring.records.record import Measurement, Record
from lora_profiler.memory.prediction import (
    CATEGORIES,
    Category,
    Engine,
    Moment,
    MomentName,
    Phase,
    Prediction,
    Step,
)
from lora_profiler.planning.engine import check_engine, predict
from lora_profiler.question.support.library_memory import workspaces_bytes
from lora_profiler.question.workload import Method, Workload
from lora_profiler.runs.comparison.throughput import (
    Throughput,
    Utilisation,
    card_of,
    throughput,
    utilisation,
)

if TYPE_CHECKING:
    from lora_profiler.planning.timing import Timing


# --- errors ---------------------------------------------------------------------------------------

Metric = Literal[
    "peak_requested_bytes", "peak_allocated_bytes", "peak_reserved_bytes", "attribution_bytes",
    "phase_peak_bytes", "step1_phase_peak_bytes", "persistent_bytes", "saved_activation_bytes",
    "num_parameters", "num_trainable_parameters",
]  # fmt: skip
METRICS: tuple[Metric, ...] = get_args(Metric)
TOTAL = "total"
"""The category of a metric that is one number."""

PHASE_GROUPS: Mapping[str, tuple[tuple[Phase, ...], tuple[MomentName, ...]]] = {
    "setup": (("setup",), ("setup",)),
    "forward": (("forward", "loss"), ("last_layer_forward", "end_of_forward")),
    "backward": (("backward",), ("loss_backward", "last_layer_backward", "first_layer_backward")),
    "optimizer": (("optimizer",), ("optimizer_step",)),
    "evaluation": (("evaluation",), ("evaluation",)),
}
"""Measured phases and predicted moments that lie in the same part of a step. Nothing is predicted
of clip and zero."""

_BY_CATEGORY: frozenset[Metric] = frozenset({"attribution_bytes", "persistent_bytes"})
_CATEGORIES_OF: Mapping[Metric, tuple[str, ...]] = {
    **dict.fromkeys(METRICS, (TOTAL,)),
    **dict.fromkeys(_BY_CATEGORY, CATEGORIES),
    "phase_peak_bytes": tuple(PHASE_GROUPS),
    "step1_phase_peak_bytes": tuple(PHASE_GROUPS),
}

NOT_PREDICTED: frozenset[Category] = frozenset({"communication", "unattributed"})
"""Categories that no engine claims yet: their rows make the columns add up, and are no errors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One number, predicted and measured. `category` is a memory category, a group of phases, or
    "total".

    `relative_error` is (predicted - measured) / measured, None where 0 was measured.

    Examples:
        >>> from pathlib import Path
        >>> from lora_profiler import Store, compare, predict
        >>> path = Path("benchmarks/records/cpu-epyc/cpu_families.jsonl")
        >>> record = Store(path).records()[0]
        >>> errors = compare(record, predict(record.workload))
        >>> {c.metric for c in errors} >= {"peak_requested_bytes", "num_parameters"}
        True
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
        """Whether the prediction says anything: not so in a row that is there for its measured side
        alone."""
        return self.predicted != 0 or self.category not in NOT_PREDICTED

    def is_within(self, share: float) -> bool:
        """Whether predicted and measured are equal up to `share` of what was measured."""
        return abs(self.predicted - self.measured) <= share * abs(self.measured)


def compare(record: Record, prediction: Prediction) -> tuple[Comparison, ...]:
    """Every number that both sides give, in the order of `METRICS`.

    `prediction` is that of `record.workload`. Peaks are compared in steady state; a category that
    one side alone has counts as 0 on the other. Nothing is said of a run that did not go through:
    its peaks are `lower_bounds`; nor of a rehearsed one, which measured nothing. An engine that
    does not know the activations makes no claim on what holds them. With several micro-batches a
    step, the phase "setup" was also measured between them, where gradients live: that is no moment
    of the prediction's.

    Where the engine simulates the allocator (`Prediction.device_memory`), allocated and reserved
    peaks are held against it, the reserved one as the run's segments were, expandable or not.
    Elsewhere nothing is predicted of reserved bytes, and allocated ones are held against the
    predicted peak, although rounding comes on top. On a card BLAS workspaces are among what is
    predicted, since its counters hold them too.

    Examples:
        >>> from pathlib import Path
        >>> from lora_profiler import Store, compare, predict
        >>> path = Path("benchmarks/records/cpu-epyc/cpu_families.jsonl")
        >>> record = Store(path).records()[0]
        >>> errors = compare(record, predict(record.workload))
        >>> next(c.relative_error for c in errors if c.metric == "peak_requested_bytes")
        0.0
    """
    is_measured = record.measurement.went_through and not record.is_rehearsed
    return claims(prediction).against(record) if is_measured else ()


Numbers = Mapping[Metric, Mapping[str, int]]
"""By metric and category."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What one prediction says in the metrics of a comparison, to be held against any number of
    records of its workload."""

    engine: Engine
    numbers: Numbers
    expandable_reserved_bytes: int | None

    def against(self, record: Record) -> tuple[Comparison, ...]:
        if not record.measurement.went_through or record.is_rehearsed:
            return ()
        record_id, between_micro_batches = record.id, record.workload.setup.accumulation > 1
        return tuple(
            Comparison(
                record_id=record_id,
                engine=self.engine,
                metric=metric,
                category=category,
                predicted=predicted,
                measured=measured,
                relative_error=(predicted - measured) / measured if measured else None,
            )
            for metric, values in _findings(record.measurement).items()
            for category, predicted, measured in _joined(metric, self._of(metric, record), values)
            if not (category == "setup" and between_micro_batches)
        )

    def _of(self, metric: Metric, record: Record) -> Mapping[str, int]:
        if (
            metric == "peak_reserved_bytes"
            and self.expandable_reserved_bytes is not None
            and "expandable_segments:True" in (record.environment.allocator or "")
        ):
            return {TOTAL: self.expandable_reserved_bytes}
        return self.numbers.get(metric, {})


def _joined(
    metric: Metric, predicted: Mapping[str, int], measured: Mapping[str, int]
) -> "list[tuple[str, int, int]]":
    """(category, predicted, measured) wherever both sides speak; of categories of memory, wherever
    either side has any."""
    if not predicted:
        return []
    categories = _CATEGORIES_OF[metric]
    if metric in _BY_CATEGORY:
        return [
            (c, predicted.get(c, 0), measured.get(c, 0))
            for c in categories
            if predicted.get(c) or measured.get(c)
        ]
    return [(c, predicted[c], measured[c]) for c in categories if c in predicted and c in measured]


def claims(prediction: Prediction) -> Claims:
    """The numbers of a prediction as comparisons name them. On CUDA this may replay the allocator
    once, some 0.1 s."""
    memory = prediction.device_memory
    numbers: dict[Metric, Mapping[str, int]] = {}
    if prediction.saved_activation_bytes is not None:
        peak, size = counted(prediction.workload, prediction.peak.bytes), counted_peak(prediction)
        numbers["peak_requested_bytes"] = {TOTAL: size}
        numbers["peak_allocated_bytes"] = {TOTAL: memory.allocated_bytes if memory else size}
        numbers["attribution_bytes"] = {str(category): n for category, n in peak.items()}
        numbers["saved_activation_bytes"] = {TOTAL: prediction.saved_activation_bytes}
    if memory:
        numbers["peak_reserved_bytes"] = {TOTAL: memory.reserved_bytes}
    steady = _at(prediction, "steady")
    numbers["phase_peak_bytes"] = _predicted_phases(prediction, steady)
    numbers["step1_phase_peak_bytes"] = _predicted_phases(prediction, _at(prediction, 1))
    buffers = steady["setup"].bytes.get("buffers", 0) if "setup" in steady else 0
    numbers["persistent_bytes"] = {"buffers": buffers, **prediction.persistent_bytes}
    # neither side counts adapters here
    numbers["num_parameters"] = {TOTAL: prediction.parameters.base}
    numbers["num_trainable_parameters"] = {TOTAL: prediction.parameters.trainable}
    return Claims(
        engine=prediction.engine,
        numbers=numbers,
        expandable_reserved_bytes=memory.expandable_reserved_bytes if memory else None,
    )


def counted(workload: Workload, size: Mapping[Category, int]) -> dict[Category, int]:
    """Bytes of tensors by category as a device counts them: with BLAS workspaces on a card."""
    beside = workspaces_bytes(workload)
    return {**size, "workspace": beside} if beside else dict(size)


def counted_peak(prediction: Prediction) -> int:
    return prediction.peak.total_bytes + workspaces_bytes(prediction.workload)


def _at(prediction: Prediction, step: Step) -> dict[MomentName, Moment]:
    return {m.moment: m for m in prediction.moments if m.step == step}


def predicted_peaks(prediction: Prediction) -> dict[str, int]:
    """What is predicted of each group of `PHASE_GROUPS` in a steady step, in bytes."""
    return _predicted_phases(prediction, _at(prediction, "steady"))


def _predicted_phases(
    prediction: Prediction, moments: Mapping[MomentName, Moment]
) -> dict[str, int]:
    beside = workspaces_bytes(prediction.workload)
    phases = {
        group: [moments[name].total_bytes for name in names if name in moments]
        for group, (_, names) in PHASE_GROUPS.items()
    }
    return {group: max(sizes) + beside for group, sizes in phases.items() if sizes}


def group_peaks(peaks: Mapping[Phase, int]) -> dict[str, int]:
    """The largest peak of each group of `PHASE_GROUPS`, in bytes, of those of measured phases."""
    sizes_by_group = {
        group: [peaks[phase] for phase in phases if phase in peaks]
        for group, (phases, _) in PHASE_GROUPS.items()
    }
    return {group: max(sizes) for group, sizes in sizes_by_group.items() if sizes}


def _findings(measured: Measurement) -> Numbers:
    """What was measured, in the order of `METRICS`; nothing stands for what was not."""
    findings: dict[Metric, Mapping[str, int]] = {}
    for metric in METRICS:
        value = getattr(measured, metric)
        if metric.endswith("phase_peak_bytes"):
            findings[metric] = group_peaks(value)
        elif metric in _BY_CATEGORY:
            findings[metric] = value
        elif value is not None:
            findings[metric] = {TOTAL: value}
    return {metric: numbers for metric, numbers in findings.items() if numbers}


def lower_bounds(record: Record) -> dict[str, int]:
    """Peaks of a run that ended early, by metric: a whole run needs at least these. Empty for one
    that went through."""
    measurement = record.measurement
    if measurement.went_through:
        return {}
    names = (
        "peak_requested_bytes",
        "peak_allocated_bytes",
        "peak_reserved_bytes",
        "device_used_bytes",
    )
    bounds = {name: getattr(measurement, name) for name in names}
    return {name: size for name, size in bounds.items() if size is not None}


# --- many records ---------------------------------------------------------------------------------

Grouping = Literal["metric", "category", "engine", "method", "family", "model", "device"]
GROUPINGS: tuple[Grouping, ...] = get_args(Grouping)

_OF_COMPARISON: Mapping[Grouping, Callable[[Comparison], str]] = {
    "metric": lambda c: c.metric,
    "category": lambda c: c.category,
    "engine": lambda c: c.engine,
}
_OF_RECORD: Mapping[Grouping, Callable[[Record], str]] = {
    "method": lambda r: r.workload.setup.method,
    "family": lambda r: r.workload.model.model_type,
    "model": lambda r: r.workload.model.id,
    "device": lambda r: r.environment.device.name,
}
_ORDERS: Mapping[Grouping, tuple[str, ...]] = {
    "metric": METRICS,
    "category": (TOTAL, *CATEGORIES, *PHASE_GROUPS),
    "engine": get_args(Engine),
    "method": get_args(Method),
}
"""Of groups; others go by the alphabet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorSummary:
    """Errors of `n` claims that share the values in `group`.

    Mean of the absolute errors, median, and the worst with its sign and record: of all, below what
    was measured, and above it. Claims where 0 was measured have no relative error: they count in
    `n` and, unless 0 was predicted, as not within 1 %, and nowhere else. None where there is no
    such error.
    """

    group: tuple[str, ...]
    n: int
    mean_absolute: float | None
    median: float | None
    worst: float | None
    worst_record_id: str | None
    worst_under: float | None
    worst_under_record_id: str | None
    worst_over: float | None
    worst_over_record_id: str | None
    share_within_1_percent: float


def summary(
    comparisons: Iterable[Comparison],
    by: Sequence[Grouping] = ("metric", "category"),
    records: Mapping[str, Record] | None = None,
) -> tuple[ErrorSummary, ...]:
    """Errors gathered by the named groupings, in their own order. Rows that are no claim are left
    out.

    `records` by id are needed for the groupings that a comparison does not hold itself: method,
    family (the model type), model, and device (its name).
    """
    parts = [_value_of(name, records or {}) for name in by]
    groups: dict[tuple[str, ...], list[Comparison]] = {}
    for c in comparisons:
        if c.is_claim:
            groups.setdefault(tuple([part(c) for part in parts]), []).append(c)
    return tuple(
        _summed(group, groups[group])
        for group in sorted(groups, key=lambda group: _rank(by, group))
    )


def _value_of(name: Grouping, records: Mapping[str, Record]) -> Callable[[Comparison], str]:
    if name in _OF_COMPARISON:
        return _OF_COMPARISON[name]
    value = _OF_RECORD[name]
    return lambda c: value(records[c.record_id])


def _rank(by: Sequence[Grouping], group: tuple[str, ...]) -> list[tuple[int, str]]:
    orders = [_ORDERS.get(name, ()) for name in by]
    return [
        (order.index(value) if value in order else 0, value)
        for order, value in zip(orders, group, strict=True)
    ]


def _summed(group: tuple[str, ...], members: Sequence[Comparison]) -> ErrorSummary:
    errors = [(c.relative_error, c.record_id) for c in members if c.relative_error is not None]
    nothing = (None, None)
    worst, record_id = max(errors, key=lambda e: abs(e[0]), default=nothing)
    under, under_id = min((e for e in errors if e[0] < 0), key=lambda e: e[0], default=nothing)
    over, over_id = max((e for e in errors if e[0] > 0), key=lambda e: e[0], default=nothing)
    return ErrorSummary(
        group=group,
        n=len(members),
        mean_absolute=fmean(abs(e) for e, _ in errors) if errors else None,
        median=median(e for e, _ in errors) if errors else None,
        worst=worst,
        worst_record_id=record_id,
        worst_under=under,
        worst_under_record_id=under_id,
        worst_over=over,
        worst_over_record_id=over_id,
        share_within_1_percent=sum(c.is_within(0.01) for c in members) / len(members),
    )


def misses(comparisons: Iterable[Comparison], above: float = 0.01) -> tuple[Comparison, ...]:
    """Claims that are off by more than `above` of what was measured, the largest difference
    first."""
    missed = [c for c in comparisons if c.is_claim and not c.is_within(above)]
    return tuple(sorted(missed, key=lambda c: -abs(c.predicted - c.measured)))


# --- records beside their predictions -------------------------------------------------------------

# Records beside what is predicted of them: one prediction for each distinct workload, however many
# records share it; and a record beside everything else that is worked out from it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One record, what is predicted of its workload, and the two joined.

    `prediction` is None where the workload could not be predicted, and `refusal` then says why in a
    sentence; else it is None.
    """

    record: Record
    prediction: Prediction | None
    refusal: str | None
    comparisons: tuple[Comparison, ...]


def scored(records: Iterable[Record], engine: str = "auto") -> list[Scored]:
    """Every record in the order given. A workload that cannot be predicted is a refusal and spoils
    no other.

    Nothing is traced: "traced" takes the profiles that are there, as "compiled" does. Raises
    UsageError for an unknown engine.
    """
    check_engine(engine)
    answerer = "compiled" if engine == "traced" else engine

    @cache
    def answer(
        workload: Workload,
    ) -> tuple[Prediction | None, str | None, Callable[[], Claims] | None]:
        try:
            prediction = predict(workload, answerer, may_trace=False)
        except LoraProfilerError as e:
            return None, str(e), None
        # worked out with the first run that went through: on CUDA that can take a while
        return prediction, None, cache(lambda: claims(prediction))

    rows = []
    with collector_paused():
        for record in records:
            prediction, refusal, claimed = answer(record.workload)
            comparisons: tuple[Comparison, ...] = ()
            if claimed is not None and record.measurement.went_through:
                comparisons = claimed().against(record)
            rows.append(
                Scored(
                    record=record, prediction=prediction, refusal=refusal, comparisons=comparisons
                )
            )
    return rows


# --- a record with everything that is worked out from it ------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One record and what it says; `speed`, `utilisation` and `timing` are None where nothing was
    timed, these two also where the card is unknown."""

    record: Record
    prediction: Prediction
    comparisons: tuple[Comparison, ...]
    speed: Throughput | None
    utilisation: Utilisation | None
    timing: "Timing | None"


def result(record: Record, prediction: Prediction) -> Result:
    from lora_profiler.planning.timing import step_time

    speed, card = throughput(record), card_of(record.environment.device)
    return Result(
        record=record,
        prediction=prediction,
        comparisons=compare(record, prediction),
        speed=speed,
        utilisation=_utilisation(record, prediction),
        timing=step_time(record.workload, card, prediction=prediction) if speed and card else None,
    )


def _utilisation(record: Record, prediction: Prediction) -> Utilisation | None:
    own = utilisation(record, prediction.flops)
    setup = record.workload.setup
    if own is None or setup.lora is None or setup.images is not None:
        return own
    full = predict(
        replace(record.workload, setup=replace(setup, lora=None, quantization=None)),
        may_trace=False,
    )
    return utilisation(record, prediction.flops, full.flops)
