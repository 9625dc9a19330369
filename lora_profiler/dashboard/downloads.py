"""What can be downloaded: the JSON and CSV of the command line, and the HTML report, made only when
they are asked for."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lora_profiler.comparison.scored import Scored
from lora_profiler.dashboard.answered import Answered
from lora_profiler.dashboard.widgets import Offer
from lora_profiler.planning.answers import Answer
from lora_profiler.planning.plan import TrainingPlan
from lora_profiler.report.catalogues import csv_records
from lora_profiler.report.json.bench import bench_payload, comparison_records, run_records
from lora_profiler.report.json.plan import plan_payload
from lora_profiler.report.json.predict import layer_records, predict_records
from lora_profiler.report.render import csv_text
from lora_profiler.stacks import Trainer

_MIME = {"json": "application/json", "csv": "text/csv", "html": "text/html"}


def _offers(name: str, *made: tuple[str, str, Callable[[], str]]) -> list[Offer]:
    """An offer for each (label, what the file's name has behind `name`, text)."""
    return [(label, name + end, _MIME[end.rpartition(".")[2]], text) for label, end, text in made]


def of_answers(result: Answered) -> list[Offer]:
    """The answers to one question."""
    return _offers(
        plain_name(result.predictions[0].workload.model.id),
        ("JSON", ".json", lambda: json_text(result.payload)),
        ("CSV", ".csv", lambda: csv_text(predict_records(result.answers))),
        ("CSV by layer", "-layers.csv", lambda: csv_text(layer_records(result.answers))),
        ("Report, HTML", ".html", lambda: _page([], result.answers)),
    )


def of_plan(plan: TrainingPlan, trainer: Trainer | None, more: Sequence[str]) -> list[Offer]:
    """`more` as in `report.plan.plan_blocks`."""
    name = plain_name(plan.offers[0].workloads[0].model.id)
    return _offers(
        name, ("JSON", "-plan.json", lambda: json_text(plan_payload(plan, trainer, more)))
    )


def of_records(rows: Sequence[Scored], name: str) -> list[Offer]:
    """Records and their comparisons."""
    records = [s.record for s in rows]
    comparisons = [c for s in rows for c in s.comparisons]
    return _offers(
        name,
        ("JSON", ".json", lambda: json_text(bench_payload(records, comparisons))),
        ("CSV of runs", "-runs.csv", lambda: csv_text(run_records(records))),
        (
            "CSV of errors",
            "-errors.csv",
            lambda: csv_text(comparison_records(records, comparisons)),
        ),
        ("Report, HTML", ".html", lambda: _page(rows)),
    )


def of_rows(what: str, name: str, documents: Sequence[dict[str, Any]]) -> list[Offer]:
    """Rows of one kind, which JSON has under the name `what`."""
    document = {"schema_version": "1.0", what: documents}
    return _offers(
        name,
        ("JSON", ".json", lambda: json_text(document)),
        ("CSV", ".csv", lambda: csv_text(csv_records(documents))),
    )


def plain_name(text: str) -> str:
    """A file name out of any text."""
    return re.sub(r"[^\w.-]+", "-", text)[:80].strip(".-") or "model"


def json_text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _page(rows: Sequence[Scored], answers: Sequence[Answer] = ()) -> str:
    from lora_profiler.report.page import report_content, write_page

    return write_page(report_content(rows, answers))
