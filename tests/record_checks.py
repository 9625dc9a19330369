"""What must be true of a record that is kept, beyond the types of its fields, and of a file of such
records. The tests hold every committed one to it."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

from lora_profiler.errors import LoraProfilerError
from lora_profiler.measuring.records.checks import (
    NOT_REHEARSED,
    cross_check_peaks,
    half_width_limit,
    relative_half_width,
    timing_flags,
    unequal_loss,
)
from lora_profiler.measuring.records.load import parsed_record
from lora_profiler.measuring.records.record import (
    REHEARSED,
    SCHEMA_VERSION,
    UNATTRIBUTED_SHARE,
    Record,
)
from lora_profiler.measuring.records.serialize import record_dict
from lora_profiler.memory.prediction import FlopCount
from lora_profiler.runs.comparison.throughput import utilisation
from private_text import private_text


def check_file(path: Path) -> list[str]:
    """What is wrong with a file of records that is to be kept, naming line and id; empty for a good
    one. Raises OSError.

    Every line must be strict JSON, of the present schema or one that migrates; the keys written in
    it must be those that its contents give; ids must differ; and `problems` must find nothing.
    """
    found: list[str] = []
    seen: dict[str, int] = {}
    text = path.read_bytes()
    if text and not text.endswith(b"\n"):
        found.append(f"{path}: the last line has no end; a write may have been cut off.")
    for number, line in enumerate(text.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line.decode("utf-8"), parse_constant=_no_number)
            record = parsed_record(data)
        except (ValueError, RecursionError, LoraProfilerError) as e:
            found.append(f"{path}, line {number}: {e}")
            continue
        sentences = [*_written_keys(data, record), *problems(record)]
        if record.id in seen:
            sentences.append(f"Line {seen[record.id]} has the same id.")
        seen[record.id] = number
        found += [f"{path}, line {number}, {record.id}: {sentence}" for sentence in sentences]
    return found


def check_folder(folder: Path) -> tuple[int, list[str]]:
    """How many files of records lie under `folder`, and what is wrong with them; ids must differ
    within a file only."""
    files = sorted(folder.rglob("*.jsonl"))
    return len(files), [message for path in files for message in check_file(path)]


def _written_keys(data: Mapping[str, Any], record: Record) -> Iterable[str]:
    """Keys of older schemas were made by older rules, or by none."""
    if data["schema_version"] != SCHEMA_VERSION:
        return
    for name, made in (
        ("id", record.id),
        ("case_key", record.case_key),
        ("environment_key", record.environment.key),
    ):
        if data.get(name) != made:
            yield (
                f"{name} is written as {data.get(name)!r}, but the record's contents make it"
                f" {made!r}."
            )


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON.")


def impossible(record: Record, flops: FlopCount | None) -> list[str]:
    """What cannot be true of a record's speed, a sentence each: more FLOPs than the card's peak
    allows."""
    share = utilisation(record, flops)
    if share is None or share.hfu <= 1:
        return []
    return [
        f"{record.id} reaches {100 * share.hfu:.0f} % of the peak of {share.card.name}"
        f" ({share.peak_flops / 1e12:g} TFLOP/s): the time, the FLOPs or the card's figure is"
        " wrong."
    ]


def problems(record: Record) -> list[str]:
    """Everything that makes `record` unfit to be believed or published, a plain sentence each;
    empty for a good one."""
    checks = (
        _status, _memory, _attribution, _ranks, _second_opinions, _times, _tokens, _provenance,
        _rehearsed, _numbers,
    )  # fmt: skip
    found = [sentence for check in checks for sentence in check(record)]
    return [*found, *private_text(record_dict(record))]


# --- what a status promises -----------------------------------------------------------------------


def _status(record: Record) -> Iterator[str]:
    m = record.measurement
    if not m.went_through:
        if m.failure is None or not m.failure.reason.strip():
            yield f"The status is {m.status}, but no failure says why."
        return
    if m.failure is not None:
        yield f"The status is {m.status}, but there is a failure."
    if not m.step_seconds and m.peak_requested_bytes is None and m.peak_allocated_bytes is None:
        yield f"The status is {m.status}, but neither step times nor a peak were measured."
    if m.status == "ok":
        yield from _noise_called_ok(record)


def _noise_called_ok(record: Record) -> Iterator[str]:
    m, kind = record.measurement, record.environment.device.kind
    if not m.step_seconds or min(m.step_seconds) <= 0:
        return  # nothing was timed that a flag could spoil
    for flag in timing_flags(m.flags, kind):
        yield f"The status is ok in spite of the flag {flag}."
    limit, found = half_width_limit(kind), relative_half_width(m.step_seconds)
    if found > limit:
        yield (
            f"The status is ok, but the median's interval is {found:.1%} to either side; at most"
            f" {limit:.0%} is not noise."
        )
    if len(m.step_seconds) < record.conditions.min_timed_steps:
        yield (
            f"The status is ok with {len(m.step_seconds)} timed steps of"
            f" {record.conditions.min_timed_steps}."
        )


# --- memory ---------------------------------------------------------------------------------------


def _memory(record: Record) -> Iterator[str]:
    m = record.measurement
    yield from _descending(
        "",
        reserved=m.peak_reserved_bytes,
        allocated=m.peak_allocated_bytes,
        requested=m.peak_requested_bytes,
    )
    for s in m.phases:
        at = f" at step {s.step}, {s.phase}"
        yield from _descending(
            at, reserved=s.reserved_bytes, allocated=s.allocated_bytes, requested=s.requested_bytes
        )
        yield from _descending(
            f"{at}, peaks",
            reserved=s.reserved_peak_bytes,
            active=s.active_peak_bytes,
            allocated=s.allocated_peak_bytes,
            requested=s.requested_peak_bytes,
        )
        for name in ("requested", "allocated", "reserved"):
            now, peak = getattr(s, f"{name}_bytes"), getattr(s, f"{name}_peak_bytes")
            if now is not None and peak is not None and peak < now:
                yield f"The peak of {name} bytes is {peak}{at}, below the {now} in use."
    peak = m.peak_requested_bytes
    if peak is None:
        return
    if m.phase_peak_bytes and max(m.phase_peak_bytes.values()) != peak:
        yield (
            f"peak_requested_bytes is {peak}, but the highest phase reaches"
            f" {max(m.phase_peak_bytes.values())}."
        )
    if (
        m.phase_peak_bytes
        and m.peak_phase is not None
        and m.phase_peak_bytes.get(m.peak_phase) != peak
    ):
        yield (
            f"The peak is said to lie in {m.peak_phase}, which reaches"
            f" {m.phase_peak_bytes.get(m.peak_phase)}, not {peak}."
        )
    if record.environment.device.kind == "cpu" and m.peak_allocated_bytes not in (None, peak):
        yield (
            f"On a CPU requested and allocated peaks are one; they are {peak} and"
            f" {m.peak_allocated_bytes}."
        )


def _descending(where: str, **sizes: int | None) -> Iterator[str]:
    known = [(name, size) for name, size in sizes.items() if size is not None]
    for (above, larger), (below, smaller) in pairwise(known):
        if larger < smaller:
            yield f"{above} is {larger} bytes{where}, below the {smaller} {below}."


def _attribution(record: Record) -> Iterator[str]:
    m = record.measurement
    if not m.attribution_bytes:
        return
    total, peak = sum(m.attribution_bytes.values()), m.peak_requested_bytes
    if total != peak:
        yield f"The attribution adds up to {total} bytes, the peak is {peak}."
        return
    rest = abs(m.attribution_bytes.get("unattributed", 0))
    if rest > UNATTRIBUTED_SHARE * peak and "unattributed_over_1_percent" not in m.flags:
        yield f"{rest} of {peak} bytes are unattributed, over 1 %, and not flagged."


def _ranks(record: Record) -> Iterator[str]:
    m, setup = record.measurement, record.workload.setup
    numbers = [r.rank for r in m.ranks]
    expected = list(range(setup.world_size)) if setup.world_size > 1 else []
    if numbers != expected and (m.ranks or m.went_through):
        yield f"The setup has ranks {expected}, the record {numbers}."
    if not m.ranks or not m.went_through:
        return
    peaks = [r.peak_requested_bytes for r in m.ranks if r.peak_requested_bytes is not None]
    if max(peaks, default=None) != m.peak_requested_bytes:
        yield (
            f"peak_requested_bytes is {m.peak_requested_bytes}, but the highest rank reaches"
            f" {max(peaks, default=None)}."
        )
    unequal = unequal_loss(m.loss, m.reference_loss, setup)
    if unequal:
        yield f"The status is {m.status}, but {unequal}."
    if not m.reference_loss and "losses_not_compared" not in m.flags and not record.is_rehearsed:
        yield (
            "Nobody held the losses of the ranks against those of one process, and no flag says so."
        )


def _second_opinions(record: Record) -> Iterator[str]:
    m = record.measurement
    if not m.went_through or "instrumentation_perturbed_memory" in m.flags:
        return
    for found in cross_check_peaks(
        m.phase_peak_bytes,
        m.tracked_phase_peak_bytes,
        m.workspace_bytes,
        m.peak_requested_bytes,
        m.timed_peak_bytes,
    ):
        yield f"{found}, and not flagged."


# --- times, tokens and losses ---------------------------------------------------------------------


def _times(record: Record) -> Iterator[str]:
    m = record.measurement
    steps = {"step_seconds": m.step_seconds, "warmup_seconds": m.warmup_seconds}
    if m.block_seconds is not None:
        steps["block_seconds"] = (m.block_seconds,)
    for name, samples in steps.items():
        if any(s <= 0 for s in samples):
            yield f"{name} holds {min(samples)}; a step takes time."
    parts = {
        **{f"phase_seconds.{n}": s for n, s in m.phase_seconds.items()},
        "stage_seconds": m.stage_seconds.values(),
    }
    for name, found in parts.items():
        if any(s < 0 for s in found):
            yield f"{name} holds {min(found)}; no time is negative."
    moments = {"started_at": _utc(record.started_at), "ended_at": _utc(record.ended_at)}
    for name, text in (("started_at", record.started_at), ("ended_at", record.ended_at)):
        if text is not None and moments[name] is None:
            yield (
                f"{name} is {text!r}; it must be UTC in ISO 8601, such as"
                " 2026-11-01T10:00:00+00:00."
            )
    start, end = moments.values()
    if start is not None and end is not None and end < start:
        yield "The run ended before it started."


def _utc(text: str | None) -> datetime | None:
    """The instant, without its zone; None where there is none or the zone is not UTC."""
    try:
        moment = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return None if moment.utcoffset() not in (None, timedelta(0)) else moment.replace(tzinfo=None)


def _tokens(record: Record) -> Iterator[str]:
    m, setup = record.measurement, record.workload.setup
    expected = setup.batch_size * setup.seq_len * setup.accumulation
    if m.tokens_per_step not in (None, expected):
        yield (
            f"tokens_per_step is {m.tokens_per_step}; batch x sequence x accumulation is"
            f" {expected}."
        )
    if m.went_through and m.step_seconds and m.tokens_per_step is None:
        yield "Steps were timed, but tokens_per_step is missing."
    for name in ("nonpad_tokens_per_step", "supervised_tokens_per_step"):
        count = getattr(m, name)
        if count is not None and not 0 <= count <= expected:
            yield f"{name} is {count} of {expected} tokens."
    trained = m.num_trainable_parameters or 0
    if m.num_parameters is not None and (
        trained < 0 or (setup.lora is None and trained > m.num_parameters)
    ):
        yield (
            f"{m.num_trainable_parameters} of {m.num_parameters} parameters are said to be trained."
        )


# --- where it comes from --------------------------------------------------------------------------


def _provenance(record: Record) -> Iterator[str]:
    e = record.environment
    known = {
        "Python's version": e.python,
        "torch's version": e.packages.get("torch"),
        "the platform": e.platform,
        "the device's name": e.device.name,
    }
    for what, text in known.items():
        if not text or not text.strip() or text == "unknown":
            yield f"The environment lacks {what}."
    if e.commit is None and not {"lora-profiler", "lora_profiler"} & set(e.packages):
        yield (
            "The environment names neither this program's commit nor, among the packages, its"
            " installed version."
        )
    if ("cuda" if record.is_rehearsed else e.device.kind) != record.workload.setup.device:
        yield f"The device is {e.device.kind}, the setup asks for {record.workload.setup.device}."


def _rehearsed(record: Record) -> Iterator[str]:
    """A rehearsed record says so in its device's name and limits, and holds no time and no value;
    a measured one has no limits."""
    m, e = record.measurement, record.environment
    if not record.is_rehearsed:
        if e.limits or REHEARSED in e.device.name:
            yield f"The device is {e.device.kind}, but it is described as rehearsed."
        return
    if REHEARSED not in e.device.name or not e.limits:
        yield "The record is rehearsed, but the device's name or its limits do not say so."
    for name in NOT_REHEARSED:
        if getattr(m, name) not in (None, (), {}):
            yield f"The record is rehearsed, but {name} holds what only a real run has."


def _numbers(record: Record) -> Iterator[str]:
    data = record_dict(record)
    del data["workload"]
    for where, value in _numbers_in(data, ""):
        if isinstance(value, float) and not math.isfinite(value):
            yield f"{where} is {value}; every number must be finite."
        elif (
            value < 0
            and "_bytes" in where
            and where != "measurement.attribution_bytes.unattributed"
        ):
            yield f"{where} is {value}; no amount of memory is negative."


def _numbers_in(data: Any, where: str) -> Iterator[tuple[str, int | float]]:
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from _numbers_in(value, f"{where}.{key}" if where else str(key))
    elif isinstance(data, list | tuple):
        for item in data:
            yield from _numbers_in(item, where)
    elif isinstance(data, int | float) and not isinstance(data, bool):
        yield where, data
