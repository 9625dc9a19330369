"""A trainer's file dropped as the question: the fields take its values, and what of it nothing is
made of is listed by its line."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import streamlit as st

from lora_profiler.dashboard import take_along, widgets
from lora_profiler.dashboard.answered import published_model, workloads
from lora_profiler.dashboard.link import changed_here
from lora_profiler.dashboard.question import SETUP_OPTIONS, Question, about_of, completed
from lora_profiler.dashboard.remembered import BY_NAME, change, question, values
from lora_profiler.dashboard.settings import UPLOAD_MIB
from lora_profiler.errors import LoraProfilerError
from lora_profiler.model_spec import ModelSpec
from lora_profiler.option import flag
from lora_profiler.planning.setups import DEFAULTS, written_options
from lora_profiler.planning.setups import workloads as planning_workloads
from lora_profiler.report.trainer_file import counts_text
from lora_profiler.trainer_files.reading import read_content
from lora_profiler.trainer_files.settling import seen_images
from lora_profiler.trainer_files.trainer_file import TrainerFile, gap_texts, on_model

_KEY, _READ = "dropped", "dropped.read"
TYPES = ("yaml", "yml", "json", "ipynb", "py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """How a file was read: `lines` say what of it is not in the question, `refusal` why there is
    none of it, "" else."""

    head: str
    lines: tuple[str, ...] = ()
    refusal: str = ""


def field() -> None:
    """Behind a button: where a file is dropped."""
    with st.popover("From a file"):
        st.file_uploader(
            "A trainer's file: axolotl, LLaMA-Factory, torchtune, TRL, Unsloth",
            type=list(TYPES),
            key=_KEY,
            on_change=_take,
            max_upload_size=UPLOAD_MIB,
        )


def tell() -> None:
    """How the file was read, as long as it is there."""
    read: Dropped | None = st.session_state.get(_READ)
    if read is None:
        return
    if read.refusal:
        widgets.problem(read.refusal, heading=read.head)
    else:
        widgets.note(*read.lines, heading=read.head)


def _take() -> None:
    changed_here()
    state, file = st.session_state, st.session_state[_KEY]
    state.pop(_READ, None)
    if file is None:
        return
    try:
        read = read_content(file.name, file.getvalue())
        asked, state[_READ] = dropped(read, question())
    except LoraProfilerError as e:
        state[_READ] = Dropped(head="This file is no question", refusal=str(e))
        return
    values()["origin"] = BY_NAME
    state.pop("ask.origin", None)
    take_along.prefer(read.framework)
    change(asked, about_of(asked.options["methods"]))


def dropped(file: TrainerFile, before: Question) -> tuple[Question, Dropped]:
    """The question of a file, on the card of the one `before`, whose model and sizes stand for
    those that the file leaves open. Raises UsageError for a file that contradicts itself."""
    revision = file.revision or "main"
    wanted = replace(before, model=file.model or before.model, revision=revision)
    model, file = None, seen_images(file, None)  # the page traces nothing
    with suppress(LoraProfilerError):  # the page says that there is no such model
        model = published_model(wanted.model, wanted.revision, wanted.offline)
        file = on_model(file, model)
    open_ones = {n: before.options[n] for n in file.asks if n in SETUP_OPTIONS}
    own = {**open_ones, **file.beside(open_ones)}
    options = completed(file.stack, own)
    wanted = replace(wanted, trainer=file.stack, options=options)
    lines = [f"{text}." for text in gap_texts(file)]
    if file.model is None:
        lines.append(f"It names no model of the hub: {wanted.model} stands for it.")
    if file.vllm_share:
        lines.append(f"vLLM takes {file.vllm_share:.0%} of the card beside, which no field says.")
    lines += [
        f"{flag(name)[2:]}: only the data or the machine tell; {value} stands for it."
        for name, value in open_ones.items()
    ]
    if model is not None:
        lines += _otherwise(model, wanted, own)
    return wanted, Dropped(
        head=f"{file.name}: {file.title}. {counts_text(file)}", lines=tuple(lines)
    )


def _otherwise(model: ModelSpec, wanted: Question, own: Mapping[str, Any]) -> list[str]:
    """What the fields cannot ask as the file does: a default of the trainer's that it sets to what
    would be the default without one."""
    try:
        every = {**DEFAULTS, **own}
        asked = planning_workloads(model, every, set(own), None, wanted.stack)
        made = workloads(model, replace(wanted, gpu=None))
    except LoraProfilerError:  # which the page says
        return []
    texts: dict[str, None] = {}
    for one, other in zip(asked, made, strict=True):
        has = written_options(other.setup)
        for name, value in written_options(one.setup).items():
            if has.get(name) != value:
                texts[f"{flag(name)[2:]} is {value} in the file, {has.get(name)} here."] = None
    return list(texts)
