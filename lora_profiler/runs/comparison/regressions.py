"""Two sets of records against each other, as before and after an upgrade: what changed in each
case, and in the set-up."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Literal, get_args

from lora_profiler.measuring.records.checks import LEAST_SAMPLES, median_interval
from lora_profiler.measuring.records.load import recency
from lora_profiler.measuring.records.record import Device, Environment, Record

ChangeMetric = Literal[
    "peak_requested_bytes", "peak_allocated_bytes", "peak_reserved_bytes", "device_used_bytes",
    "step_seconds", "tokens_per_second",
]  # fmt: skip
CHANGE_METRICS: tuple[ChangeMetric, ...] = get_args(ChangeMetric)
_MORE_IS_WORSE: Mapping[ChangeMetric, int] = {
    **dict.fromkeys(CHANGE_METRICS, 1),
    "tokens_per_second": -1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The runs of one case on either side, each side's from one environment: its repeats."""

    case_key: str
    before: tuple[Record, ...]
    after: tuple[Record, ...]

    @property
    def is_lost(self) -> bool:
        """Whether the case went through before, and no more."""
        return _went_through(self.before) and not _went_through(self.after)

    @property
    def is_won(self) -> bool:
        return _went_through(self.after) and not _went_through(self.before)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Cases of two sets, joined by case key. `left_out` counts runs of environments older than the
    newest of their case."""

    pairs: tuple[Pair, ...]
    only_before: tuple[Record, ...]
    only_after: tuple[Record, ...]
    left_out: int

    @property
    def sides(self) -> tuple[list[Record], list[Record]]:
        """The runs of all pairs before, and after."""
        before = [record for pair in self.pairs for record in pair.before]
        return before, [record for pair in self.pairs for record in pair.after]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One number of one side. `low` and `high` are the 95 % interval of a median, None for bytes;
    `n` samples or runs.

    `record_ids` are those of the runs that it comes from.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    record_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One number before and after. `relative_change` is (after - before) / before, None where it
    was 0 before."""

    case_key: str
    metric: ChangeMetric
    before: Side
    after: Side
    relative_change: float | None

    @property
    def is_beyond_noise(self) -> bool:
        """Whether the values differ: bytes at all, medians of enough samples so that their 95 %
        intervals lie apart."""
        a, b = self.before, self.after
        if a.low is None or a.high is None or b.low is None or b.high is None:
            return a.value != b.value
        return min(a.n, b.n) >= LEAST_SAMPLES and (a.high < b.low or b.high < a.low)

    def is_worse_by_more_than(self, share: float) -> bool:
        """Whether it needs more memory or time, or does less a second, by more than `share` of
        before, and beyond noise."""
        worse = (self.after.value - self.before.value) * _MORE_IS_WORSE[self.metric]
        return worse > share * self.before.value and self.is_beyond_noise


@dataclass(frozen=True, slots=True, kw_only=True)
class SetupChange:
    """One field of the environments that is not the same on both sides, by its path in a record
    ("packages.torch").

    Every value that occurs, sorted; empty where no record has one.
    """

    field: str
    before: tuple[str, ...]
    after: tuple[str, ...]


# --- pairs ----------------------------------------------------------------------------------------


def paired(before: Iterable[Record], after: Iterable[Record]) -> Pairs:
    """Cases that both sides have, in the order of `before`.

    Where either side has a case on several devices, each is paired with the one of its name; else
    whatever the device. Of several environments of a case on one device, the one that ran last
    counts.
    """
    first, older_before = _newest(before)
    second, older_after = _newest(after)
    pairs: list[Pair] = []
    only_before: list[Record] = []
    for key, by_device in first.items():
        others = second.get(key, {})
        for name, runs in by_device.items():
            same = next(iter(others)) if len(by_device) == len(others) == 1 else name
            if same in others:
                pairs.append(Pair(case_key=key, before=tuple(runs), after=tuple(others.pop(same))))
            else:
                only_before += runs
    only_after = [
        record for by_device in second.values() for runs in by_device.values() for record in runs
    ]
    return Pairs(
        pairs=tuple(pairs),
        only_before=tuple(only_before),
        only_after=tuple(only_after),
        left_out=older_before + older_after,
    )


def _newest(records: Iterable[Record]) -> tuple[dict[str, dict[str, list[Record]]], int]:
    """(case key -> device name -> the runs of the environment that ran last, how many others there
    were)."""
    cases: dict[str, dict[str, dict[str, list[Record]]]] = {}
    for r in records:
        devices = cases.setdefault(r.case_key, {})
        devices.setdefault(r.environment.device.name, {}).setdefault(r.environment.key, []).append(
            r
        )
    newest_runs: dict[str, dict[str, list[Record]]] = {}
    left_out = 0
    for key, devices in cases.items():
        newest_runs[key] = {}
        for name, environments in devices.items():
            newest = max(environments.values(), key=lambda runs: max(map(recency, runs)))
            newest_runs[key][name] = newest
            left_out += sum(map(len, environments.values())) - len(newest)
    return newest_runs, left_out


def _went_through(records: Sequence[Record]) -> bool:
    return any(r.measurement.went_through for r in records)


# --- numbers --------------------------------------------------------------------------------------


def changes(
    pairs: Iterable[Pair], metrics: Sequence[ChangeMetric] = CHANGE_METRICS
) -> tuple[Change, ...]:
    """The named numbers of every pair that both sides measured; runs that did not go through count
    for nothing.

    Bytes: the largest of a side's runs. Step seconds: the median over the steps of all of them,
    with its 95 % interval (`samples.median_interval`), which knows nothing of how whole runs
    differ. Tokens a second follow from it.
    """
    return tuple(change for pair in pairs for metric in metrics for change in _change(pair, metric))


def _change(pair: Pair, metric: ChangeMetric) -> Iterator[Change]:
    before, after = _side(pair.before, metric), _side(pair.after, metric)
    if before is not None and after is not None:
        relative = (after.value - before.value) / before.value if before.value else None
        yield Change(
            case_key=pair.case_key,
            metric=metric,
            before=before,
            after=after,
            relative_change=relative,
        )


def _side(records: Sequence[Record], metric: ChangeMetric) -> Side | None:
    if metric in ("step_seconds", "tokens_per_second"):
        return _time(records, metric)
    return _size(records, metric)


def _size(records: Sequence[Record], metric: ChangeMetric) -> Side | None:
    sizes_by_record = {
        r.id: getattr(r.measurement, metric) for r in records if r.measurement.went_through
    }
    sizes = {key: size for key, size in sizes_by_record.items() if size is not None}
    if not sizes:
        return None
    return Side(
        value=max(sizes.values()), low=None, high=None, n=len(sizes), record_ids=tuple(sizes)
    )


def _time(records: Sequence[Record], metric: ChangeMetric) -> Side | None:
    timed = [
        r
        for r in records
        if r.measurement.went_through and min(r.measurement.step_seconds, default=0.0) > 0
    ]
    if not timed:
        return None
    seconds = [s for r in timed for s in r.measurement.step_seconds]
    low, middle, high = median_interval(seconds)
    n, record_ids = len(seconds), tuple(r.id for r in timed)
    if metric == "step_seconds":
        return Side(value=middle, low=low, high=high, n=n, record_ids=record_ids)
    tokens = next(
        (r.measurement.tokens_per_step for r in timed if r.measurement.tokens_per_step), None
    )
    if tokens is None:
        return None
    return Side(
        value=tokens / middle, low=tokens / high, high=tokens / low, n=n, record_ids=record_ids
    )


# --- the set-up -----------------------------------------------------------------------------------


def setup_changes(before: Iterable[Record], after: Iterable[Record]) -> tuple[SetupChange, ...]:
    """Fields of the environments whose values are not the same on both sides: device and driver
    first, then software.

    Left out is the command, which says what was asked and not where.
    """
    first, second = _values(before), _values(after)
    names = sorted(
        {*first, *second},
        key=lambda name: (not name.startswith("device."), not name.startswith("packages."), name),
    )
    sides = [(name, first.get(name, set()), second.get(name, set())) for name in names]
    return tuple(
        SetupChange(field=name, before=tuple(sorted(old)), after=tuple(sorted(new)))
        for name, old, new in sides
        if old != new
    )


def _values(records: Iterable[Record]) -> dict[str, set[str]]:
    values: dict[str, set[str]] = {}
    for record in records:
        for name, value in _fields(record.environment):
            values.setdefault(name, set()).add(value)
    return values


def _fields(environment: Environment) -> Iterator[tuple[str, str]]:
    """(path, value) of everything that is known of an environment, but not its command."""
    parts: dict[str, Mapping[str, object]] = {
        "device": {f.name: getattr(environment.device, f.name) for f in fields(Device)},
        "packages": environment.packages,
        "variables": environment.variables,
    }
    for part, values in parts.items():
        yield from (
            (f"{part}.{name}", str(value)) for name, value in values.items() if value is not None
        )
    for f in fields(Environment):
        value = getattr(environment, f.name)
        if f.name not in parts and f.name != "command" and value is not None:
            yield f.name, str(value)
