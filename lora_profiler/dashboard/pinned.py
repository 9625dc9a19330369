"""One answer kept as A while the question goes on to B."""

import streamlit as st

from lora_profiler.dashboard import widgets
from lora_profiler.planning.answers import Answer
from lora_profiler.report.answer.differences import answered_differently, asked_differently
from lora_profiler.report.labels import method_label

_PINNED = "pinned"


def button(answer: Answer) -> None:
    st.button("Pin as A", key="pin", on_click=_pin, args=(answer,), help="To compare with.")


def _pin(answer: Answer) -> None:
    st.session_state[_PINNED] = answer


def show(answer: Answer) -> None:
    """What differs between the answer that was pinned and the present one."""
    pinned: Answer | None = st.session_state.get(_PINNED)
    if pinned is None:
        widgets.note("Pin an answer as A, change the question, and see here what differs.")
        return
    asked, found = asked_differently(pinned, answer), answered_differently(pinned, answer)
    widgets.section(
        f"A, {method_label(pinned.prediction)}, and B, {method_label(answer.prediction)}"
    )
    tables = [table for table in (asked, found) if table is not None]
    if tables:
        widgets.blocks(tables)
    else:
        widgets.note("This is A: nothing differs yet.")
