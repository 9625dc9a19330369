"""The fields of a question, one function each, with the same options as the command line's."""

import math
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

import streamlit as st

from lora_profiler.catalog import bundled_gpus, bundled_models
from lora_profiler.dashboard import remembered, widgets
from lora_profiler.dashboard.answered import published_model, uploaded_model
from lora_profiler.dashboard.link import mark_changed
from lora_profiler.dashboard.question import (
    METHODS,
    MOST,
    NUMBERS,
    SETUP_OPTIONS,
    Question,
    about_of,
)
from lora_profiler.dashboard.remembered import BY_NAME, UPLOAD, values
from lora_profiler.dashboard.settings import UPLOAD_MIB
from lora_profiler.errors import LoraProfilerError
from lora_profiler.model_spec import ModelSpec
from lora_profiler.option import MAX_SIZE, Group, Option
from lora_profiler.planning.engine import ENGINES
from lora_profiler.planning.network import LINKS
from lora_profiler.report import labels
from lora_profiler.stacks import TRAINERS, find_stack
from lora_profiler.workload import DEEPSPEED_ZERO, FLAT, FULLY_SHARDED, OPTIONS, Method

if TYPE_CHECKING:
    from streamlit.runtime.uploaded_file_manager import UploadedFile

_TARGETS = ("all-linear", "default", "attention")
_CONFIG = "config_json"
Width = Literal["stretch"] | int
LabelVisibility = Literal["visible", "collapsed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What the widgets ask; `refusal` says why there is no `model`, unless a file is awaited."""

    question: Question
    model: ModelSpec | None
    refusal: str | None
    uploaded: bool

    @property
    def linked(self) -> Question | None:
        """What a link holds of it: nothing of a model that is a file."""
        return None if self.uploaded else self.question


# --- the model ------------------------------------------------------------------------------------


def origin() -> str:
    chosen = st.segmented_control(
        "Model", (BY_NAME, UPLOAD), **remembered.kept("origin"), required=True
    )
    return chosen or BY_NAME


def config_json() -> "UploadedFile | None":
    """The file that is the model where it does not come by its name."""
    return st.file_uploader(
        "A model's config.json",
        type="json",
        on_change=mark_changed,
        key=_CONFIG,
        max_upload_size=UPLOAD_MIB,
    )


def config_name() -> str:
    """Of the file that was chosen last; "" without one."""
    file = st.session_state.get(_CONFIG)
    return PurePath(file.name).stem if file is not None else ""


def look_up_model(question: Question, file: "UploadedFile | None", *, uploaded: bool) -> Inputs:
    """The model of `file` where it is to be uploaded, else of the name that is asked."""
    if uploaded and file is None:
        return Inputs(question=question, model=None, refusal=None, uploaded=True)
    try:
        if file is not None and uploaded:
            model = uploaded_model(file.name, file.getvalue())
        else:
            with st.spinner("Looking the model up", show_time=False):
                model = published_model(question.model, question.revision, question.offline)
    except LoraProfilerError as e:
        return Inputs(question=question, model=None, refusal=str(e), uploaded=uploaded)
    return Inputs(question=question, model=model, refusal=None, uploaded=uploaded)


def show_problems(inputs: Inputs) -> None:
    """Says what the link asked in vain, and why there is no model."""
    widgets.passed_over(remembered.complaints(), "in the link")
    if inputs.refusal is not None:
        widgets.problem(inputs.refusal, heading="There is no such model here")
    elif inputs.model is None:
        widgets.note(
            "Choose a file in the settings: the config.json of any transformers model.",
            heading="A config.json is needed",
        )


# --- one field each -------------------------------------------------------------------------------


def methods(label: LabelVisibility = "visible") -> tuple[Method, ...]:
    chosen = st.pills(
        "Methods",
        METHODS,
        selection_mode="multi",
        format_func=labels.METHOD_LABELS.__getitem__,
        help="Several stand side by side; with none chosen, full and LoRA do.",
        label_visibility=label,
        **remembered.kept("methods"),
    )
    return remembered.ordered_methods(chosen)


def about() -> Method:
    """The method that the page is about, among those asked."""
    if values()["about"] is None:
        values()["about"] = about_of(values()["methods"])
    chosen: Method = st.selectbox(
        "Method",
        METHODS,
        **remembered.kept("about") | {"on_change": remembered.choose_method},
        format_func=labels.METHOD_LABELS.__getitem__,
        label_visibility="collapsed",
        width=105,
    )
    return chosen


def size(name: str, width: int) -> Any:
    """One option of the sentence, whose words are its label."""
    return _number(SETUP_OPTIONS[name], label_visibility="collapsed", width=width)


def trainer() -> str | None:
    return st.selectbox(
        "Trainer",
        remembered.with_linked("trainer", TRAINERS),
        index=None,
        **remembered.kept("trainer"),
        placeholder="A bare loop",
        format_func=lambda name: f"{name} · {find_stack(name).title}",
        help="Sets what nobody has set to its own defaults, and says what its loop holds.",
    )


def model(width: Width = "stretch") -> str:
    names = [name for entry in bundled_models() for name in (entry.id, *entry.aliases)]
    chosen = st.selectbox(
        "Model's name",
        remembered.with_linked("model", names),
        **remembered.kept("model"),
        accept_new_options=True,
        placeholder="Search, or type a hub id",
        label_visibility="collapsed",
        width=width,
        help=(
            "One of the bundled models, or any hub id such as organisation/name: its config.json is"
            " fetched then."
        ),
    )
    return chosen or Question().model


def card(width: Width = "stretch", label: LabelVisibility = "visible") -> str | None:
    keys = [card.key for card in bundled_gpus() if card.usable_bytes is not None]
    names = {card.key: card.name for card in bundled_gpus()}
    return st.selectbox(
        "Card",
        remembered.with_linked("gpu", [*keys, "auto"]),
        index=None,
        **remembered.kept("gpu"),
        accept_new_options=True,
        placeholder="None; or custom:24GiB",
        format_func=lambda key: names.get(key, key),
        label_visibility=label,
        width=width,
        help=(
            "Whether it fits, the largest batch and the longest sequence. auto asks the driver of"
            " this machine."
        ),
    )


def run(*, with_price: bool) -> None:
    """The training whose time is told: tokens, epochs, and what an hour costs."""
    _of_run("millions", "Tokens, million", 1e-6, NUMBERS["tokens"].most / 1e6, 112)
    _of_run("epochs", "Epochs", 1e-3, NUMBERS["epochs"].most, 76)
    if with_price:
        _of_run("price", "Price an hour", 0.0, NUMBERS["price"].most, 104, value=None)


def _of_run(name: str, label: str, least: float, most: float, width: int, **more: Any) -> None:
    values()[name] = st.number_input(
        label,
        least,
        most,
        step=1.0,
        format="%g",
        placeholder="none",
        width=width,
        **remembered.kept(name),
        **more,
    )


# --- the options of a setup -----------------------------------------------------------------------


def group(name: Group, *, leave_out: Collection[str] = ()) -> dict[str, Any]:
    """The widgets of a group, those in columns first, and what they say by option."""
    options = [
        option
        for option in OPTIONS
        if option.name in SETUP_OPTIONS
        and option.declared.group == name
        and option.name not in leave_out
    ]
    values: dict[str, Any] = {}
    if {"left", "right"} <= {option.declared.column for option in options}:
        for side, place in zip(("left", "right"), st.columns(2), strict=True):
            with place:
                values |= {o.name: _widget(o) for o in options if o.declared.column == side}
    return values | {o.name: _widget(o) for o in options if o.name not in values}


def _widget(option: Option) -> Any:
    if option.kind == "choice":
        return st.selectbox(
            _label(option), option.choices, help=_tip(option), **remembered.kept(option.name)
        )
    if option.kind == "switch":
        return st.toggle(_label(option), help=_tip(option), **remembered.kept(option.name))
    if option.kind == "text":
        return _text(option) if remembered.is_text_field(option) else _suggested(option)
    return _number(option)


def _label(option: Option) -> str:
    return option.declared.label or option.name.replace("_", " ").capitalize()


def _tip(option: Option) -> str | None:
    """What is said beside the label: the command line's help where nothing else is declared."""
    tip = option.declared.tip
    return (option.declared.help if tip is None else tip) or None


def _number(option: Option, **more: Any) -> Any:
    declared = option.declared
    looks: dict[str, Any] = {"min_value": 1, "max_value": MAX_SIZE, "step": 1}
    if option.kind == "number":
        most, step = float(MOST), 1.0
        if declared.below is not None:
            most, step = math.nextafter(declared.below, 0.0), 0.05
        looks = {"min_value": 0.0, "max_value": most, "step": step, "format": "%g"}
    if option.default is None:
        looks |= {"value": None, "placeholder": declared.placeholder or declared.default_text}
    return st.number_input(
        _label(option), help=_tip(option), **looks, **remembered.kept(option.name), **more
    )


def _text(option: Option) -> str | None:
    """A list as text; None where nothing is written."""
    text: str = st.text_input(
        _label(option),
        placeholder=option.declared.placeholder,
        help=_tip(option),
        **remembered.kept(option.name),
    )
    return text.strip() or None


def _suggested(option: Option) -> str:
    """Text that begins with some suggestions."""
    text: str | None = st.selectbox(
        _label(option),
        remembered.with_linked(option.name, _TARGETS),
        **remembered.kept(option.name),
        accept_new_options=True,
        help=_tip(option),
    )
    return text or option.default


def ranks(*, network: bool) -> dict[str, Any]:
    """What ranks share, and only then how many there are, and what links them."""
    sharding = _widget(SETUP_OPTIONS["sharding"])
    if sharding == "none":
        return {"sharding": sharding, "world_size": 1, "interconnect": None}
    own = remembered.kept("world_size")
    least = 1 if sharding in DEEPSPEED_ZERO else 2
    st.session_state[own["key"]] = max(least, st.session_state[own["key"]])
    world_size = st.number_input(_label(SETUP_OPTIONS["world_size"]), least, MAX_SIZE, **own)
    values: dict[str, Any] = {"sharding": sharding, "world_size": world_size}
    if sharding in DEEPSPEED_ZERO:
        names = ("reduce_bucket_size", "offload_optimizer_device", "offload_param_device")
        values.update({name: _widget(SETUP_OPTIONS[name]) for name in names})
    if sharding in FLAT:
        values["use_orig_params"] = _widget(SETUP_OPTIONS["use_orig_params"])
    if sharding == "fsdp":
        values["context_parallel_size"] = _widget(SETUP_OPTIONS["context_parallel_size"])
    if sharding in FULLY_SHARDED:
        values["offload_params"] = _widget(SETUP_OPTIONS["offload_params"])
    if network:
        values["interconnect"] = st.selectbox(
            "Interconnect",
            remembered.with_linked("interconnect", list(LINKS)),
            index=None,
            **remembered.kept("interconnect"),
            accept_new_options=True,
            placeholder="None: search, or type 25GB/s",
            help="The slowest link among the ranks.",
        )
    return values


def engine() -> dict[str, Any]:
    says = (
        "auto: a compiled profile where there is one, else the rules. Nothing is traced in this"
        " window."
    )
    return {"engine": st.selectbox("Engine", ENGINES, help=says, **remembered.kept("engine"))}


def look_up() -> dict[str, Any]:
    revision = st.text_input(
        "Revision", help="Branch, tag or commit on the hub.", **remembered.kept("revision")
    )
    return {
        "revision": revision.strip() or "main",
        "offline": st.toggle("Never ask the hub", **remembered.kept("offline")),
    }
