"""Where records come from: the checkout's, the user's own, those named at the start, and an upload.
Nothing else is opened."""

import argparse
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import streamlit as st

from lora_profiler.dashboard import export, widgets
from lora_profiler.dashboard.answered import INSTEAD
from lora_profiler.dashboard.serving import shipped
from lora_profiler.facts.catalog.meta_build import builds_refused
from lora_profiler.measuring.records.load import (
    SUFFIX,
    RecordSet,
    StoreError,
    newest,
    read_content,
    read_set,
)
from lora_profiler.measuring.records.record import Record, conditions_dict
from lora_profiler.measuring.records.store import default_records_path
from lora_profiler.question.workload import setup_dict
from lora_profiler.report.blocks import Block, Drawing, Row, Rows, Table, paragraph
from lora_profiler.report.measured import run_labels
from lora_profiler.report.measured.comparisons import change_blocks
from lora_profiler.report.measured.measurements import alone_table, record_details
from lora_profiler.report.page.accuracy import step_times_drawing
from lora_profiler.report.page.content import NOT_RECORDED, environment_table, fact_text
from lora_profiler.report.page.runs import NumberedRun
from lora_profiler.report.page.steps import counters_drawing, peaks_drawing, step_drawing
from lora_profiler.runs.comparison.errors import PHASE_GROUPS, Scored, group_peaks, result, scored
from lora_profiler.runs.comparison.regressions import changes, paired, setup_changes
from lora_profiler.units import MIB, bytes_text, change_text, error_text, rate_text, seconds_text

# --- where records come from ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordSource:
    """A file, or a folder of files, under the words by which a page names it."""

    label: str
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Loaded:
    """Records beside their predictions, and a sentence for everything that could not be read.

    Equal to itself alone, so that what is worked out of it can be kept. `complete` is False for the
    first part of a large file, the rest of which is still being read.
    """

    scored: tuple[Scored, ...]
    warnings: tuple[str, ...]
    complete: bool = True


BUNDLED = "Bundled runs"


def sources(arguments: Sequence[str]) -> list[RecordSource]:
    """What there is to show; `arguments` are those that `lora-profile app` hands over."""
    given = argparse.ArgumentParser(exit_on_error=False, add_help=False)
    given.add_argument("--records", action="append", default=[], type=Path)
    named: list[Path] = given.parse_known_args(list(arguments))[0].records
    shared = {path.name for path in named if sum(other.name == path.name for other in named) > 1}
    places = [
        RecordSource(label=path.name if path.name not in shared else str(path), path=path)
        for path in dict.fromkeys(named)
    ]
    if (bundled := shipped("benchmarks/records")) is not None:
        places.append(RecordSource(label=BUNDLED, path=bundled))
    try:
        own = default_records_path()
    except StoreError:
        return places
    return [*places, RecordSource(label="My records", path=own)] if os.path.isfile(own) else places


AT_ONCE_BYTES = 8 * MIB
"""Up to so much is waited for: a second of reading."""
_FIRST_BYTES = 2 * MIB

Files = tuple[tuple[str, int, int], ...]
"""Of each file its path, when it changed (ns) and its bytes."""
_Key = tuple[Path, Files, str]

_one_reader = threading.Lock()
"""Of what is waited for: a second window waits for the first to have read."""
_large: "dict[_Key, Future[Loaded]]" = {}


def loaded(source: RecordSource, engine: str) -> Loaded:
    """The records of a source, read again only where a file has changed; of much only a part until
    `read_on` has read the rest.

    Raises StoreError, and UsageError for the engine.
    """
    files = tuple(
        (str(file), file.stat().st_mtime_ns, file.stat().st_size) for file in _files(source.path)
    )
    key = source.path, files, engine
    with _one_reader:
        if sum(size for *_, size in files) <= AT_ONCE_BYTES:
            return _scored(*key)
        future = _large.get(key)
        if future is None:
            for other in [each for each in _large if (each[0], each[2]) == (key[0], key[2])]:
                del _large[other]
            _large[key] = Future()
    if future is not None and future.done():
        return future.result()
    return _first_part(files, engine)


def read_on() -> None:
    """Begins to read the rest of what was shown in part, after a drawing, not to slow it."""
    with _one_reader:
        for key, future in _large.items():
            if not (future.running() or future.done()):
                future.set_running_or_notify_cancel()
                threading.Thread(target=_read_rest, args=(key, future), daemon=True).start()


def _read_rest(key: _Key, future: "Future[Loaded]") -> None:
    try:
        future.set_result(_scored(*key))
    except BaseException as e:
        future.set_exception(e)


def still_reading() -> bool:
    """Whether the rest is not there yet of something of which a part is shown."""
    with _one_reader:
        return any(not future.done() for future in _large.values())


def _files(path: Path) -> list[Path]:
    return (
        [path] if path.is_file() else sorted({*path.glob(f"*{SUFFIX}"), *path.glob(f"*/*{SUFFIX}")})
    )


@lru_cache(maxsize=8)
def _read(path: Path, files: Files) -> RecordSet:
    with builds_refused(INSTEAD):
        return read_set([path])


@lru_cache(maxsize=8)
def _scored(path: Path, files: Files, engine: str) -> Loaded:
    record_set = _read(path, files)
    return Loaded(scored=tuple(scored(record_set.records, engine)), warnings=record_set.warnings)


@lru_cache(maxsize=2)
def _first_part(files: Files, engine: str) -> Loaded:
    path = Path(max(files, key=lambda file: file[2])[0])
    with open(path, "rb") as file:
        content = file.read(_FIRST_BYTES).rpartition(b"\n")[0]
    try:
        return replace(uploaded(path.name, content, engine), warnings=(), complete=False)
    except StoreError:  # what is wrong with it is told when all of it is read
        return Loaded(scored=(), warnings=(), complete=False)


@lru_cache(maxsize=2)
def uploaded(name: str, content: bytes, engine: str) -> Loaded:
    """The records in an uploaded file, which is kept nowhere: a JSON object a line, or what `bench
    --format json` printed.

    Raises StoreError where there is no record in it.
    """
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as e:
        raise StoreError(
            f"{name} is no file of records: it is not UTF-8 text (byte {e.start})."
        ) from None
    with builds_refused(INSTEAD):
        records = read_content(name, content)
    return Loaded(scored=tuple(scored(records.records, engine)), warnings=records.warnings)


@lru_cache(maxsize=8)
def merged(parts: tuple[Loaded, ...]) -> Loaded:
    """Several as one: of each id the record that ended last, as one file has it."""
    if len(parts) == 1:
        return parts[0]
    return Loaded(
        scored=tuple(newest((s for part in parts for s in part.scored), lambda s: s.record)),
        warnings=tuple(warning for part in parts for warning in part.warnings),
        complete=all(part.complete for part in parts),
    )


# --- one record in full ---------------------------------------------------------------------------

# One record in full: its numbers next to the predicted ones, its timeline, its steps, what the peak
# held, and the machine; or two side by side.


def show(run: NumberedRun, key: str = "record") -> None:
    record = run.record
    widgets.section(f"{run.model}, {run.cells[1]}: {run_labels.STATUS_LABELS[run.status]}")
    widgets.small(f"record {run.record_id}")
    for heading, drawing in _drawings(run):
        widgets.section(heading)
        widgets.drawing(drawing, f"{key}.{drawing.name}")
    widgets.section("In numbers")
    widgets.blocks(_blocks(run.scored))
    machine = [environment_table("Environment", [record]), conditions_table(record)]
    widgets.fold("Machine and software", f"{key}.environment", lambda: widgets.blocks(machine))
    widgets.downloads(key, export.of_records([run.scored], export.plain_name(run.record_id)))


def _drawings(run: NumberedRun) -> Iterator[tuple[str, Drawing]]:
    """(heading, figure) of all that was measured, next to what was predicted first."""
    record = run.record
    measurement = record.measurement
    if (both := step_drawing(run)) is not None:
        word = "rehearsed" if record.is_rehearsed else "measured"
        yield f"Memory over one step, predicted and {word}", both
    if measurement.phases:
        yield "Memory, phase by phase", counters_drawing(run)
    if measurement.attribution_bytes:
        yield "What the peak was made of", peaks_drawing("peak", [run], "Peak")
    if run.speed is not None:
        yield "Time of each step", step_times_drawing(run)


def _blocks(scored: Scored) -> list[Block]:
    if scored.prediction is not None:
        return record_details(result(scored.record, scored.prediction))
    alone = alone_table(scored.record)
    return [paragraph(f"Not predicted: {scored.refusal or ''}"), *([alone] if alone.rows else [])]


def conditions_table(record: Record) -> Table:
    held = {
        **conditions_dict(record.conditions),
        "repeat": record.repeat,
        "started": record.started_at,
        "ended": record.ended_at,
    }
    if record.environment.command:
        held["command"] = record.environment.command
    rows = [
        Row(cells=(name.replace("_", " "), fact_text(name, value)))
        for name, value in held.items()
        if value is not None
    ]
    return Table(title="Conditions", columns=("", ""), rows=tuple(rows), left=2)


MOST_OFFERED = 300
"""Records to choose from; those of the same model stand first."""
_CASES = 5
_AGAINST = "compare.against"


def ask_other(run: NumberedRun, others: Sequence[NumberedRun]) -> NumberedRun | None:
    """The record that `run` is to be held against, if one is chosen."""
    offered = sorted(
        (other for other in others if other.record_id != run.record_id),
        key=lambda other: (other.model != run.model, other.number),
    )[:MOST_OFFERED]
    by_id = {other.record_id: other for other in offered}
    if st.session_state.get(_AGAINST) not in by_id:
        st.session_state[_AGAINST] = None
    chosen = st.selectbox(
        "Hold it against",
        list(by_id),
        key=_AGAINST,
        placeholder="another record, side by side",
        format_func=lambda record_id: by_id[record_id].name,
    )
    return by_id.get(chosen) if chosen else None


def show_pair(first: NumberedRun, second: NumberedRun) -> None:
    widgets.section("Two records side by side")
    for place, run in zip(st.columns(2), (first, second), strict=True):
        with place:
            widgets.small(run.name)
            widgets.drawing(
                step_drawing(run),
                f"pair.{run.record_id}",
                nothing=("Nothing is known of its step on both sides.",),
            )
    widgets.blocks([pair_table(first, second)])


def show_sets(sets: Mapping[str, Loaded]) -> None:
    names = list(sets)
    places = st.columns(2)
    with places[0]:
        before = st.selectbox("Before", names, index=0, key="sets.before")
    with places[1]:
        after = st.selectbox("After", names, index=1, key="sets.after")
    pairs = paired(*([s.record for s in sets[name].scored] for name in (before, after)))
    if not pairs.pairs:
        widgets.note(
            "No case is in both sets: a case is a model, its setup and the conditions of the run."
        )
        return
    chosen: Any = ("peak_requested_bytes", "step_seconds")
    changed = changes(pairs.pairs, chosen)
    widgets.blocks(change_blocks(pairs, changed, setup_changes(*pairs.sides), _CASES))


def pair_table(first: NumberedRun, second: NumberedRun) -> Table:
    """What differs of model, method, options and device, then the numbers that both have. What is
    the same is left out of the former."""
    both, rows = (first, second), Rows()

    def add(name: str, values: Sequence[Any], text: Callable[[Any], str]) -> None:
        a, b = values
        if a is not None or b is not None:
            texts = [NOT_RECORDED if value is None else text(value) for value in values]
            rows.add(name, *texts, change_text(b / a - 1) if a and b is not None else "")

    rows.section("what differs")
    setups = [setup_dict(run.record.workload.setup) for run in both]
    named = [("model", *(run.record.workload.model.id for run in both))]
    named += [("device", *(run.device for run in both))]
    for name in setups[0]:
        named.append((name.replace("_", " "), *(fact_text(name, setup[name]) for setup in setups)))
    differing = [each for each in named if each[1] != each[2]]
    for cells in differing or [("nothing: the same was run twice", "", "")]:
        rows.add(*cells, "")
    rows.section("numbers")
    counted = {"rehearsed" if run.record.is_rehearsed else "measured" for run in both}
    word = counted.pop() if len(counted) == 1 else "counted"
    add(f"peak, {word}", [run.measured_bytes for run in both], bytes_text)
    add("peak, predicted", [run.predicted_bytes for run in both], bytes_text)
    errors = [NOT_RECORDED if run.error is None else error_text(run.error) for run in both]
    if {*errors} != {NOT_RECORDED}:
        rows.add("error of the peak", *errors, "")
    peaks = [group_peaks(run.record.measurement.phase_peak_bytes) for run in both]
    for group in PHASE_GROUPS:
        label = run_labels.PHASE_LABELS[group]
        add(f"peak, {label}", [by_group.get(group) for by_group in peaks], bytes_text)
    add("median step", [run.step_seconds for run in both], seconds_text)
    add("tokens a second", [run.tokens_per_second for run in both], rate_text)
    return rows.table("", f"#{first.number}", f"#{second.number}", "change")
