"""Two records side by side, and two sets of records."""

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from lora_profiler.comparison.regressions import changes, paired, setup_changes
from lora_profiler.dashboard import widgets
from lora_profiler.dashboard.records import Loaded
from lora_profiler.report.measured.changes import change_blocks
from lora_profiler.report.page.runs import Run
from lora_profiler.report.page.side_by_side import pair_table
from lora_profiler.report.page.steps import step_drawing

MOST_OFFERED = 300
"""Records to choose from; those of the same model stand first."""
_CASES = 5
_AGAINST = "compare.against"


def ask(run: Run, others: Sequence[Run]) -> Run | None:
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


def show(first: Run, second: Run) -> None:
    """Their steps beside each other, then the numbers of both."""
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
    """Two of the sets of records that are shown, as before and after; for at least two."""
    with widgets.drawer("One set of records against another", "sets") as is_open:
        if not is_open:
            return
        names = list(sets)
        places = st.columns(2)
        with places[0]:
            before = st.selectbox("Before", names, index=0, key="sets.before")
        with places[1]:
            after = st.selectbox("After", names, index=1, key="sets.after")
        pairs = paired(*([s.record for s in sets[name].scored] for name in (before, after)))
        if not pairs.pairs:
            widgets.note(
                "No case is in both sets: a case is a model, its setup and the conditions of the"
                " run."
            )
            return
        chosen: Any = ("peak_requested_bytes", "step_seconds")
        sides = (
            [r for pair in pairs.pairs for r in pair.before],
            [r for pair in pairs.pairs for r in pair.after],
        )
        found = changes(pairs.pairs, chosen)
        widgets.blocks(change_blocks(pairs, found, setup_changes(*sides), _CASES))
