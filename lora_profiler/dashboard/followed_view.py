"""A run of `lora-profile` on a page: the button that starts it, how far it is, and the one that
ends it."""

from collections.abc import Callable
from typing import Any

import streamlit as st

from lora_profiler.dashboard import following, widgets
from lora_profiler.dashboard.following import Followed, Kind
from lora_profiler.errors import LoraProfilerError
from lora_profiler.report.blocks import Block
from lora_profiler.units import clock_text

_EVERY_SECONDS = 0.5
Draw = Callable[[Followed[Any]], None]


def start_button(label: str, key: str, start: Callable[[], object], *, disabled: bool) -> None:
    """Starts it, unless one runs already."""
    is_off = disabled or following.is_busy()
    if st.button(label, type="primary", key=key, disabled=is_off):
        try:
            start()
        except (LoraProfilerError, OSError) as e:
            widgets.problem(str(e), heading="Nothing was started")
        else:
            st.rerun()


def show(kind: Kind, going: Draw, ended: Draw) -> None:
    """What `going` draws of the run of this kind that goes on, or what `ended` draws of the last;
    nothing where there was none."""
    running = following.present(kind)
    if running is None:
        return
    if running.runs:
        _live(kind, going)
    else:
        ended(running)


@st.fragment(run_every=_EVERY_SECONDS)
def _live(kind: Kind, going: Draw) -> None:
    """Drawn anew by itself twice a second, without the rest of the page, until the process has
    ended."""
    running = following.present(kind)
    if running is None or not running.runs:
        st.rerun()
    going(running)


def under_way(
    running: Followed[Any],
    title: str,
    progress: Block,
    *,
    bar: tuple[float, str] | None = None,
    key: str,
    ending: str,
    tip: str,
) -> None:
    """How far it is, `bar` as a share of all with its words, and a button that ends it."""
    widgets.section(title)
    if bar is not None:
        st.progress(*bar)
    widgets.blocks([progress])
    widgets.small(f"{clock_text(running.seconds)} gone; {running.command}")
    if running.cancelled:
        widgets.note(ending)
    else:
        st.button("Cancel", key=key, on_click=running.cancel, help=tip)
