"""The fields of a question, one function each, with the same options as the command line's. Each
keeps what it says among `remembered.values`."""

import math
from collections.abc import Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

import streamlit as st
from streamlit.runtime.uploaded_file_manager import UploadedFile

from lora_profiler.dashboard import remembered
from lora_profiler.dashboard.answered import published_model, uploaded_model
from lora_profiler.dashboard.link import mark_changed
from lora_profiler.dashboard.question import (
    METHODS,
    MOST,
    NUMBERS,
    SETUP_OPTIONS,
    Question,
    about_of,
    defaults_by_method,
)
from lora_profiler.dashboard.remembered import BY_NAME, UPLOAD, values
from lora_profiler.dashboard.serving import UPLOAD_MIB
from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.catalog import bundled_gpus
from lora_profiler.facts.stacks import CHECKPOINT_DTYPE, GUIDE, find_stack, trainers
from lora_profiler.planning.engine import ENGINES
from lora_profiler.planning.placement import LINKS
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.option import MAX_SIZE, Option
from lora_profiler.question.workload import DEEPSPEED_ZERO, FLAT, FULLY_SHARDED
from lora_profiler.report import labels

_TARGETS = ("all-linear", "default", "attention", "none")
_CONFIG = "config_json"
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


def origin() -> None:
    chosen = st.segmented_control(
        "Model", (BY_NAME, UPLOAD), **remembered.kept("origin"), required=True
    )
    values()["origin"] = chosen or BY_NAME


def config_json() -> UploadedFile | None:
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


def look_up_model(question: Question, file: UploadedFile | None, *, uploaded: bool) -> Inputs:
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


# --- the sentence ---------------------------------------------------------------------------------


def methods(label: LabelVisibility = "visible") -> None:
    chosen = st.pills(
        "Methods",
        METHODS,
        selection_mode="multi",
        format_func=labels.METHOD_LABELS.__getitem__,
        help="Compared on this page. Without a choice: full and LoRA.",
        label_visibility=label,
        **remembered.kept("methods"),
    )
    values()["methods"] = remembered.ordered_methods(chosen)


def about() -> None:
    """The method that the page is about, among those asked."""
    if values()["about"] is None:
        values()["about"] = about_of(values()["methods"])
    values()["about"] = st.selectbox(
        "Method",
        METHODS,
        **remembered.kept("about") | {"on_change": remembered.choose_method},
        format_func=labels.METHOD_LABELS.__getitem__,
        label_visibility="collapsed",
        width=105,
    )


def size(name: str, width: int) -> None:
    values()[name] = _number(SETUP_OPTIONS[name], label_visibility="collapsed", width=width)


def trainer(label: LabelVisibility = "collapsed") -> None:
    values()["trainer"] = st.selectbox(
        "Trainer",
        remembered.with_linked("trainer", [name for name in trainers() if name != GUIDE]),
        index=None,
        **remembered.kept("trainer"),
        placeholder="any trainer",
        format_func=_trainer_name,
        label_visibility=label,
        width="stretch" if label == "visible" else 190,
        help="Its defaults hold for every setting that you leave open.",
    )


def _trainer_name(name: str) -> str:
    """'TRL: SFTTrainer', 'LitGPT: finetune'."""
    stack = find_stack(name)
    return f"{stack.library}: {name}" if stack.library else stack.title.removeprefix("a ")


def model() -> None:
    text = st.text_input(
        "Model's name",
        **remembered.kept("model"),
        placeholder="qwen2.5 7b, or any hub id",
        label_visibility="collapsed",
        width=270,
    )
    values()["model"] = text.strip() or Question().model


def gpu() -> None:
    keys = [gpu.key for gpu in bundled_gpus() if gpu.usable_bytes is not None]
    names = {gpu.key: gpu.name for gpu in bundled_gpus()} | {"auto": "this machine's GPU"}
    values()["gpu"] = st.selectbox(
        "GPU",
        remembered.with_linked("gpu", [*keys, "auto"]),
        index=None,
        **remembered.kept("gpu"),
        placeholder="no GPU",
        format_func=lambda key: str(names.get(key, key)).removeprefix("NVIDIA GeForce "),
        label_visibility="collapsed",
        width=200,
        help="Any other size: GPU memory, in the settings.",
    )


def gpu_memory() -> None:
    st.text_input(
        "GPU memory",
        key="gpu_memory",
        placeholder="24GiB",
        on_change=_take_memory,
        help="A GPU of this size, in place of a named one.",
    )


def _take_memory() -> None:
    size = st.session_state["gpu_memory"].strip().removeprefix("custom:")
    st.session_state["gpu_memory"] = ""
    if size:
        remembered.change_one("gpu", f"custom:{size}")


def of_run(
    name: str,
    label: str,
    width: int | Literal["stretch"] = "stretch",
    visibility: LabelVisibility = "visible",
) -> None:
    bounds = NUMBERS[name]
    looks: dict[str, Any] = {"min_value": 1, "max_value": int(bounds.most), "step": 1}
    if not bounds.is_whole:
        least = 0.0 if bounds.may_be_zero else 1e-3
        looks = {"min_value": least, "max_value": bounds.most, "step": 1.0, "format": "%g"}
    if bounds.may_be_zero:
        looks["value"] = None
    values()[name] = st.number_input(
        label,
        placeholder="none",
        label_visibility=visibility,
        width=width,
        **looks,
        **remembered.kept(name),
    )


# --- the options of a setup -----------------------------------------------------------------------


def option(name: str) -> None:
    """The widget of an option. Where the methods have different defaults it begins empty, and says
    which each has, for which it needs the whole width."""
    option = SETUP_OPTIONS[name]
    own = _own_defaults(option)
    remembered.begin_anew(name, "by method" if own else option.kind)
    with st.container(key=f"stacked-{name}") if own else nullcontext():
        values()[name] = _widget(option, own)


def _widget(option: Option, own: str) -> Any:
    if option.kind == "choice" or (own and option.kind == "switch"):
        kept = remembered.kept(option.name)
        choices: tuple[Any, ...] = option.choices or (True, False)
        looks: dict[str, Any] = {"index": None, "placeholder": own} if own else {}
        return st.selectbox(
            label_of(option), choices, help=_tip(option), format_func=_said, **looks, **kept
        )
    if option.kind == "switch":
        return st.toggle(label_of(option), help=_tip(option), **remembered.kept(option.name))
    if option.kind == "text":
        return _text(option) if remembered.is_text_field(option) else _suggested(option)
    return _number(option)


def _own_defaults(option: Option) -> str:
    """'full off, LoRA on': what is not one default for all methods that are asked; else ''."""
    own = values()
    every = defaults_by_method(own["model"], own["trainer"], own["methods"])
    of = every.get(option.name, {})
    by_value: dict[Any, list[str]] = {}
    for method, value in of.items():
        by_value.setdefault(value, []).append(labels.METHOD_LABELS[method])
    if set(by_value) == {CHECKPOINT_DTYPE}:
        return "as the checkpoint"
    if len(by_value) < 2:
        return ""
    return ", ".join(f"{'/'.join(names)} {_said(value)}" for value, names in by_value.items())


def _said(value: Any) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def label_of(option: Option) -> str:
    return option.declared.label or option.name.replace("_", " ").capitalize()


def _tip(option: Option) -> str | None:
    tip = option.declared.tip
    return (option.declared.help if tip is None else tip) or None


def _number(option: Option, **more: Any) -> Any:
    declared, own = option.declared, _own_defaults(option)
    looks: dict[str, Any] = {"min_value": 1, "max_value": MAX_SIZE, "step": 1}
    if option.kind == "number":
        most, step = float(MOST), 1.0
        if declared.below is not None:
            most, step = math.nextafter(declared.below, 0.0), 0.05
        looks = {"min_value": 0.0, "max_value": most, "step": step, "format": "%g"}
    if option.default is None or own:
        said = own or declared.placeholder or declared.default_text
        looks |= {"value": None, "placeholder": said}
    return st.number_input(
        label_of(option), help=_tip(option), **looks, **remembered.kept(option.name), **more
    )


def _text(option: Option) -> str | None:
    text: str = st.text_input(
        label_of(option),
        placeholder=option.declared.placeholder,
        help=_tip(option),
        **remembered.kept(option.name),
    )
    return text.strip() or None


def _suggested(option: Option) -> str:
    text: str | None = st.selectbox(
        label_of(option),
        remembered.with_linked(option.name, _TARGETS),
        **remembered.kept(option.name),
        accept_new_options=True,
        help=_tip(option),
    )
    return text or option.default


_OF_SHARDINGS: Mapping[str, Collection[str]] = {
    "reduce_bucket_size": DEEPSPEED_ZERO,
    "offload_optimizer_device": DEEPSPEED_ZERO,
    "offload_param_device": DEEPSPEED_ZERO,
    "use_orig_params": FLAT,
    "context_parallel_size": ("fsdp",),
    "offload_params": FULLY_SHARDED,
}
"""Options that are asked beside the number of ranks, and under which sharding."""


def ranks(*, network: bool) -> None:
    option("sharding")
    sharding = values()["sharding"]
    if sharding == "none":
        values().update(world_size=1, interconnect=None)
        return
    own = remembered.kept("world_size")
    least = 1 if sharding in DEEPSPEED_ZERO else 2
    st.session_state[own["key"]] = max(least, st.session_state[own["key"]])
    values()["world_size"] = st.number_input(
        label_of(SETUP_OPTIONS["world_size"]), least, MAX_SIZE, **own
    )
    for name, shardings in _OF_SHARDINGS.items():
        if sharding in shardings:
            option(name)
    if network:
        values()["interconnect"] = st.selectbox(
            "Interconnect",
            remembered.with_linked("interconnect", list(LINKS)),
            index=None,
            **remembered.kept("interconnect"),
            accept_new_options=True,
            placeholder="the GPU's, or 25GB/s",
            help="The slowest link among the ranks.",
        )


def engine() -> None:
    says = "auto takes a compiled profile, else the rules. This page traces nothing."
    kept = remembered.kept("engine")
    values()["engine"] = st.selectbox("Engine", ENGINES, help=says, **kept)


def look_up() -> None:
    revision = st.text_input(
        "Revision", help="Branch, tag or commit on the hub.", **remembered.kept("revision")
    )
    values()["revision"] = revision.strip() or "main"
    values()["offline"] = st.toggle("Never ask the hub", **remembered.kept("offline"))
