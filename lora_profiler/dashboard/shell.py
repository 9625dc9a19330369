"""The window around the pages: one look, one list of pages, and no page that an error could take
down."""

import logging
from collections.abc import Callable

import streamlit as st

from lora_profiler._common.packages import __version__
from lora_profiler.dashboard import (
    catalogue_page,
    compare_page,
    crossover_page,
    evidence_page,
    learn_page,
    link,
    measure_page,
    plan_page,
    predict_page,
    remembered,
    widgets,
)
from lora_profiler.errors import LoraProfilerError

_ABOUT = (
    f"lora-profiler {__version__}: what full, LoRA and QLoRA fine-tuning of a model cost in memory"
    " and compute."
)
SIDEBAR_PX = 340
_SHOW = (
    predict_page.show,
    plan_page.show,
    crossover_page.show,
    compare_page.show,
    measure_page.show,
    learn_page.show,
    evidence_page.show,
    catalogue_page.show,
)
_DRAWN = dict(zip(link.PAGES, _SHOW, strict=True))


def show() -> None:
    """One run of the script: the page that was chosen, or that the address names where it was
    changed from outside."""
    st.set_page_config(
        page_title="lora-profiler",
        layout="wide",
        initial_sidebar_state=SIDEBAR_PX,
        menu_items={"About": _ABOUT, "Get help": None, "Report a bug": None},
    )
    widgets.style()
    address = link.new_link()
    if address is not None:
        st.session_state[link.PAGE_KEY] = address.page
        st.session_state[compare_page.LINKED] = address.record
        remembered.seed(address.question, address.complaints, address.shown)
        plan_page.seed(address.plan)
        learn_page.seed(address.layer)
    page = st.segmented_control(
        "Page",
        link.PAGES,
        key=link.PAGE_KEY,
        required=True,
        label_visibility="collapsed",
        on_change=link.mark_changed,
    )
    _draw(_DRAWN[page or link.PAGES[0]])


def _draw(page: Callable[[], None]) -> None:
    """The page, or what it did not expect as a message: the next change draws it anew."""
    try:
        page()
    except LoraProfilerError as e:
        widgets.problem(str(e))
    except Exception as e:  # streamlit's own signals are no Exceptions
        logging.getLogger("lora_profiler").exception("a page of the dashboard could not be drawn")
        widgets.problem(
            f"This was not expected ({type(e).__name__}). The terminal of the dashboard has the"
            " details; change the question, or reload the page.",
            heading="The page could not be drawn",
        )
