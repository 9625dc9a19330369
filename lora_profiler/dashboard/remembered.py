"""What is asked, and kept while pages come and go: the state behind every widget."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import streamlit as st

from lora_profiler.dashboard.link import mark_changed
from lora_profiler.dashboard.question import (
    METHODS,
    NUMBERS,
    OWN_NAMES,
    SETUP_OPTIONS,
    Question,
    Shown,
    about_of,
    completed,
    defaults_of,
)
from lora_profiler.planning.setups import DEFAULTS
from lora_profiler.question.option import Option
from lora_profiler.question.workload import Method
from lora_profiler.report.first_screen import TrainingRun

BY_NAME, UPLOAD = "By name", "A config.json"
_KEY = "ask."
_DECIDING = ("model", "methods", "trainer", "optimizer")
"""Widgets that decide the defaults of others."""


def seed(question: Question, complaints: Sequence[str] = (), shown: Shown | None = None) -> None:
    """Sets every widget to `question` and `shown`; `complaints` are told until it changes."""
    state = st.session_state
    state["question"], state["first"], state["complaints"] = question, None, tuple(complaints)
    values = _values(question, shown or Shown())
    state["linked"], state["remembered"] = dict(values), values
    for key in [key for key in state if str(key).startswith(_KEY)]:
        del state[key]


def _values(question: Question, shown: Shown) -> dict[str, Any]:
    own = {name: getattr(question, name) for name in OWN_NAMES}
    about = shown.about if shown.about in question.options["methods"] else None
    run = {name: getattr(shown.run, name) for name in NUMBERS}
    return {"origin": BY_NAME, "about": about, **run, **own, **question.options}


def values() -> dict[str, Any]:
    """What every widget of the question has, by name, read and written where it is drawn."""
    remembered: dict[str, Any] = st.session_state["remembered"]
    return remembered


def question() -> Question:
    current: Question = st.session_state["question"]
    return current


def settle() -> Question:
    """Makes the question of what the widgets say; options that no method reads, whose widgets are
    not shown, keep their defaults."""
    remembered = values()
    options = completed(
        remembered["trainer"], {name: remembered[name] for name in DEFAULTS}, remembered["model"]
    )
    settled = Question(options=options, **{name: remembered[name] for name in OWN_NAMES})
    st.session_state["question"] = settled
    st.session_state["first"] = st.session_state["first"] or settled
    return settled


def shown() -> Shown:
    remembered = values()
    run = TrainingRun(**{name: remembered[name] for name in NUMBERS})
    return Shown(about=remembered["about"] or about_of(remembered["methods"]), run=run)


def complaints() -> tuple[str, ...]:
    """What a link said in vain, as long as nothing else is asked."""
    state = st.session_state
    sentences: tuple[str, ...] = state["complaints"]
    return sentences if state["question"] == state["first"] else ()


def with_linked(name: str, options: Sequence[str]) -> list[str]:
    """The options, and what a link or a change named beside them."""
    linked = st.session_state["linked"][name]
    return list(options) if linked is None or linked in options else [linked, *options]


def key_of(name: str) -> str:
    return _KEY + name


def kept(name: str) -> dict[str, Any]:
    """Of every widget of the question: its key, whose state begins with what is remembered."""
    key = key_of(name)
    if key not in st.session_state:
        value = values()[name]
        if value is None and is_text_field(SETUP_OPTIONS.get(name)):
            value = ""
        st.session_state[key] = list(value) if isinstance(value, tuple) else value
    return {"key": key, "on_change": _fill if name in _DECIDING else mark_changed}


def begin_anew(name: str, kind: str) -> None:
    """Forgets the state of a widget that was of another kind, which streamlit would lose."""
    state, key = st.session_state, f"kind.{name}"
    if state.get(key, kind) != kind:
        state.pop(key_of(name), None)
    state[key] = kind


def is_text_field(option: Option | None) -> bool:
    return option is not None and option.kind == "text" and option.default is None


def ordered_methods(chosen: Sequence[str]) -> tuple[Method, ...]:
    """The methods in the page's own order; the usual ones where none is chosen."""
    return tuple(method for method in METHODS if method in chosen) or DEFAULTS["methods"]


def change(question: Question, about: Method | None = None) -> None:
    """Sets the widgets of whatever `question` has otherwise, before they are drawn; `about` is the
    method that the page is then about."""
    mark_changed()
    own = {name: getattr(question, name) for name in OWN_NAMES}
    for name, value in {**own, **question.options, "about": about or values()["about"]}.items():
        if values()[name] != value:
            change_one(name, value)


def change_one(name: str, value: Any) -> None:
    mark_changed()
    values()[name] = st.session_state["linked"][name] = value
    st.session_state.pop(_KEY + name, None)


def reset() -> None:
    """Leaves every option of the setup to its default, but for the methods."""
    current = question()
    kept = {"methods": current.options["methods"]}
    change(replace(current, options=completed(current.trainer, kept, current.model), engine="auto"))


def choose_method() -> None:
    """After another method was chosen to be about: it is asked beside the others."""
    state = st.session_state
    about = values()["about"] = state[_KEY + "about"]
    methods = ordered_methods(state.get(_KEY + "methods", values()["methods"]))
    if about not in methods:
        state[_KEY + "methods"] = list(ordered_methods((*methods, about)))
    _fill()


def _fill() -> None:
    """Sets every option that nobody has set to its default, which is another now."""
    mark_changed()
    state, remembered = st.session_state, values()
    before = defaults_of(remembered["model"], remembered["trainer"], remembered)
    methods = ordered_methods(state.get(_KEY + "methods", remembered["methods"]))
    chosen: dict[str, Any] = {"methods": methods}
    remembered["optimizer"] = state.get(_KEY + "optimizer", remembered["optimizer"])
    if remembered["optimizer"] != before["optimizer"]:
        chosen["optimizer"] = remembered["optimizer"]
    model, trainer = (state.get(_KEY + n, remembered[n]) for n in ("model", "trainer"))
    after = defaults_of(model.strip(), trainer, chosen)
    for name in SETUP_OPTIONS:
        if remembered[name] == before[name]:
            remembered[name] = after[name]
            state.pop(_KEY + name, None)
    if remembered["about"] not in methods:
        remembered["about"] = None
        state.pop(_KEY + "about", None)
