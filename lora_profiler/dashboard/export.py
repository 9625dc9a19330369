"""What can be exported of an answer: its link, its command, a trainer's file, and downloads,
which are the JSON and CSV of the command line and the HTML report, made only when they are asked
for."""

import json
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import urlencode

import streamlit as st

from lora_profiler.dashboard import widgets
from lora_profiler.dashboard.answered import Answered
from lora_profiler.dashboard.link import Params
from lora_profiler.dashboard.widgets import Offer
from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.stacks import Trainer
from lora_profiler.planning.answers import Answer
from lora_profiler.planning.plan import TrainingPlan
from lora_profiler.question.workload import Workload
from lora_profiler.report.catalogues import csv_records
from lora_profiler.report.json.bench import bench_payload, comparison_records, run_records
from lora_profiler.report.json.plan import plan_payload
from lora_profiler.report.json.predict import layer_records, predict_records
from lora_profiler.report.page import report_content, write_page
from lora_profiler.report.render import csv_text
from lora_profiler.runs.comparison.errors import Scored
from lora_profiler.trainer_files.reading import frameworks
from lora_profiler.trainer_files.writing import suffix_of, writers, written

_TITLES = {known.name: known.title for known in frameworks()} | {"peft": "a script with PEFT"}


def show(
    params: Params | None,
    command: Sequence[str],
    workload: Workload,
    offers: Sequence[widgets.Offer],
) -> None:
    """Behind a button; `params` are those of the link, None where no link could hold the question,
    `command` asks the same, and `workload` is what a trainer's file trains."""
    drawn = st.popover("Export", key="export", on_change="rerun")
    with drawn:
        if not drawn.open:
            return
        if params is not None:
            st.caption("Link")
            st.code(_address(params), language=None, wrap_lines=True)
        st.caption("Command line")
        st.code(shlex.join(["lora-profile", *command]), language=None, wrap_lines=True)
        _trainer_file(workload)
        st.caption("Data and report")
        widgets.downloads("answer", offers)


def prefer(trainer: str) -> None:
    """Offers the file of this trainer first, where there is one."""
    if trainer in writers():
        st.session_state["trainer_file"] = trainer


def _address(params: Params) -> str:
    base = (st.context.url or "").partition("?")[0].rstrip("/")
    return f"{base}/?{urlencode(params, doseq=True)}"


def _trainer_file(workload: Workload) -> None:
    """A file that trains the same, or why there is none."""
    name = st.selectbox(
        "A trainer's file",
        list(writers()),
        key="trainer_file",
        format_func=lambda key: _TITLES.get(key, key),
    )
    file_name = f"{plain_name(workload.model.id)}-{name}{suffix_of(name)}"
    try:
        text = written(name, workload, file_name)
    except LoraProfilerError as e:
        widgets.small(str(e))
        return
    mime = "text/x-python" if suffix_of(name) == ".py" else "application/yaml"
    st.download_button("Trainer's file", text, file_name=file_name, mime=mime, on_click="ignore")


_MIME = {"json": "application/json", "csv": "text/csv", "html": "text/html"}


def _offers(name: str, *made: tuple[str, str, Callable[[], str]]) -> list[Offer]:
    """An offer for each (label, what the file's name has behind `name`, text)."""
    return [(label, name + end, _MIME[end.rpartition(".")[2]], text) for label, end, text in made]


def of_answers(result: Answered) -> list[Offer]:
    return _offers(
        plain_name(result.predictions[0].workload.model.id),
        ("JSON", ".json", lambda: json_text(result.payload)),
        ("CSV", ".csv", lambda: csv_text(predict_records(result.answers))),
        ("CSV by layer", "-layers.csv", lambda: csv_text(layer_records(result.answers))),
        ("Report, HTML", ".html", lambda: _page([], result.answers)),
    )


def of_plan(plan: TrainingPlan, trainer: Trainer | None, more: Sequence[str]) -> list[Offer]:
    """`more` as in `report.decision.plan.plan_blocks`."""
    name = plain_name(plan.offers[0].workloads[0].model.id)
    return _offers(
        name, ("JSON", "-plan.json", lambda: json_text(plan_payload(plan, trainer, more)))
    )


def of_records(rows: Sequence[Scored], name: str) -> list[Offer]:
    records = [s.record for s in rows]
    comparisons = [c for s in rows for c in s.comparisons]
    errors = partial(comparison_records, records, comparisons)
    return _offers(
        name,
        ("JSON", ".json", lambda: json_text(bench_payload(records, comparisons))),
        ("CSV of runs", "-runs.csv", lambda: csv_text(run_records(records))),
        ("CSV of errors", "-errors.csv", lambda: csv_text(errors())),
        ("Report, HTML", ".html", lambda: _page(rows)),
    )


def of_rows(what: str, name: str, documents: Sequence[dict[str, Any]]) -> list[Offer]:
    document = {"schema_version": "1.0", what: documents}
    return _offers(
        name,
        ("JSON", ".json", lambda: json_text(document)),
        ("CSV", ".csv", lambda: csv_text(csv_records(documents))),
    )


def plain_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "-", text)[:80].strip(".-") or "model"


def json_text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _page(rows: Sequence[Scored], answers: Sequence[Answer] = ()) -> str:
    return write_page(report_content(rows, answers))
