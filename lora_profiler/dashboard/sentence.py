"""The question of a page: as one sentence with all its settings behind one click, or in a
column."""

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import streamlit as st

from lora_profiler.dashboard import dropped, fields, widgets
from lora_profiler.dashboard.fields import Asked
from lora_profiler.dashboard.remembered import UPLOAD, settle, values
from lora_profiler.option import Group

if TYPE_CHECKING:
    from streamlit.runtime.uploaded_file_manager import UploadedFile

_SIZES = ("batch_size", "seq_len")


def ask() -> Asked:
    """Draws "Fine-tune [model] with [method] on [card], [batch] x [length] tokens" in the place
    where it is called, and under it every other option."""
    found = values()
    with _sentence():
        _model("Fine-tune")
        widgets.words("with")
        found["about"] = fields.about()
        widgets.words("on")
        found["gpu"] = fields.card(width=265, label="collapsed")
        widgets.words("at")
        found["batch_size"] = fields.size("batch_size", 64)
        widgets.words("×")
        found["seq_len"] = fields.size("seq_len", 92)
        widgets.words("tokens")
    with st.container(horizontal=True, gap="small", key="settings_row"):
        file = _settings(_SIZES, with_methods=True)
        dropped.field()
    return _asked(file)


def ask_between() -> Asked:
    """Draws "Between [methods] of [model] on [card]" and the options but for batch and length,
    which Crossover asks about all of."""
    found = values()
    with _sentence():
        widgets.words("Between")
        found["methods"] = fields.methods(label="collapsed")
        _model("of")
        widgets.words("on")
        found["gpu"] = fields.card(width=265, label="collapsed")
    return _asked(_settings(_SIZES))


def ask_plan(form: Callable[[], None], chosen: Collection[str]) -> Asked:
    """Draws "Train [model] by [methods] at [length] tokens", what `form` draws, and the options but
    for those `chosen` by the plan."""
    found = values()
    with _sentence():
        _model("Train")
        widgets.words("by")
        found["methods"] = fields.methods(label="collapsed")
        widgets.words("at")
        found["seq_len"] = fields.size("seq_len", 92)
        widgets.words("tokens a sequence")
    form()
    return _asked(_settings((*chosen, *_SIZES)))


def ask_in_column() -> Asked:
    """Draws the question as groups in a column, but for what a real run does not ask about: the
    card, the link between ranks, the engine."""
    found = values()
    found["origin"] = fields.origin()
    file = None
    if found["origin"] == UPLOAD:
        file = fields.config_json()
    else:
        found["model"] = fields.model()
    found["trainer"] = fields.trainer()
    found["methods"] = fields.methods()
    groups: tuple[tuple[str, Group, bool], ...] = (
        ("Batch and length", "batch", True),
        ("Adapter", "adapter", True),
        ("4-bit base", "base", False),
        ("Weights and optimizer", "optimizer", False),
    )
    for head, name, is_open in groups:
        if _has(name):
            with st.expander(head, expanded=is_open):
                found |= fields.group(name)
    with st.expander("Several ranks", expanded=found["sharding"] != "none"):
        found |= fields.ranks(network=False)
    with st.expander("Attention"):
        found |= fields.group("attention", leave_out=("device",))
    if found["origin"] != UPLOAD:
        with st.expander("Look-up"):
            found |= fields.look_up()
    return _asked(file)


@contextmanager
def _sentence() -> Iterator[None]:
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall", key="sentence"):
        yield


def _model(word: str) -> None:
    """The field of the model behind `word`, or the name of the file that it is."""
    found = values()
    if found["origin"] == UPLOAD:
        widgets.words(word, name=fields.config_name() or "a config.json")
    else:
        widgets.words(word)
        found["model"] = fields.model(width=270)


def _asked(file: "UploadedFile | None") -> Asked:
    return fields.look_up_model(settle(), file, uploaded=values()["origin"] == UPLOAD)


def _has(group: Group) -> bool:
    """Whether a method that is asked reads the options of this group."""
    readers = {"adapter": {"lora", "qlora"}, "base": {"qlora"}}
    return group not in readers or bool(readers[group] & set(values()["methods"]))


def _settings(leave_out: Collection[str], *, with_methods: bool = False) -> "UploadedFile | None":
    """Every option but some, in columns; the file that was chosen as the model."""
    found, file = values(), None
    with st.expander("All settings", key="settings"):
        left, middle, right = st.columns(3, gap="medium")
        with left:
            found["origin"] = fields.origin()
            file = fields.config_json() if found["origin"] == UPLOAD else None
        with middle:
            found["trainer"] = fields.trainer()
        with right:
            if with_methods:
                found["methods"] = fields.methods()
        left, middle, right = st.columns(3, gap="medium")
        with left:
            _group("Batch and length", "batch", leave_out)
        with middle:
            _group("Adapter", "adapter", leave_out)
            _group("4-bit base", "base", leave_out)
        with right:
            _group("Weights and optimizer", "optimizer", leave_out)
            if "sharding" not in leave_out:
                widgets.head("Several ranks")
                found |= fields.ranks(network=True)
            _group("Attention and device", "attention", leave_out)
            widgets.head("Answer and look-up")
            found |= fields.engine()
            if found["origin"] != UPLOAD:
                found |= fields.look_up()
    return file


def _group(head: str, name: Group, leave_out: Collection[str]) -> None:
    if _has(name):
        widgets.head(head)
        values().update(fields.group(name, leave_out=leave_out))
