"""Compare: what was predicted beside what was measured, over many records and inside one."""

import gc
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, get_args

import pandas as pd
import streamlit as st

from lora_profiler.dashboard import export, link, records, widgets
from lora_profiler.dashboard.records import Loaded
from lora_profiler.dashboard.serving import UPLOAD_MIB
from lora_profiler.errors import LoraProfilerError
from lora_profiler.measuring.records.record import STATUSES
from lora_profiler.planning.engine import ENGINES
from lora_profiler.report import labels
from lora_profiler.report.measured import comparisons, run_labels
from lora_profiler.report.page import accuracy
from lora_profiler.report.page.accuracy import RunGrouping
from lora_profiler.report.page.runs import NumberedRun, numbered
from lora_profiler.runs.comparison.errors import GROUPINGS, METRICS, Grouping, Metric
from lora_profiler.units import GIB, MIB, byte_unit, count_text

Filter = Literal["model", "method", "device", "status"]
FILTERS: tuple[Filter, ...] = get_args(Filter)
STRIPS: tuple[RunGrouping, ...] = get_args(RunGrouping)
MOST_DOTS = 2000
"""More dots than this hide each other."""
_WORST = 5
_TITLE = "Predicted against measured"
LINKED = "linked_record"
"""Where the id is kept of the record that a link names, or that was chosen last."""


@dataclass(slots=True)
class _Picked:
    """What was read, by its label, and what could not be: (heading, sentence)."""

    any_chosen: bool = False
    loaded: dict[str, Loaded] = field(default_factory=dict)
    problems: list[tuple[str, str]] = field(default_factory=list)


def show() -> None:
    try:
        _show()
    finally:
        records.read_on()


def _show() -> None:
    main, aside = widgets.beside()
    with aside:
        picked = _picked()
    with main:
        widgets.passed_over(st.session_state["complaints"], "URL parameters")
        for heading, text in picked.problems:
            widgets.problem(text, heading=heading)
        if not picked.loaded:
            _no_records(picked)
            return
        loaded = records.merged(tuple(picked.loaded.values()))
        widgets.passed_over(loaded.warnings)
        if not loaded.complete:
            _await_the_rest()
    everything = runs(loaded)
    with aside:
        wanted = _filters(everything)
    chosen = filtered(everything, wanted)
    with main:
        if not chosen:
            widgets.title(_TITLE)
            count = count_text(len(everything))
            widgets.note(f"None of the {count} records passes all filters.")
            return
        _draw(chosen, len(everything))
        if len(picked.loaded) > 1:
            head = "One set of records against another"
            widgets.fold(head, "sets", lambda: records.show_sets(picked.loaded))


@st.fragment(run_every=0.5)
def _await_the_rest() -> None:
    """Says what is not there yet, and draws the page anew when it is."""
    # streamlit collects garbage after every run: it would search all that is read by now, twice a
    # second
    gc.freeze()
    if not records.still_reading():
        st.rerun()
    rest = "The page shows the rest when it is read."
    widgets.note(f"These are the first records of a large file. {rest}")


# --- which records --------------------------------------------------------------------------------


def _picked() -> _Picked:
    known = {source.label: source for source in records.sources(sys.argv[1:])}
    names = list(known)
    chosen = _sources(names) if names else []
    file = st.file_uploader(
        "Add a file of records",
        type=["jsonl", "json"],
        key="records_file",
        max_upload_size=UPLOAD_MIB,
    )
    engines = [engine for engine in ENGINES if engine != "traced"]
    engine = st.selectbox("Predicted by", engines, key="compare_engine", persist_state="session")
    picked = _Picked(any_chosen=bool(chosen) or file is not None)
    for label in chosen:
        try:
            with st.spinner("Reading the records", show_time=False):
                picked.loaded[label] = records.loaded(known[label], engine)
        except (LoraProfilerError, OSError) as e:
            picked.problems.append((f"{label} could not be read", str(e)))
    if file is not None:
        try:
            picked.loaded[f"{file.name} (uploaded)"] = records.uploaded(
                file.name, file.getvalue(), engine
            )
        except LoraProfilerError as e:
            picked.problems.append(("The uploaded file was not taken", str(e)))
    return picked


def _sources(names: list[str]) -> list[str]:
    return st.pills(
        "Records",
        names,
        selection_mode="multi",
        default=names,
        key="sources",
        format_func=widgets.plain,
        persist_state="session",
    )


def _no_records(picked: _Picked) -> None:
    widgets.title(_TITLE)
    if picked.any_chosen:
        return
    bundled = next((s for s in records.sources(()) if s.label == records.BUNDLED), None)
    if bundled is not None:
        count = len(records.loaded(bundled, "auto").scored)
        label = f"Show the {count_text(count)} bundled runs"
        st.button(label, key="bundled", type="primary", on_click=_show_bundled)
        widgets.small("Or choose records in the settings.")
    else:
        widgets.note(
            "Measure something first, on the page Measure or with lora-profile bench MODEL.",
            "Or upload a file of records, or start with lora-profile app --records PATH.",
            heading="There are no records yet",
        )


def _show_bundled() -> None:
    st.session_state["sources"] = [records.BUNDLED]


def _filters(everything: Sequence[NumberedRun]) -> dict[Filter, list[str]]:
    words = labels.METHOD_LABELS | run_labels.STATUS_LABELS
    return {
        by: st.multiselect(
            by.capitalize(),
            choices(everything, by),
            key=f"filter.{by}",
            placeholder="All",
            persist_state="session",
            format_func=(lambda name: words[name]) if by in ("method", "status") else str,
        )
        for by in FILTERS
    }


@lru_cache(maxsize=8)
def runs(loaded: Loaded) -> tuple[NumberedRun, ...]:
    return tuple(numbered(loaded.scored))


def choices(rows: Iterable[NumberedRun], by: Filter) -> list[str]:
    """What a filter can be set to: methods and statuses in their order, names sorted."""
    present = {getattr(run, by) for run in rows}
    order = {"method": tuple(labels.METHOD_LABELS), "status": STATUSES}.get(by)
    return [name for name in order if name in present] if order else sorted(present)


def filtered(
    rows: Sequence[NumberedRun], wanted: Mapping[Filter, Collection[str]]
) -> list[NumberedRun]:
    active = [(by, set(names)) for by, names in wanted.items() if names]
    return [run for run in rows if all(getattr(run, by) in names for by, names in active)]


# --- the page -------------------------------------------------------------------------------------


def _draw(chosen: Sequence[NumberedRun], total: int) -> None:
    of_all = f" of {count_text(total)}" if len(chosen) < total else ""
    scored = [run.scored for run in chosen]
    by_id = {run.record_id: run.record for run in chosen}
    widgets.title(
        f"{count_text(len(chosen))}{of_all} {'record' if total == 1 else 'records'}, predicted"
        " against measured",
        *comparisons.environment_lines(by_id.values()),
        *comparisons.not_compared_lines(scored),
    )
    peaks = [c for s in scored for c in s.comparisons if c.metric == "peak_requested_bytes"]
    if peaks:
        widgets.blocks([comparisons.errors_table(peaks, ("method",), by_id)])
        _figures(chosen)
    else:
        widgets.note("No peak of these records is predicted: there is no error to show.")
    widgets.fold("Errors of everything that is predicted", "all_errors", lambda: _errors(scored))
    _table(chosen)
    widgets.downloads("compare", export.of_records(scored, "records"))


def _figures(chosen: Sequence[NumberedRun]) -> None:
    compared = [run for run in chosen if run.error is not None]
    shown = accuracy.drawn(compared, MOST_DOTS)
    widgets.section("Peak memory, predicted against measured")
    scatter = accuracy.scatter_drawing(shown)
    widgets.figure(scatter.figure, "scatter", scatter.description)
    widgets.small(*scatter.lines)
    widgets.section("Errors of the peak")
    by: RunGrouping = widgets.choose(
        "By", STRIPS, STRIPS[0], "strip_by", run_labels.GROUPING_LABELS
    )  # type: ignore[assignment]
    widgets.drawing(accuracy.errors_drawing(shown, by), "strip")
    for words in accuracy.drawn_words(shown, compared):
        widgets.small(*words.lines)


def _errors(scored: Sequence[Any]) -> None:
    chosen: Metric = st.selectbox(
        "Metric", METRICS, key="metric", format_func=run_labels.METRIC_LABELS.__getitem__
    )
    groupings = [name for name in GROUPINGS if name != "metric"]
    by: list[Grouping] = st.pills(
        "By",
        groupings,
        selection_mode="multi",
        default=["method"],
        key="errors_by",
        format_func=run_labels.GROUPING_LABELS.__getitem__,
    )
    widgets.blocks(comparisons.comparison_blocks(scored, [chosen], by, _WORST))


def _table(chosen: Sequence[NumberedRun]) -> None:
    widgets.section("Records")
    peaks = [peak for run in chosen for peak in (run.measured_bytes, run.predicted_bytes) if peak]
    unit, size = byte_unit(max(min(peaks, default=GIB), MIB))  # two decimals tell the smallest too
    predicted, measured = f"predicted, {unit}", f"measured, {unit}"
    frame = pd.DataFrame(
        {
            "#": [run.number for run in chosen],
            "model": [run.model for run in chosen],
            "method": [run.cells[1] for run in chosen],
            "status": [run_labels.STATUS_LABELS[run.status] for run in chosen],
            predicted: [_in(run.predicted_bytes, size) for run in chosen],
            measured: [_in(run.measured_bytes, size) for run in chosen],
            "error, %": [None if run.error is None else 100 * run.error for run in chosen],
            "step, ms": [
                None if run.step_seconds is None else 1000 * run.step_seconds for run in chosen
            ],
            "tokens/s": [run.tokens_per_second for run in chosen],
            "setup": [run.cells[2] for run in chosen],
            "device": [run.device for run in chosen],
        }
    )
    row = widgets.chosen_row(
        widgets.written(frame, {"error, %": widgets.percents_off}),
        "runs",
        "A row for each record: run, status, predicted and measured peak, error, step time, speed",
        {**dict.fromkeys((predicted, measured, "step, ms"), "%,.2f"), "tokens/s": "%,.0f"},
    )
    linked = st.session_state[LINKED]
    run = next((run for run in chosen if run.record_id == linked), None)
    if row is not None:
        run = chosen[row]
        st.session_state[LINKED] = run.record_id
    link.write(link.written("Compare", record=run.record_id if run else linked))
    if run is not None:
        other = records.ask_other(run, chosen)
        if other is not None:
            records.show_pair(run, other)
        records.show(run)
    elif linked is not None:
        lost = f"The record {linked[:160]!r}, which the link names,"
        widgets.caution(f"{lost} is not among those shown.")
    else:
        widgets.note("Choose a row to see its steps and its machine.")


def _in(count: int | None, size: int) -> float | None:
    return None if count is None else count / size
