"""The question as widgets: seeded by the link, grouped as people think of them, the same options as
the command line's."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from lora_profiler.catalog import bundled_gpus, bundled_models
from lora_profiler.dashboard import widgets
from lora_profiler.dashboard.link import changed_here
from lora_profiler.dashboard.models import published_model, uploaded_model
from lora_profiler.dashboard.question import (
    METHODS,
    MOST,
    OWN_NAMES,
    SETUP_OPTIONS,
    Question,
    completed,
    defaults_of,
)
from lora_profiler.dashboard.settings import UPLOAD_MIB
from lora_profiler.errors import LoraProfilerError
from lora_profiler.model_spec import ModelSpec
from lora_profiler.option import MAX_SIZE, Group, Option
from lora_profiler.planning.engine import ENGINES
from lora_profiler.planning.network import LINKS
from lora_profiler.planning.setups import DEFAULTS
from lora_profiler.report import labels
from lora_profiler.stacks import TRAINERS, find_stack
from lora_profiler.workload import OPTIONS, Method

BY_NAME, UPLOAD = "By name", "A config.json"
_TARGETS = ("all-linear", "default", "attention")
_KEY = "ask."
_DECIDING = ("methods", "trainer", "optimizer")
"""Widgets that decide the defaults of others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the widgets ask. `model` is None where there is none, and `refusal` says why unless a
    file is still waited for."""

    question: Question
    model: ModelSpec | None
    refusal: str | None
    uploaded: bool


# --- what is remembered ---------------------------------------------------------------------------


def seed(asked: Question, complaints: Sequence[str] = ()) -> None:
    """Sets every widget to `asked`, on whichever page they are drawn next; `complaints` are shown
    until it changes."""
    state = st.session_state
    state["question"], state["first"], state["complaints"] = asked, None, tuple(complaints)
    state["linked"], state["remembered"] = _values(asked), _values(asked)
    for key in [key for key in state if str(key).startswith(_KEY)]:
        del state[key]


def question() -> Question:
    """What is asked now."""
    asked: Question = st.session_state["question"]
    return asked


def _values(asked: Question) -> dict[str, Any]:
    own = {name: getattr(asked, name) for name in OWN_NAMES}
    return {"origin": BY_NAME, **own, **asked.options}


def _kept(name: str) -> dict[str, Any]:
    """What every widget of the question is given: its key, whose state begins with what is
    remembered."""
    key = _KEY + name
    if key not in st.session_state:
        value = st.session_state["remembered"][name]
        st.session_state[key] = (
            list(value)
            if isinstance(value, tuple)
            else ""
            if value is None and _is_text_field(SETUP_OPTIONS.get(name))
            else value
        )
    return {"key": key, "on_change": _fill if name in _DECIDING else changed_here}


def _fill() -> None:
    """Sets every option that nobody has set to its default, which is another now."""
    changed_here()
    state, values = st.session_state, st.session_state["remembered"]
    before = defaults_of(values["trainer"], values)
    chosen: dict[str, Any] = {"methods": _methods(state[_KEY + "methods"])}
    values["optimizer"] = state.get(_KEY + "optimizer", values["optimizer"])
    if values["optimizer"] != before["optimizer"]:
        chosen["optimizer"] = values["optimizer"]
    after = defaults_of(state[_KEY + "trainer"], chosen)
    for name in SETUP_OPTIONS:
        if values[name] == before[name]:
            values[name] = after[name]
            state.pop(_KEY + name, None)


# --- the widgets ----------------------------------------------------------------------------------


def ask(*, to_measure: bool = False) -> Asked:
    """Draws the whole question in the place where it is called; `to_measure` without what a real
    run does not ask about."""
    values: dict[str, Any] = st.session_state["remembered"]
    values["origin"] = st.segmented_control(
        "Model", (BY_NAME, UPLOAD), **_kept("origin"), required=True
    )
    uploaded = None
    if values["origin"] == UPLOAD:
        uploaded = st.file_uploader(
            "A model's config.json",
            type="json",
            on_change=changed_here,
            key="config_json",
            max_upload_size=UPLOAD_MIB,
        )
    else:
        values["model"] = _model()
    values["trainer"] = _trainer()
    chosen = st.pills(
        "Methods",
        METHODS,
        selection_mode="multi",
        format_func=labels.METHOD_LABELS.__getitem__,
        help="Several stand side by side; with none chosen, full and LoRA do.",
        **_kept("methods"),
    )
    values["methods"] = _methods(chosen)
    if not to_measure:
        values["gpu"] = _card()
    asked = set(values["methods"])
    with st.expander("Batch and length", expanded=True):
        values |= _group("batch")
    if asked & {"lora", "qlora"}:
        with st.expander("Adapter", expanded=True):
            values |= _group("adapter")
    if "qlora" in asked:
        with st.expander("4-bit base"):
            values |= _group("base")
    with st.expander("Weights and optimizer"):
        values |= _group("optimizer")
    with st.expander("Several ranks", expanded=values["sharding"] != "none"):
        values |= _ranks(network=not to_measure)
    with st.expander("Attention" if to_measure else "Attention and device"):
        values |= _group("attention", leave_out="device" if to_measure else "")
    by_name = values["origin"] == BY_NAME
    if by_name or not to_measure:
        with st.expander("Look-up" if to_measure else "Answer and look-up"):
            values |= {} if to_measure else _engine()
            values |= _look_up() if by_name else {}
    current = st.session_state["question"] = _question(values)
    st.session_state["first"] = st.session_state["first"] or current
    is_upload = values["origin"] == UPLOAD
    if is_upload and uploaded is None:
        return Asked(question=current, model=None, refusal=None, uploaded=True)
    try:
        if uploaded is not None:
            model = uploaded_model(uploaded.name, uploaded.getvalue())
        else:
            with st.spinner("Looking the model up", show_time=False):
                model = published_model(current.model, current.revision, current.offline)
    except LoraProfilerError as e:
        return Asked(question=current, model=None, refusal=str(e), uploaded=is_upload)
    return Asked(question=current, model=model, refusal=None, uploaded=is_upload)


def tell(asked: Asked) -> None:
    """Says in the place where it is called what the link asked in vain, and why there is no
    model."""
    if asked.question == st.session_state["first"]:
        for text in st.session_state["complaints"]:
            widgets.caution(f"Passed over in the link: {text}")
    if asked.refusal is not None:
        widgets.problem(asked.refusal, heading="There is no such model here")
    elif asked.model is None:
        widgets.note(
            "Choose a file on the left: the config.json of any transformers model.",
            heading="A config.json is needed",
        )


def _question(values: Mapping[str, Any]) -> Question:
    """The question of the values; options that no method reads, whose widgets are not shown, keep
    their defaults."""
    options = completed(values["trainer"], {name: values[name] for name in DEFAULTS})
    own = {name: values[name] for name in OWN_NAMES}
    return Question(options=options, **own)


def _methods(chosen: Sequence[str]) -> tuple[Method, ...]:
    return tuple(method for method in METHODS if method in chosen) or DEFAULTS["methods"]


def _trainer() -> str | None:
    return st.selectbox(
        "Trainer",
        _with_linked("trainer", TRAINERS),
        index=None,
        **_kept("trainer"),
        placeholder="A bare loop",
        format_func=lambda name: f"{name} · {find_stack(name).title}",
        help="Sets what nobody has set to its own defaults, and says what its loop holds.",
    )


def _model() -> str:
    names = [name for entry in bundled_models() for name in (entry.id, *entry.aliases)]
    chosen = st.selectbox(
        "Model's name",
        _with_linked("model", names),
        **_kept("model"),
        accept_new_options=True,
        placeholder="Search, or type a hub id",
        label_visibility="collapsed",
        help=(
            "One of the bundled models, or any hub id such as organisation/name: its config.json is"
            " fetched then."
        ),
    )
    return chosen or Question().model


def _card() -> str | None:
    keys = [card.key for card in bundled_gpus() if card.usable_bytes is not None]
    names = {card.key: f"{card.key} · {card.name}" for card in bundled_gpus()}
    return st.selectbox(
        "Card",
        _with_linked("gpu", [*keys, "auto"]),
        index=None,
        **_kept("gpu"),
        accept_new_options=True,
        placeholder="None: search, or type custom:24GiB",
        format_func=lambda key: names.get(key, key),
        help=(
            "Whether it fits, the largest batch and the longest sequence. auto asks the driver of"
            " this machine."
        ),
    )


def _with_linked(name: str, options: Sequence[str]) -> list[str]:
    """The options, and what a link named beside them."""
    linked = st.session_state["linked"][name]
    return list(options) if linked is None or linked in options else [linked, *options]


# --- the options of a setup -----------------------------------------------------------------------


def _group(group: Group, *, leave_out: str = "") -> dict[str, Any]:
    """The widgets of a group, those in columns first, and what they say by option."""
    options = [
        option
        for option in OPTIONS
        if option.name in SETUP_OPTIONS
        and option.declared.group == group
        and option.name != leave_out
    ]
    values: dict[str, Any] = {}
    if any(option.declared.column for option in options):
        for side, place in zip(("left", "right"), st.columns(2), strict=True):
            with place:
                values |= {o.name: _widget(o) for o in options if o.declared.column == side}
    return values | {o.name: _widget(o) for o in options if not o.declared.column}


def _widget(option: Option) -> Any:
    if option.kind == "choice":
        return st.selectbox(_label(option), option.choices, help=_tip(option), **_kept(option.name))
    if option.kind == "switch":
        return st.toggle(_label(option), help=_tip(option), **_kept(option.name))
    if option.kind == "text":
        return _text(option) if _is_text_field(option) else _suggested(option)
    return _number(option)


def _label(option: Option) -> str:
    return option.declared.label or option.name.replace("_", " ").capitalize()


def _tip(option: Option) -> str | None:
    """What is said beside the label: the command line's help where nothing else is declared."""
    tip = option.declared.tip
    return (option.declared.help if tip is None else tip) or None


def _number(option: Option) -> Any:
    declared = option.declared
    looks: dict[str, Any] = {"min_value": 1, "max_value": MAX_SIZE, "step": 1}
    if option.kind == "number":
        most, step = float(MOST), 1.0
        if declared.below is not None:
            most, step = math.nextafter(declared.below, 0.0), 0.05
        looks = {"min_value": 0.0, "max_value": most, "step": step, "format": "%g"}
    if option.default is None:
        looks |= {"value": None, "placeholder": declared.placeholder or declared.default_text}
    return st.number_input(_label(option), help=_tip(option), **looks, **_kept(option.name))


def _is_text_field(option: Option | None) -> bool:
    """Whether it is text that may be left empty."""
    return option is not None and option.kind == "text" and option.default is None


def _text(option: Option) -> str | None:
    """A list as text; None where nothing is written."""
    text: str = st.text_input(
        _label(option),
        placeholder=option.declared.placeholder,
        help=_tip(option),
        **_kept(option.name),
    )
    return text.strip() or None


def _suggested(option: Option) -> str:
    """Text that begins with some suggestions."""
    text: str | None = st.selectbox(
        _label(option),
        _with_linked(option.name, _TARGETS),
        **_kept(option.name),
        accept_new_options=True,
        help=_tip(option),
    )
    return text or option.default


def _ranks(*, network: bool) -> dict[str, Any]:
    """What ranks share, and only then how many there are, and what links them."""
    sharding = _widget(SETUP_OPTIONS["sharding"])
    if sharding == "none":
        return {"sharding": sharding, "world_size": 1, "interconnect": None}
    kept = _kept("world_size")
    st.session_state[kept["key"]] = max(2, st.session_state[kept["key"]])
    world_size = st.number_input(_label(SETUP_OPTIONS["world_size"]), 2, MAX_SIZE, **kept)
    values: dict[str, Any] = {"sharding": sharding, "world_size": world_size}
    if network:
        values["interconnect"] = st.selectbox(
            "Interconnect",
            _with_linked("interconnect", list(LINKS)),
            index=None,
            **_kept("interconnect"),
            accept_new_options=True,
            placeholder="None: search, or type 25GB/s",
            help="The slowest link among the ranks.",
        )
    return values


def _engine() -> dict[str, Any]:
    says = (
        "auto: a compiled profile where there is one, else the rules. Nothing is traced in this"
        " window."
    )
    return {"engine": st.selectbox("Engine", ENGINES, help=says, **_kept("engine"))}


def _look_up() -> dict[str, Any]:
    revision = st.text_input(
        "Revision", help="Branch, tag or commit on the hub.", **_kept("revision")
    )
    return {
        "revision": revision.strip() or "main",
        "offline": st.toggle("Never ask the hub", **_kept("offline")),
    }
