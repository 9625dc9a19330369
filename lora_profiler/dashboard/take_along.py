"""What can be taken along of an answer: its link, its command, a trainer's file, and downloads."""

import shlex
from dataclasses import replace
from typing import Final
from urllib.parse import urlencode

import streamlit as st

from lora_profiler.dashboard import downloads, widgets
from lora_profiler.dashboard.answered import Answered
from lora_profiler.dashboard.link import Params
from lora_profiler.dashboard.question import predict_arguments
from lora_profiler.errors import LoraProfilerError
from lora_profiler.planning.answers import Answer
from lora_profiler.trainer_files.writing import WRITERS, written

_TITLES: Final = {
    "axolotl": "axolotl",
    "trl": "TRL",
    "llamafactory": "LLaMA-Factory",
    "torchtune": "torchtune",
}


def show(result: Answered, answer: Answer, params: Params | None) -> None:
    """Behind a button; `params` are those of the link, None where no link could hold the
    question."""
    drawn = st.popover("Take it along", key="take_along", on_change="rerun")
    with drawn:
        if not drawn.open:
            return
        if params is not None:
            st.caption("Link")
            st.code(_address(params), language=None, wrap_lines=True)
        st.caption("The same on the command line")
        st.code(_command(result, answer, is_file=params is None), language=None, wrap_lines=True)
        _trainer_file(answer)
        st.caption("The answer")
        widgets.downloads("predict", downloads.of_answers(result))


def _address(params: Params) -> str:
    base = (st.context.url or "").partition("?")[0].rstrip("/")
    return f"{base}/?{urlencode(params, doseq=True)}"


def _command(result: Answered, answer: Answer, *, is_file: bool) -> str:
    """Of an uploaded model with its file's name, which stands for its path."""
    question = result.question
    if is_file:
        question = replace(question, model=f"{answer.prediction.workload.model.id}.json")
    return shlex.join(["lora-profile", *predict_arguments(question)])


def _trainer_file(answer: Answer) -> None:
    """A file that trains the same, or why there is none."""
    name = st.selectbox(
        "A trainer's file",
        list(WRITERS),
        key="trainer_file",
        format_func=lambda key: _TITLES.get(key, key),
    )
    workload = answer.prediction.workload
    file_name = f"{downloads.plain_name(workload.model.id)}-{name}.yaml"
    try:
        text = written(name, workload, file_name)
    except LoraProfilerError as e:
        widgets.small(str(e))
        return
    st.download_button(
        "Trainer's file", text, file_name=file_name, mime="application/yaml", on_click="ignore"
    )
