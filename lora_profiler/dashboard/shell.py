"""The window around the pages: one look, one list of pages, and no page that an error could take down."""

import logging
from collections.abc import Callable

import streamlit as st

from lora_profiler import __version__
from lora_profiler.dashboard import catalogue_page, compare_page, measure_page, parts, predict_page
from lora_profiler.errors import LoraProfilerError

_ABOUT = f"lora-profiler {__version__}: what full, LoRA and QLoRA fine-tuning of a model cost in memory and compute."
PAGES = (
    ("Predict", "", predict_page.show),
    ("Compare", "compare", compare_page.show),
    ("Measure", "measure", measure_page.show),
    ("Catalogue", "catalogue", catalogue_page.show),
)


def show() -> None:
    """One run of the script: the page that the address names."""
    st.set_page_config(
        page_title="lora-profiler", layout="wide", menu_items={"About": _ABOUT, "Get help": None, "Report a bug": None}
    )
    parts.style()
    pages = [st.Page(_alive(draw), title=name, url_path=path or name.lower(), default=not path) for name, path, draw in PAGES]
    st.navigation(pages, position="top").run()


def _alive(draw: Callable[[], None]) -> Callable[[], None]:
    """`draw`, with whatever it did not expect as a message: the widgets above it stay, and the next change draws it anew."""

    def page() -> None:
        try:
            draw()
        except LoraProfilerError as e:
            parts.problem(str(e))
        except Exception as e:  # streamlit's own signals are no Exceptions
            logging.getLogger("lora_profiler").exception("the page %s could not be drawn", draw.__module__)
            parts.problem(
                f"This was not expected ({type(e).__name__}). The terminal of the dashboard has the details; change the "
                "question, or reload the page.",
                heading="The page could not be drawn",
            )

    return page
