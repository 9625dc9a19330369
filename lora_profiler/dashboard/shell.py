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
    docs_page,
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
    "lora-profiler predicts the memory and time of fine-tuning from a model's name.",
    "It covers full fine-tuning, LoRA and QLoRA, with the defaults of your trainer.",
    "Peaks are computed byte for byte, and step times are estimates.",
    "Evidence compares both with public measurements.",
    "Everything runs on this machine; only a model's config.json is fetched.",
)
_MODULES = (
    predict_page, plan_page, crossover_page, compare_page, measure_page, learn_page, evidence_page,
    catalogue_page, docs_page,
)  # fmt: skip
_DRAWN = {page: module.show for page, module in zip(link.PAGES, _MODULES, strict=True)}


def show() -> None:
    """One run of the script: the page that was chosen, or that the address names where it was
    changed from outside."""
    st.set_page_config(
        page_title="lora-profiler",
        layout="wide",
        menu_items={"About": None, "Get help": None, "Report a bug": None},
    )
    widgets.style()
    address = link.new_link()
    if address is not None:
        st.session_state[link.PAGE_KEY] = address.page
        st.session_state[compare_page.LINKED] = address.record
        remembered.seed(address.question, address.complaints, address.shown)
        plan_page.seed(address.plan)
        learn_page.seed(address.layer)
    page = _header()
    _draw(_DRAWN[page or link.PAGES[0]])


def _header() -> str | None:
    """On every page: what this is, and where else to go; the page that is chosen."""
    with st.container(horizontal=True, vertical_alignment="center", gap="small", key="header"):
        widgets.piece("brand", __version__, width="content")
        page = st.segmented_control(
            "Page",
            link.PAGES,
            key=link.PAGE_KEY,
            required=True,
            label_visibility="collapsed",
            on_change=link.mark_changed,
        )
        with st.popover("What is this?", type="tertiary", key="about"):
            widgets.small(*_ABOUT)
    return page


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
