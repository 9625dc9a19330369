"""Evidence: every public measurement that predictions were held to, how far off they were, and
where each can be looked up."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, get_args

import pandas as pd
import streamlit as st

from lora_profiler.dashboard import export, link, remembered, widgets
from lora_profiler.facts.evidence import (
    MeasuredMemory,
    MeasuredStep,
    OwnRow,
    interval,
    measured_memory,
    measured_steps,
    not_rehearsed,
    own_rows,
)
from lora_profiler.facts.evidence.documents import Kind
from lora_profiler.question.workload import Method
from lora_profiler.report import evidence
from lora_profiler.report.charts.dots import ErrorDot, ScatterPoint, error_strip, identity_scatter
from lora_profiler.report.evidence import interval_words, row_label
from lora_profiler.report.labels import (
    LEFT_OUT_LABELS,
    METHOD_LABELS,
    READING_LABELS,
    SOURCE_LABELS,
    TIER_LABELS,
)
from lora_profiler.report.measured.run_labels import ERROR_DEFINITION
from lora_profiler.units import GIB, count_text, seconds_text

Measured = MeasuredMemory | MeasuredStep | OwnRow
_KEY = "evidence."
_KINDS: tuple[Kind, ...] = ("memory", "steps")
_WORDS = {
    "memory": "memory, by others",
    "steps": "time of a step, by others",
    "rehearsed": "rehearsed",
    "recorded": "measured here",
}
OWN = "this project"
_TEXTS: dict[str, Callable[[Any], str]] = {
    "counted, GiB": widgets.two_decimals,
    "measured, GiB": widgets.two_decimals,
    "predicted, GiB": widgets.two_decimals,
    "measured": seconds_text,
    "predicted": seconds_text,
    "error, %": widgets.percents_off,
    "tokens": count_text,
    "tokens a step": count_text,
}
_READ: dict[str, Callable[[], Sequence[Measured]]] = {
    "memory": measured_memory,
    "steps": measured_steps,
    "rehearsed": lambda: own_rows("rehearsed"),
    "recorded": lambda: own_rows("recorded"),
}


def show() -> None:
    link.write(link.written("Evidence", remembered.question()))
    widgets.title(
        "Evidence",
        "Predictions compared with three kinds of evidence, which are never mixed:",
        "public measurements on GPUs, rehearsals without a GPU, and our measurements on a CPU.",
        f"{ERROR_DEFINITION}.",
    )
    widgets.cards(evidence.kind_cards())
    widgets.section("The worst rows of each kind")
    widgets.blocks([evidence.worst_table()])
    widgets.section("Measured on GPUs, by others")
    widgets.small(
        "A peak is predicted with the libraries and kernels of the run; nothing was fitted to it.",
        "A step time comes from constants that never saw its model or its GPU.",
    )
    widgets.note(
        f"{interval_words(interval())}.",
        evidence.coverage_words(interval()),
        heading="How far off a predicted peak may be",
    )
    widgets.section("By how much is published, and by what was left out")
    widgets.blocks([evidence.errors_table()])
    widgets.section("By source")
    widgets.blocks([evidence.sources_table()])
    _figures()
    _own_figures()
    _rows()
    _lines_section(
        "Misses, and what is known of them",
        evidence.missed_lines(),
        "No row is beyond the interval.",
    )
    _lines_section("Predicted, but no test", evidence.apart_lines(), "Every row is a test.")
    widgets.fold("What no question here says", f"{_KEY}left_out", _left_out)


def _left_out() -> None:
    for kind in _KINDS:
        widgets.section(f"Left out: {_WORDS[kind]}")
        widgets.small(*evidence.left_out_lines(kind))


def _figures() -> None:
    peaks = [row for row in measured_memory() if row.reading == "peak"]
    points = [
        ScatterPoint(
            label=row_label(row),
            method=row.method,
            predicted_bytes=row.predicted_bytes,
            measured_bytes=row.measured_bytes,
            record_id=row.id,
            not_counted=row.apart,
            name=row.model.rpartition("/")[2],
        )
        for row in peaks
    ]
    counted = sum(row.is_graded for row in peaks)
    widgets.section("Peaks, predicted against measured")
    caption = (
        f"{count_text(counted)} of the {count_text(len(peaks))} public peaks shown are counted"
        " above, and filled."
    )
    widgets.figure(
        identity_scatter(points), f"{_KEY}memory", f"{caption} The table below has the numbers."
    )
    widgets.small(caption, *evidence.not_counted_lines(peaks))
    steps = measured_steps()
    words = {of: f"predicted {label}" for of, label in LEFT_OUT_LABELS.items()} | {"model": ""}
    dots = [
        ErrorDot(
            group=SOURCE_LABELS[row.source],
            label=row_label(row),
            error=row.error,
            method=row.method,
            record_id=row.id,
            not_counted=words[row.left_out],
        )
        for row in steps
    ]
    widgets.section("Time of a step, errors by source")
    unseen, shown = count_text(len(evidence.unseen_steps())), count_text(len(steps))
    caption = (
        f"{unseen} of the {shown} public steps shown are counted above, and filled: those predicted"
        " by constants fitted without their model."
    )
    widgets.figure(error_strip(dots), f"{_KEY}steps", f"{caption} The table below has the numbers.")
    why = Counter(dot.not_counted for dot in dots if dot.not_counted)
    hollow = (f"Not counted, and hollow: {count_text(n)} {reason}." for reason, n in why.items())
    widgets.small(caption, *hollow)


def _own_figures() -> None:
    for kind, heading in evidence.KIND_TITLES.items():
        rows = own_rows(kind)
        widgets.section(heading)
        widgets.small(evidence.KIND_WORDS[kind])
        widgets.figure(
            identity_scatter(evidence.own_points(rows), evidence.COUNTED[kind]),
            f"{_KEY}{kind}",
            f"{count_text(len(rows))} peaks, predicted against what was {evidence.COUNTED[kind]}."
            " The table below has the numbers.",
        )
    ended_early = "What did not run to its end"
    widgets.fold(ended_early, f"{_KEY}not_run", lambda: widgets.small(*not_rehearsed()))


def _rows() -> None:
    widgets.section("Every row")
    kind = widgets.choose("Kind", list(_READ), "memory", f"{_KEY}kind", _WORDS)
    rows: Sequence[Measured] = _READ[kind]()
    places = st.columns(3)
    with places[0]:
        known = list(dict.fromkeys(map(source_of, rows)))
        sources = _several("Source", known, "source", SOURCE_LABELS)
    with places[1]:
        methods = _several("Method", list(get_args(Method)), "method", METHOD_LABELS)
    with places[2]:
        cards = _several("GPU", sorted({card_of(row) for row in rows}), "card")
    matches = [row for row in rows if not sources or source_of(row) in sources]
    matches = [row for row in matches if not methods or row.method in methods]
    matches = [row for row in matches if not cards or card_of(row) in cards]
    if not matches:
        widgets.note("No row is of all that was chosen.")
        return
    says = f"{count_text(len(matches))} of {count_text(len(rows))} rows"
    rows_table(matches, f"{_KEY}rows", says)
    documents = records(matches)
    widgets.downloads("evidence", export.of_rows(kind, f"evidence-{kind}", documents))


def _several(
    label: str, options: Sequence[str], key: str, words: dict[str, str] | None = None
) -> list[str]:
    shown = words or {}
    return st.multiselect(
        label,
        options,
        key=_KEY + key,
        format_func=lambda o: shown.get(o, o),
        placeholder="all",
        persist_state="session",
    )


def _lines_section(heading: str, lines: Sequence[str], nothing: str) -> None:
    widgets.section(heading)
    widgets.small(*(lines or (nothing,)))


# --- measurements as a table to sort, each with the address where it was published ----------------


def rows_table(rows: Sequence[Measured], key: str, says: str) -> None:
    """All of one kind. `says` stands under the table."""
    columns = [_columns(row) for row in rows]
    shown = widgets.written(
        pd.DataFrame(columns), {name: text for name, text in _TEXTS.items() if name in columns[0]}
    )
    st.dataframe(
        shown,
        hide_index=True,
        key=key,
        alt=says,
        placeholder="-",
        height="auto" if len(rows) < 9 else 360,
        column_config={"published": st.column_config.LinkColumn(display_text="source")},
    )
    widgets.small(says)


def records(rows: Sequence[Measured]) -> list[dict[str, Any]]:
    fields = (asdict(row) if isinstance(row, MeasuredStep) else row._asdict() for row in rows)
    return [{**of, "error": row.error} for of, row in zip(fields, rows, strict=True)]


def source_of(row: Measured) -> str:
    return OWN if isinstance(row, OwnRow) else row.source


def card_of(row: Measured) -> str:
    return row.where if isinstance(row, OwnRow) else row.card


def _columns(row: Measured) -> dict[str, Any]:
    if isinstance(row, OwnRow):
        of_kind = {
            "counted, GiB": row.counted_bytes / GIB,
            "predicted, GiB": row.predicted_bytes / GIB,
            "error, %": 100 * row.error,
            "setup": row.setup,
            "on": row.where,
            "says exact": row.says_exact,
        }
    else:
        of_kind = _memory(row) if isinstance(row, MeasuredMemory) else _step(row)
    return {"model": row.model, "method": METHOD_LABELS[row.method], **of_kind}


def _memory(row: MeasuredMemory) -> dict[str, Any]:
    return {
        "measured, GiB": row.measured_bytes / GIB,
        "predicted, GiB": row.predicted_bytes / GIB,
        "error, %": 100 * row.error,
        "published": row.url,
        "batch": row.batch_size,
        "tokens": row.seq_len,
        "checkpointing": row.checkpointing,
        "GPU": row.card,
        "GPUs": row.cards,
        "counter": READING_LABELS[row.reading],
        "source": SOURCE_LABELS[row.source],
        "stack": row.stack,
        "published of it": TIER_LABELS[row.tier],
        "no test, because": row.apart or None,
        "id": row.id,
    }


def _step(row: MeasuredStep) -> dict[str, Any]:
    return {
        "measured": row.measured_seconds,
        "predicted": row.measured_seconds * (1 + row.error),
        "error, %": 100 * row.error,
        "published": row.url,
        "tokens a step": row.tokens,
        "GPU": row.card,
        "source": SOURCE_LABELS[row.source],
        "left out of the fit": row.left_out,
        "id": row.id,
    }
