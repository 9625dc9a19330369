"""The question of a page: as one sentence with all its settings behind one click, in a column, or
as a trainer's file: the fields take its values, and what of it nothing is made of is listed."""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import streamlit as st

from lora_profiler.dashboard import fields, take_along, widgets
from lora_profiler.dashboard.answered import published_model, workloads
from lora_profiler.dashboard.fields import Inputs
from lora_profiler.dashboard.link import mark_changed
from lora_profiler.dashboard.question import SETUP_OPTIONS, Question, about_of, completed
from lora_profiler.dashboard.remembered import BY_NAME, UPLOAD, change, question, settle, values
from lora_profiler.dashboard.settings import UPLOAD_MIB
from lora_profiler.errors import LoraProfilerError
from lora_profiler.model_spec import ModelSpec
from lora_profiler.option import Group, flag
from lora_profiler.planning.setups import DEFAULTS, written_options
from lora_profiler.planning.setups import workloads as planning_workloads
from lora_profiler.report.trainer_file import counts_text
from lora_profiler.trainer_files.reading import read_content
from lora_profiler.trainer_files.resolving import resolve_images
from lora_profiler.trainer_files.trainer_file import TrainerFile, gaps, on_model

if TYPE_CHECKING:
    from streamlit.runtime.uploaded_file_manager import UploadedFile


_SIZES = ("batch_size", "seq_len")


def ask() -> Inputs:
    """Draws "Fine-tune [model] with [method] on [card], [batch] x [length] tokens" in the place
    where it is called, and under it every other option."""
    remembered = values()
    with _sentence():
        _model("Fine-tune")
        widgets.words("with")
        remembered["about"] = fields.about()
        widgets.words("on")
        remembered["gpu"] = fields.card(width=265, label="collapsed")
        widgets.words("at")
        remembered["batch_size"] = fields.size("batch_size", 64)
        widgets.words("×")
        remembered["seq_len"] = fields.size("seq_len", 92)
        widgets.words("tokens")
    with st.container(horizontal=True, gap="small", key="settings_row"):
        file = _settings(_SIZES, with_methods=True)
        _file_field()
    return _inputs(file)


def ask_between() -> Inputs:
    """Draws "Between [methods] of [model] on [card]" and the options but for batch and length,
    which Crossover asks about all of."""
    remembered = values()
    with _sentence():
        widgets.words("Between")
        remembered["methods"] = fields.methods(label="collapsed")
        _model("of")
        widgets.words("on")
        remembered["gpu"] = fields.card(width=265, label="collapsed")
    return _inputs(_settings(_SIZES))


def ask_plan(form: Callable[[], None], chosen: Collection[str]) -> Inputs:
    """Draws "Train [model] by [methods] at [length] tokens", what `form` draws, and the options but
    for those `chosen` by the plan."""
    remembered = values()
    with _sentence():
        _model("Train")
        widgets.words("by")
        remembered["methods"] = fields.methods(label="collapsed")
        widgets.words("at")
        remembered["seq_len"] = fields.size("seq_len", 92)
        widgets.words("tokens a sequence")
    form()
    return _inputs(_settings((*chosen, *_SIZES)))


def ask_model_in_column() -> "UploadedFile | None":
    """Draws the model, the trainer and the methods in a column; the file that is the model."""
    remembered = values()
    remembered["origin"] = fields.origin()
    file = None
    if remembered["origin"] == UPLOAD:
        file = fields.config_json()
    else:
        remembered["model"] = fields.model()
    remembered["trainer"] = fields.trainer()
    remembered["methods"] = fields.methods()
    return file


def ask_options_in_column(file: "UploadedFile | None") -> Inputs:
    """Draws the options below as groups, but for what a real run does not ask about: the card, the
    link between ranks, the engine."""
    remembered = values()
    groups: tuple[tuple[str, Group, bool], ...] = (
        ("Batch and length", "batch", True),
        ("Adapter", "adapter", True),
        ("4-bit base", "base", False),
        ("Weights and optimizer", "optimizer", False),
    )
    for head, name, is_open in groups:
        if _has(name):
            with st.expander(head, expanded=is_open):
                remembered |= fields.group(name)
    with st.expander("Several ranks", expanded=remembered["sharding"] != "none"):
        remembered |= fields.ranks(network=False)
    with st.expander("Attention"):
        remembered |= fields.group("attention", leave_out=("device",))
    if remembered["origin"] != UPLOAD:
        with st.expander("Look-up"):
            remembered |= fields.look_up()
    return _inputs(file)


@contextmanager
def _sentence() -> Iterator[None]:
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall", key="sentence"):
        yield


def _model(word: str) -> None:
    """The field of the model behind `word`, or the name of the file that it is."""
    remembered = values()
    if remembered["origin"] == UPLOAD:
        widgets.words(word, name=fields.config_name() or "a config.json")
    else:
        widgets.words(word)
        remembered["model"] = fields.model(width=270)


def _inputs(file: "UploadedFile | None") -> Inputs:
    return fields.look_up_model(settle(), file, uploaded=values()["origin"] == UPLOAD)


def _has(group: Group) -> bool:
    """Whether a method that is asked reads the options of this group."""
    readers = {"adapter": {"lora", "qlora"}, "base": {"qlora"}}
    return group not in readers or bool(readers[group] & set(values()["methods"]))


def _settings(leave_out: Collection[str], *, with_methods: bool = False) -> "UploadedFile | None":
    """Every option but some, in columns; the file that was chosen as the model."""
    remembered, file = values(), None
    with st.expander("All settings", key="settings"):
        left, middle, right = st.columns(3, gap="medium")
        with left:
            remembered["origin"] = fields.origin()
            file = fields.config_json() if remembered["origin"] == UPLOAD else None
        with middle:
            remembered["trainer"] = fields.trainer()
        with right:
            if with_methods:
                remembered["methods"] = fields.methods()
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
                remembered |= fields.ranks(network=True)
            _group("Attention and device", "attention", leave_out)
            widgets.head("Answer and look-up")
            remembered |= fields.engine()
            if remembered["origin"] != UPLOAD:
                remembered |= fields.look_up()
    return file


def _group(head: str, name: Group, leave_out: Collection[str]) -> None:
    if _has(name):
        widgets.head(head)
        values().update(fields.group(name, leave_out=leave_out))


# --- a trainer's file dropped as the question -----------------------------------------------------

_KEY, _READ = "dropped", "dropped.read"
TYPES = ("yaml", "yml", "json", "ipynb", "py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """`lines` say what of a file is not in the question, `refusal` why there is none of it."""

    head: str
    lines: tuple[str, ...] = ()
    refusal: str = ""


def _file_field() -> None:
    """Behind a button: where a file is dropped."""
    with st.popover("From a file"):
        st.file_uploader(
            "A trainer's file: axolotl, LLaMA-Factory, torchtune, TRL, Unsloth",
            type=list(TYPES),
            key=_KEY,
            on_change=_take,
            max_upload_size=UPLOAD_MIB,
        )


def show_file_reading() -> None:
    """How the file was read, as long as it is there."""
    read: Dropped | None = st.session_state.get(_READ)
    if read is None:
        return
    if read.refusal:
        widgets.problem(read.refusal, heading=read.head)
    else:
        widgets.note(*read.lines, heading=read.head)


def _take() -> None:
    mark_changed()
    state, file = st.session_state, st.session_state[_KEY]
    state.pop(_READ, None)
    if file is None:
        return
    try:
        read = read_content(file.name, file.getvalue())
        requested, state[_READ] = dropped(read, question())
    except LoraProfilerError as e:
        state[_READ] = Dropped(head="This file is no question", refusal=str(e))
        return
    values()["origin"] = BY_NAME
    state.pop("ask.origin", None)
    take_along.prefer(read.framework)
    change(requested, about_of(requested.options["methods"]))


def dropped(file: TrainerFile, before: Question) -> tuple[Question, Dropped]:
    """The question of a file, on the card of the one `before`, whose model and sizes stand for
    those that the file leaves open. Raises UsageError for a file that contradicts itself."""
    revision = file.revision or "main"
    wanted = replace(before, model=file.model or before.model, revision=revision)
    model, file = None, resolve_images(file, None)  # the page traces nothing
    with suppress(LoraProfilerError):  # the page says that there is no such model
        model = published_model(wanted.model, wanted.revision, wanted.offline)
        file = on_model(file, model)
    open_ones = {n: before.options[n] for n in file.asks if n in SETUP_OPTIONS}
    own = {**open_ones, **file.completing(open_ones)}
    options = completed(file.stack, own)
    wanted = replace(wanted, trainer=file.stack, options=options)
    lines = [f"{gap.text}." for gap in gaps(file)]
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
        requested = planning_workloads(model, every, set(own), None, wanted.stack)
        made = workloads(model, replace(wanted, gpu=None))
    except LoraProfilerError:  # which the page says
        return []
    texts: dict[str, None] = {}
    for one, other in zip(requested, made, strict=True):
        has = written_options(other.setup)
        for name, value in written_options(one.setup).items():
            if has.get(name) != value:
                texts[f"{flag(name)[2:]} is {value} in the file, {has.get(name)} here."] = None
    return list(texts)
