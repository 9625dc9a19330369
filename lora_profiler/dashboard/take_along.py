"""What can be taken along of an answer: its link, its command, a trainer's file, and downloads."""

import shlex
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlencode

import streamlit as st

from lora_profiler.dashboard import downloads, widgets
from lora_profiler.dashboard.link import Params
from lora_profiler.errors import LoraProfilerError
from lora_profiler.report.first_screen.card import HEIGHT, WIDTH
from lora_profiler.trainer_files.writing import WRITERS, suffix_of, written
from lora_profiler.workload import Workload

_TITLES: Final = {
    "axolotl": "axolotl",
    "trl": "TRL",
    "llamafactory": "LLaMA-Factory",
    "torchtune": "torchtune",
    "peft": "a script with PEFT",
}


def show(
    params: Params | None,
    command: Sequence[str],
    workload: Workload,
    offers: Sequence[widgets.Offer],
    card: Callable[[], str] | None = None,
) -> None:
    """Behind a button; `params` are those of the link, None where no link could hold the question,
    `command` asks the same, `workload` is what a trainer's file trains, and `card` makes a picture
    of the answer, where there is one."""
    drawn = st.popover("Take it along", key="take_along", on_change="rerun")
    with drawn:
        if not drawn.open:
            return
        if params is not None:
            st.caption("Link")
            st.code(_address(params), language=None, wrap_lines=True)
        st.caption("The same on the command line")
        st.code(shlex.join(["lora-profile", *command]), language=None, wrap_lines=True)
        _trainer_file(workload)
        if card is not None:
            _card(card(), downloads.plain_name(workload.model.id))
        st.caption("The answer")
        widgets.downloads("answer", offers)


def _card(svg: str, name: str) -> None:
    """The picture, and buttons that save it."""
    st.caption("A card to share")
    widgets.picture(svg, "The card")
    with st.container(horizontal=True, gap="small"):
        st.download_button(
            "Card, SVG", svg, file_name=f"{name}.svg", mime="image/svg+xml", on_click="ignore"
        )
        mounted = st.components.v2.component(
            "lora_profiler.png",
            html="<button>Card, PNG</button>",
            css=widgets.own_text("png.css"),
            js=widgets.own_text("png.js"),
        )
        data = {"svg": svg, "name": f"{name}.png", "width": WIDTH, "height": HEIGHT}
        mounted(key="png", data=data, width="content")


def prefer(trainer: str) -> None:
    """Offers the file of this trainer first, where there is one."""
    if trainer in WRITERS:
        st.session_state["trainer_file"] = trainer


def _address(params: Params) -> str:
    base = (st.context.url or "").partition("?")[0].rstrip("/")
    return f"{base}/?{urlencode(params, doseq=True)}"


def _trainer_file(workload: Workload) -> None:
    """A file that trains the same, or why there is none."""
    name = st.selectbox(
        "A trainer's file",
        list(WRITERS),
        key="trainer_file",
        format_func=lambda key: _TITLES.get(key, key),
    )
    file_name = f"{downloads.plain_name(workload.model.id)}-{name}{suffix_of(name)}"
    try:
        text = written(name, workload, file_name)
    except LoraProfilerError as e:
        widgets.small(str(e))
        return
    mime = "text/x-python" if suffix_of(name) == ".py" else "application/yaml"
    st.download_button("Trainer's file", text, file_name=file_name, mime=mime, on_click="ignore")
