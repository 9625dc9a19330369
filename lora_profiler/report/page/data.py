"""The numbers of a page for machines: every record with its own numbers, and every comparison, column by column."""

from collections.abc import Sequence
from typing import Any

from lora_profiler.compare import METRICS, Comparison
from lora_profiler.planning.answers import Answer
from lora_profiler.planning.scored import Scored
from lora_profiler.report.measurement_payload import run_records
from lora_profiler.report.payload import answer_dict

SCHEMA_VERSION = "1.0"


def page_data(scored: Sequence[Scored], answers: Sequence[Answer]) -> dict[str, Any]:
    """{"schema_version", "records": {"columns", "rows"}, "comparisons": [...], "refusals": [...], "predictions": [...]}.

    Records are the rows of `bench --format csv`. Each of the comparisons is one metric and category: `record` counts the rows of
    records from 0, and `engine`, `predicted` and `measured` stand beside it; relative_error is (predicted - measured) / measured.
    Predictions are those of `predict --format json`.
    """
    runs = run_records([s.record for s in scored])
    columns = list(runs[0]) if runs else []
    return {
        "schema_version": SCHEMA_VERSION,
        "records": {"columns": columns, "rows": [[run[name] for name in columns] for run in runs]},
        "comparisons": _comparisons(scored),
        "refusals": [{"record": number, "reason": s.refusal} for number, s in enumerate(scored) if s.refusal is not None],
        "predictions": [answer_dict(answer) for answer in answers],
    }


def _comparisons(scored: Sequence[Scored]) -> list[dict[str, Any]]:
    found: dict[tuple[str, str], list[tuple[int, Comparison]]] = {}
    for number, each in enumerate(scored):
        for c in each.comparisons:
            found.setdefault((c.metric, c.category), []).append((number, c))
    return [
        {
            "metric": metric,
            "category": category,
            "record": [number for number, _ in members],
            "engine": [c.engine for _, c in members],
            "predicted": [c.predicted for _, c in members],
            "measured": [c.measured for _, c in members],
        }
        for (metric, category), members in sorted(found.items(), key=lambda item: METRICS.index(item[1][0][1].metric))
    ]
