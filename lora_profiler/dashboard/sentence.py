"""The question as one sentence, and all its settings behind one click: what Predict asks."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import streamlit as st

from lora_profiler.dashboard import dropped, fields, widgets
from lora_profiler.dashboard.fields import Asked
from lora_profiler.dashboard.remembered import UPLOAD, settle, values

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator
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
        with st.expander("All settings", key="settings"):
            left, middle, right = _columns()
            with left:
                found["origin"], file = _origin()
            with middle:
                found["trainer"] = fields.trainer()
            with right:
                found["methods"] = fields.methods()
            _settings(_SIZES)
        dropped.field()
    return fields.look_up_model(settle(), file, uploaded=found["origin"] == UPLOAD)


@contextmanager
def _sentence() -> Iterator[None]:
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall", key="sentence"):
        yield


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
    return _set(leave_out=_SIZES)


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
    return _set(leave_out=(*chosen, *_SIZES))


def _model(word: str) -> None:
    """The field of the model behind `word`, or the name of the file that it is."""
    found = values()
    if found["origin"] == UPLOAD:
        widgets.words(word, name=fields.config_name() or "a config.json")
    else:
        widgets.words(word)
        found["model"] = fields.model(width=270)


def _set(*, leave_out: Collection[str]) -> Asked:
    """All settings of a page whose sentence has the methods, but for some options."""
    found = values()
    with st.expander("All settings", key="settings"):
        left, middle, _ = _columns()
        with left:
            found["origin"], file = _origin()
        with middle:
            found["trainer"] = fields.trainer()
        _settings(leave_out)
    return fields.look_up_model(settle(), file, uploaded=found["origin"] == UPLOAD)


def _columns() -> "Sequence[DeltaGenerator]":
    return st.columns(3, gap="medium")


def _origin() -> "tuple[str, UploadedFile | None]":
    origin = fields.origin()
    return origin, fields.config_json() if origin == UPLOAD else None


def _settings(leave_out: Collection[str]) -> None:
    """Every option but some, in columns."""
    found = values()
    asked = set(found["methods"])
    left, middle, right = _columns()
    with left:
        widgets.head("Batch and length")
        found |= fields.group("batch", leave_out=leave_out)
    with middle:
        if asked & {"lora", "qlora"}:
            widgets.head("Adapter")
            found |= fields.group("adapter", leave_out=leave_out)
        if "qlora" in asked:
            widgets.head("4-bit base")
            found |= fields.group("base", leave_out=leave_out)
    with right:
        widgets.head("Weights and optimizer")
        found |= fields.group("optimizer", leave_out=leave_out)
        if "sharding" not in leave_out:
            widgets.head("Several ranks")
            found |= fields.ranks(network=True)
        widgets.head("Attention and device")
        found |= fields.group("attention", leave_out=leave_out)
        widgets.head("Answer and look-up")
        found |= fields.engine()
        if found["origin"] != UPLOAD:
            found |= fields.look_up()
