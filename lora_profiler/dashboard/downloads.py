"""What can be downloaded: the JSON and CSV of the command line, and the HTML report, made only when
they are asked for."""

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from lora_profiler.comparison.scored import Scored
from lora_profiler.dashboard.answered import Answered
from lora_profiler.dashboard.widgets import Offer
from lora_profiler.planning.plan import TrainingPlan
from lora_profiler.report.catalogues import csv_records
from lora_profiler.report.json.bench import bench_payload, comparison_records, run_records
from lora_profiler.report.json.plan import plan_payload
from lora_profiler.report.json.predict import layer_records, predict_records
from lora_profiler.report.render import csv_text
from lora_profiler.stacks import Trainer

JSON, CSV, HTML = "application/json", "text/csv", "text/html"


def of_answers(result: Answered) -> list[Offer]:
    """The answers to one question."""
    name = plain_name(result.predictions[0].workload.model.id)
    return [
        ("JSON", f"{name}.json", JSON, lambda: json_text(result.payload)),
        ("CSV", f"{name}.csv", CSV, lambda: csv_text(predict_records(result.answers))),
        (
            "CSV by layer",
            f"{name}-layers.csv",
            CSV,
            lambda: csv_text(layer_records(result.answers)),
        ),
        ("Report, HTML", f"{name}.html", HTML, lambda: _page_of_answers(result)),
    ]


def of_plan(plan: TrainingPlan, trainer: Trainer | None, more: Sequence[str]) -> list[Offer]:
    """`more` as in `report.plan.plan_blocks`."""
    name = plain_name(plan.offers[0].workloads[0].model.id)
    payload = partial(plan_payload, plan, trainer, more)
    return [("JSON", f"{name}-plan.json", JSON, lambda: json_text(payload()))]


def of_records(rows: Sequence[Scored], name: str) -> list[Offer]:
    """Records and their comparisons."""
    records = [s.record for s in rows]
    comparisons = [c for s in rows for c in s.comparisons]
    return [
        ("JSON", f"{name}.json", JSON, lambda: json_text(bench_payload(records, comparisons))),
        ("CSV of runs", f"{name}-runs.csv", CSV, lambda: csv_text(run_records(records))),
        (
            "CSV of errors",
            f"{name}-errors.csv",
            CSV,
            lambda: csv_text(comparison_records(records, comparisons)),
        ),
        ("Report, HTML", f"{name}.html", HTML, lambda: _page_of_records(rows)),
    ]


def of_rows(what: str, name: str, documents: Sequence[dict[str, Any]]) -> list[Offer]:
    """Rows of one kind, which JSON has under the name `what`."""
    document = {"schema_version": "1.0", what: documents}
    return [
        ("JSON", f"{name}.json", JSON, lambda: json_text(document)),
        ("CSV", f"{name}.csv", CSV, lambda: csv_text(csv_records(documents))),
    ]


def plain_name(text: str) -> str:
    """A file name out of any text."""
    return re.sub(r"[^\w.-]+", "-", text)[:80].strip(".-") or "model"


def json_text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, allow_nan=False) + "\n"


def _page_of_answers(result: Answered) -> str:
    from lora_profiler.report.page import report_content, write_page

    return write_page(report_content([], result.answers))


def _page_of_records(rows: Sequence[Scored]) -> str:
    from lora_profiler.report.page import report_content, write_page

    return write_page(report_content(rows))
