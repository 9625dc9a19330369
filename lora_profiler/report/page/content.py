"""Everything that a page says, as plain data: sections of paragraphs, tables and figures, and the
numbers for machines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lora_profiler.comparison.scored import Scored
from lora_profiler.planning.answers import Answer
from lora_profiler.report.charts.labels import shortened
from lora_profiler.report.measured.comparisons import environment_lines, not_compared_lines
from lora_profiler.report.page.accuracy import accuracy_cards, accuracy_section, errors_section
from lora_profiler.report.page.composition import composition_section
from lora_profiler.report.page.conclusions import answer_cards, pair_cards, question_lines
from lora_profiler.report.page.data import page_data
from lora_profiler.report.page.parts import Card, Section, sections
from lora_profiler.report.page.predicted import numbers_sections, predicted_sections
from lora_profiler.report.page.provenance import provenance_section
from lora_profiler.report.page.reference import definitions_section, public_section
from lora_profiler.report.page.runs import (
    failures_section,
    groups_alike,
    numbered,
    run_cards,
    runs_section,
)
from lora_profiler.report.page.speed import speed_section
from lora_profiler.report.page.steps import layers_section, steps_section
from lora_profiler.units import count_text


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """A page before any markup. `lines` stand below the title; `data` is `page.data.page_data` of
    the same records."""

    title: str
    lines: tuple[str, ...]
    cards: tuple[Card, ...]
    sections: tuple[Section, ...]
    data: dict[str, Any]


def report_content(
    scored: Sequence[Scored], predictions: Sequence[Answer] = (), title: str | None = None
) -> Content:
    """The page of these records and answers, in the order given; either may be empty.

    Everything is worked out from the arguments: the same ones make the same page at any time.
    """
    runs = numbered(scored)
    groups = groups_alike(runs)
    return Content(
        title=title or _title(scored, predictions),
        lines=(
            *question_lines(predictions),
            *environment_lines(s.record for s in scored),
            *not_compared_lines(scored),
        ),
        cards=(
            *answer_cards(predictions),
            *run_cards(runs),
            *pair_cards(groups),
            *accuracy_cards(runs),
        ),
        sections=sections(  # figures, then tables
            *predicted_sections(predictions),
            accuracy_section(runs),
            composition_section(runs),
            steps_section(runs, groups),
            layers_section(groups),
            speed_section(runs, groups),
            *numbers_sections(predictions),
            errors_section(runs),
            failures_section(runs),
            runs_section(runs),
            provenance_section(runs),
            public_section(),
            definitions_section(),
        ),
        data=page_data(runs, predictions),
    )


def _title(scored: Sequence[Scored], predictions: Sequence[Answer]) -> str:
    """'gpt2: predicted and measured', '137 runs of 18 models: predicted and measured'."""
    models = dict.fromkeys(
        [
            *(s.record.workload.model.id for s in scored),
            *(a.prediction.workload.model.id for a in predictions),
        ]
    )
    what = "predicted and measured" if scored else "predicted"
    if not models:
        return "Nothing to report"
    if len(models) == 1:
        return f"{shortened(next(iter(models)))}: {what}"
    runs = f"{count_text(len(scored))} runs of " if scored else ""
    return f"{runs}{count_text(len(models))} models: {what}"
