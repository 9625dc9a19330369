"""The records of all ranks of a case as one, and what one process on the same data says of their
losses. Imports no torch."""

import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lora_profiler.measuring.harness.case import Case
from lora_profiler.measuring.records.checks import unequal_loss
from lora_profiler.measuring.records.record import (
    Environment,
    Failure,
    Flag,
    Measurement,
    RankMeasurement,
    Record,
    Status,
)

LOST_PEER = re.compile(
    r"gloo|NCCL|DistBackendError|TCPStore|Connection (closed|reset|refused)|Broken pipe",
    re.IGNORECASE,
)
"""In what a rank says when another one is gone: the other one's end is then the cause."""


_OF_MEASUREMENT = (
    "status", "peak_requested_bytes", "peak_allocated_bytes", "peak_reserved_bytes", "peak_phase",
    "phase_peak_bytes", "persistent_bytes", "loss",
)  # fmt: skip
"""What a rank tells in the terms of `Measurement`."""


def rank_result(case_path: Path, rank: int) -> Path:
    """Where a rank leaves its own record: beside its case."""
    return case_path.with_suffix(f".rank{rank}.json")


def gathered(
    case: Case,
    records: Mapping[int, Record | None],
    exits: Mapping[int, int],
    killed_for_memory: bool,
    environment: Callable[[], Environment],
) -> Record:
    """One record of what the ranks left: its numbers are those of the rank with the highest peak,
    its losses the mean of all.

    `exits` are the codes of ranks that failed by themselves, negative for a signal. Whichever
    failed first in the order of cause is the record's failure; then peaks are lower bounds.
    `environment` is asked for only where no rank could tell it.
    """
    complete = {rank: record for rank, record in records.items() if record is not None}
    cause = _cause(records, exits, killed_for_memory)
    status, failure = cause or (None, None)
    ranks = tuple(_rank(rank, records[rank], exits.get(rank)) for rank in sorted(records))
    source = complete.get(failure.rank) if failure and failure.rank is not None else None
    source = source or (complete[_highest(complete)] if complete else None)
    if source is None:
        empty = Measurement(status="crash")
        source = Record(
            workload=case.workload,
            conditions=case.conditions,
            environment=environment(),
            measurement=empty,
        )
    measurement = replace(
        source.measurement,
        status=status or source.measurement.status,
        failure=failure,
        loss=(
            _mean([r.measurement.loss for r in complete.values()])
            if len(complete) == len(records)
            else ()
        ),
        ranks=ranks,
    )
    first = complete[min(complete)] if complete else source
    return replace(
        first,
        workload=case.workload,
        conditions=case.conditions,
        measurement=measurement,
        repeat=case.repeat,
    )


def with_reference(record: Record, expected: tuple[float, ...]) -> Record:
    """`record` with the losses of one process on the same data, `invalid` where its own are others.

    Where that process could not train, out of memory for one, the losses stay unchecked, and a flag
    says so.
    """
    m = record.measurement
    if not expected or not m.loss:
        flags: set[Flag] = {*m.flags, "losses_not_compared"}
        return replace(record, measurement=replace(m, flags=tuple(sorted(flags))))
    unequal = unequal_loss(m.loss, expected, record.workload.setup)
    if unequal is None:
        return replace(record, measurement=replace(m, reference_loss=expected))
    failure = Failure(reason=unequal, phase="loss")
    return replace(
        record, measurement=replace(m, status="invalid", failure=failure, reference_loss=expected)
    )


def _mean(losses: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(sum(step) / len(step) for step in zip(*losses, strict=False))


def _highest(records: Mapping[int, Record]) -> int:
    """The rank with the highest peak, the first of equal ones."""
    return max(
        records, key=lambda rank: (records[rank].measurement.peak_requested_bytes or 0, -rank)
    )


def _rank(rank: int, record: Record | None, exit_code: int | None) -> RankMeasurement:
    if record is None:
        return RankMeasurement(rank=rank, status="crash", exit_code=exit_code)
    m = record.measurement
    return RankMeasurement(
        rank=rank,
        device=record.environment.device.name,
        exit_code=exit_code,
        **{name: getattr(m, name) for name in _OF_MEASUREMENT},
    )


Cause = tuple[Status, Failure]
"""What ended a case; the failure names the rank."""


def _cause(
    records: Mapping[int, Record | None], exits: Mapping[int, int], killed_for_memory: bool
) -> Cause | None:
    """The failure that the others followed from: memory that ran out, then a rank that died without
    a word, then an error of a rank's own, then what only tells of a lost peer, then silence."""
    failed = {
        r: record.measurement
        for r, record in records.items()
        if record and not record.measurement.went_through
    }
    for rank, m in failed.items():
        if m.status == "oom" and m.failure is not None:
            return _of(rank, m)
    silent = sorted(
        (code != -signal.SIGKILL, rank) for rank, code in exits.items() if records.get(rank) is None
    )
    if silent:
        rank = silent[0][1]
        return _silent(rank, exits[rank], killed_for_memory)
    own = [
        rank
        for rank, m in failed.items()
        if m.failure is not None and not LOST_PEER.search(m.failure.reason)
    ]
    for rank in [*own, *failed]:
        return _of(rank, failed[rank])
    missing = [rank for rank, record in records.items() if record is None]
    if missing:
        reason = f"rank {missing[0]} left no result"
        return "crash", Failure(reason=reason, rank=missing[0])
    return None


def _of(rank: int, m: Measurement) -> Cause:
    failure = m.failure or Failure(reason=m.status)
    return m.status, replace(failure, reason=f"rank {rank}: {failure.reason}", rank=rank)


def _silent(rank: int, code: int, killed_for_memory: bool) -> Cause:
    if code == -signal.SIGKILL and killed_for_memory:
        reason = f"the kernel ended rank {rank} because the machine ran out of memory"
        return "host_oom", Failure(reason=reason, exit_code=code, rank=rank)
    how = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
    reason = f"rank {rank} {how} and left no result"
    return "crash", Failure(reason=reason, exit_code=code, rank=rank)
