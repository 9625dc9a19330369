"""The settings beside a page: of the options those that the trainer or the user sets, all of them
on request, each to be found by words."""

from collections.abc import Collection
from typing import TYPE_CHECKING

import streamlit as st

from lora_profiler.dashboard import fields, remembered, widgets
from lora_profiler.dashboard.question import SETUP_OPTIONS, Question, idle_options
from lora_profiler.dashboard.remembered import UPLOAD, values
from lora_profiler.facts.stacks import GUIDE, find_stack
from lora_profiler.question.option import GROUP_TITLES, Option
from lora_profiler.report.catalogues import matching

if TYPE_CHECKING:
    from streamlit.runtime.uploaded_file_manager import UploadedFile

_SEARCH, ALL = "settings.search", "settings.all"


def show(
    leave_out: Collection[str] = (),
    *,
    with_methods: bool = False,
    with_trainer: bool = False,
    with_epochs: bool = False,
    for_real: bool = False,
) -> "UploadedFile | None":
    """Draws them, but for those to `leave_out`; the file that was chosen as the model. `for_real`
    leaves out what is no part of a measurement."""
    own = values()
    with st.container(key="settings", gap="xsmall"):
        text = _head()
        if with_trainer:
            own["trainer"] = fields.trainer(label="visible")
        if with_methods:
            own["methods"] = fields.methods()
        if with_epochs:
            fields.of_run("epochs", "Epochs")
            fields.of_run("price", "Price an hour")
        every = st.session_state.get(ALL, False) or bool(text)
        names = [n for n in _names(text, every=every) if n not in leave_out]
        for group, title in _IN_ORDER.items():
            options = [SETUP_OPTIONS[n] for n in names if SETUP_OPTIONS[n].declared.group == group]
            if not options:
                continue
            widgets.head(title)
            if group == "ranks":
                own |= fields.ranks(network=not for_real)
            else:
                own |= {option.name: fields.option(option) for option in options}
        file = _look_up(for_real=for_real, every=every)
        st.toggle(f"All {len(SETUP_OPTIONS)} settings", key=ALL, persist_state="session")
    return file


_IN_ORDER = {group: GROUP_TITLES[group] for group in sorted(GROUP_TITLES, key="batch".__ne__)}
"""Titles of the groups, what is of the batch first."""


def _head() -> str:
    """Draws the title, Reset, and the search; its text."""
    changed = _changed()
    with st.container(horizontal=True, vertical_alignment="center", key="settings_head"):
        widgets.head("Settings")
        st.button(
            "Reset",
            key="reset",
            type="tertiary",
            on_click=remembered.reset,
            disabled=not changed,
            help="Every setting as the trainer has it.",
        )
    widgets.mark(remembered.key_of(name) for name in changed)
    text: str = st.text_input(
        "Search all settings",
        key=_SEARCH,
        placeholder="Search all settings",
        label_visibility="collapsed",
    )
    return text.strip()


def _changed() -> list[str]:
    """Options that are not left to their default."""
    own = values()
    explicit = Question(
        trainer=own["trainer"], options={n: own[n] for n in ("methods", *SETUP_OPTIONS)}
    ).explicit
    return [name for name in SETUP_OPTIONS if name in explicit]


def _names(text: str, *, every: bool) -> list[str]:
    """Options to draw: what the trainer and guides set, what is most asked for, and what was
    changed; of `every` one those that have the words of `text`."""
    methods = values()["methods"]
    idle = idle_options(methods)
    able = [option for option in SETUP_OPTIONS.values() if option.name not in idle]
    if every:
        return [option.name for option in able if matching(text, _words(option))]
    stacks = (find_stack(GUIDE), find_stack(values()["trainer"] or GUIDE))
    usual = {name for s in stacks for method in methods for name in s.defaults[method]}
    usual |= set(_changed())
    return [option.name for option in able if option.declared.common or option.name in usual]


def _words(option: Option) -> tuple[str, ...]:
    return fields.label_of(option), option.name, option.flag, option.declared.help


def _look_up(*, for_real: bool, every: bool) -> "UploadedFile | None":
    """Where the model comes from, and who answers."""
    own = values()
    widgets.head("Model and GPU")
    own["origin"] = fields.origin()
    file = fields.config_json() if own["origin"] == UPLOAD else None
    if not for_real:
        fields.gpu_memory()
    if every and not for_real:
        own |= fields.engine()
    if every and own["origin"] != UPLOAD:
        own |= fields.look_up()
    return file
