"""Public measurements as a table to sort, each with the address where it was published."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import pandas as pd
import streamlit as st

from lora_profiler.dashboard import widgets
from lora_profiler.evidence import MeasuredMemory, MeasuredStep, OwnRow
from lora_profiler.report.labels import METHOD_LABELS, READING_LABELS, SOURCE_LABELS
from lora_profiler.units import GIB, seconds_text

Measured = MeasuredMemory | MeasuredStep | OwnRow
OWN = "this project"
_TEXTS: dict[str, Callable[[float], str]] = {
    "counted, GiB": widgets.two_decimals,
    "measured, GiB": widgets.two_decimals,
    "predicted, GiB": widgets.two_decimals,
    "measured": seconds_text,
    "predicted": seconds_text,
    "error, %": widgets.percents_off,
}


def show(rows: Sequence[Measured], key: str, says: str) -> None:
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
    """The rows for machines."""
    return [{**asdict(row), "error": row.error} for row in rows]


def source_of(row: Measured) -> str:
    """Who counted."""
    return OWN if isinstance(row, OwnRow) else row.source


def card_of(row: Measured) -> str:
    return row.where if isinstance(row, OwnRow) else row.card


def _columns(row: Measured) -> dict[str, Any]:
    if isinstance(row, OwnRow):
        of_kind = _own(row)
    else:
        of_kind = _memory(row) if isinstance(row, MeasuredMemory) else _step(row)
    return {"model": row.model, "method": METHOD_LABELS[row.method], **of_kind}


def _own(row: OwnRow) -> dict[str, Any]:
    return {
        "counted, GiB": row.counted_bytes / GIB,
        "predicted, GiB": row.predicted_bytes / GIB,
        "error, %": 100 * row.error,
        "setup": row.setup,
        "on": row.where,
        "says exact": row.says_exact,
    }


def _memory(row: MeasuredMemory) -> dict[str, Any]:
    return {
        "measured, GiB": row.measured_bytes / GIB,
        "predicted, GiB": row.predicted_bytes / GIB,
        "error, %": 100 * row.error,
        "published": row.url,
        "batch": row.batch_size,
        "tokens": row.seq_len,
        "checkpointing": row.checkpointing,
        "card": row.card,
        "cards": row.cards,
        "counter": READING_LABELS[row.reading],
        "source": SOURCE_LABELS[row.source],
        "stack": row.stack,
        "tier": row.tier,
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
        "card": row.card,
        "source": SOURCE_LABELS[row.source],
        "left out of the fit": row.left_out,
        "id": row.id,
    }
