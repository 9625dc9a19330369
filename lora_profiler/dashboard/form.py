"""The question as widgets: seeded by the link, grouped as people think of them, the same options as
the command line's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import streamlit as st

from lora_profiler.catalog import bundled_gpus, bundled_models
from lora_profiler.dashboard import widgets
from lora_profiler.dashboard.link import changed_here
from lora_profiler.dashboard.models import published_model, uploaded_model
from lora_profiler.dashboard.question import (
    BELOW_ONE,
    CHOICES,
    METHODS,
    MOST_ALPHA,
    OWN_NAMES,
    Question,
    idle_options,
)
from lora_profiler.dashboard.settings import UPLOAD_MIB
from lora_profiler.errors import LoraProfilerError
from lora_profiler.model_spec import ModelSpec
from lora_profiler.planning.network import LINKS
from lora_profiler.planning.setups import SetupOptions
from lora_profiler.report import labels
from lora_profiler.workload import MAX_SIZE

BY_NAME, UPLOAD = "By name", "A config.json"
_TARGETS = ("all-linear", "default", "attention")
_KEY = "ask."
_LISTS = ("layers_to_transform", "modules_to_save")
"""Text that may be left empty."""


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
    found: Question = st.session_state["question"]
    return found


def _values(asked: Question) -> dict[str, Any]:
    own = {name: getattr(asked, name) for name in OWN_NAMES}
    return {
        "origin": BY_NAME,
        **own,
        **{f.name: getattr(asked.options, f.name) for f in fields(SetupOptions)},
    }


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
            if value is None and name in _LISTS
            else value
        )
    return {"key": key, "on_change": changed_here}


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
    chosen = st.pills(
        "Methods",
        METHODS,
        selection_mode="multi",
        format_func=labels.METHOD_LABELS.__getitem__,
        help="Several stand side by side; with none chosen, full and LoRA do.",
        **_kept("methods"),
    )
    values["methods"] = (
        tuple(method for method in METHODS if method in chosen) or SetupOptions().methods
    )
    if not to_measure:
        values["gpu"] = _card()
    asked = set(values["methods"])
    with st.expander("Batch and length", expanded=True):
        values |= _batch()
    if asked & {"lora", "qlora"}:
        with st.expander("Adapter", expanded=True):
            values |= _adapter()
    if "qlora" in asked:
        with st.expander("4-bit base"):
            values |= _quantised()
    with st.expander("Weights and optimizer"):
        values |= _optimizer()
    with st.expander("Several ranks", expanded=values["sharding"] != "none"):
        values |= _ranks(network=not to_measure)
    with st.expander("Attention" if to_measure else "Attention and device"):
        values |= _attention(device=not to_measure)
    by_name = values["origin"] == BY_NAME
    if by_name or not to_measure:
        with st.expander("Look-up" if to_measure else "Answer and look-up"):
            values |= {} if to_measure else _engine()
            values |= _look_up() if by_name else {}
    found = st.session_state["question"] = _question(values)
    st.session_state["first"] = st.session_state["first"] or found
    is_upload = values["origin"] == UPLOAD
    if is_upload and uploaded is None:
        return Asked(question=found, model=None, refusal=None, uploaded=True)
    try:
        if uploaded is not None:
            model = uploaded_model(uploaded.name, uploaded.getvalue())
        else:
            with st.spinner("Looking the model up", show_time=False):
                model = published_model(found.model, found.revision, found.offline)
    except LoraProfilerError as e:
        return Asked(question=found, model=None, refusal=str(e), uploaded=is_upload)
    return Asked(question=found, model=model, refusal=None, uploaded=is_upload)


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
    idle = idle_options(values["methods"])
    options = SetupOptions(
        **{f.name: values[f.name] for f in fields(SetupOptions) if f.name not in idle}
    )
    own = {name: values[name] for name in OWN_NAMES}
    return Question(options=options, **own)


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


def _size(label: str, name: str, help: str | None = None, step: int = 1) -> int:
    size: int = st.number_input(label, 1, MAX_SIZE, step=step, help=help, **_kept(name))
    return size


def _choice(label: str, name: str, help: str | None = None) -> str:
    chosen: str = st.selectbox(label, CHOICES[name], help=help, **_kept(name))
    return chosen


def _batch() -> dict[str, Any]:
    left, right = st.columns(2)
    with left:
        batch_size = _size("Batch size", "batch_size", "Sequences in one micro-batch.")
    with right:
        accumulation = _size("Accumulation", "accumulation")
    seq_len = _size("Sequence length, tokens", "seq_len")
    packed = st.number_input(
        "Packed from sequences of, tokens",
        1,
        MAX_SIZE,
        value=None,
        step=1,
        placeholder="one sequence a row",
        help=(
            "Sequences of this length share each row; flash attention is then FlashAttention 2's"
            " for them."
        ),
        **_kept("packed"),
    )
    checkpointing = st.toggle(
        "Gradient checkpointing", **_kept("checkpointing"), help="Recompute each layer in backward."
    )
    return {
        "batch_size": batch_size,
        "seq_len": seq_len,
        "packed": packed,
        "accumulation": accumulation,
        "checkpointing": checkpointing,
    }


def _ranks(*, network: bool) -> dict[str, Any]:
    """What ranks share, and only then how many there are, and what links them."""
    sharding = _choice(
        "Sharding",
        "sharding",
        "What ranks that train together share of the model; each has a batch of its own.",
    )
    if sharding == "none":
        return {"sharding": sharding, "world_size": 1, "interconnect": None}
    kept = _kept("world_size")
    st.session_state[kept["key"]] = max(2, st.session_state[kept["key"]])
    found: dict[str, Any] = {
        "sharding": sharding,
        "world_size": st.number_input("Ranks", 2, MAX_SIZE, **kept),
    }
    if network:
        found["interconnect"] = st.selectbox(
            "Interconnect",
            _with_linked("interconnect", list(LINKS)),
            index=None,
            **_kept("interconnect"),
            accept_new_options=True,
            placeholder="None: search, or type 25GB/s",
            help="The slowest link among the ranks.",
        )
    return found


def _adapter() -> dict[str, Any]:
    left, right = st.columns(2)
    with left:
        rank = _size("Rank", "rank", "Of the LoRA matrices.")
        dropout = st.number_input(
            "Dropout",
            0.0,
            BELOW_ONE,
            step=0.05,
            format="%g",
            help="On the adapters' inputs.",
            **_kept("dropout"),
        )
    with right:
        alpha = st.number_input(
            "Alpha",
            0.0,
            float(MOST_ALPHA),
            value=None,
            step=1.0,
            format="%g",
            placeholder="2 x rank",
            help="LoRA's scale; costs nothing.",
            **_kept("alpha"),
        )
        dtype = _choice(
            "Its dtype", "adapter_dtype", "Of the adapter: PEFT takes float32 on a 16-bit base."
        )
    targets = st.selectbox(
        "Targets",
        _with_linked("targets", _TARGETS),
        **_kept("targets"),
        accept_new_options=True,
        help=(
            "Every linear layer, PEFT's default for the model, the attention projections; or type"
            " names with commas, or re:PATTERN."
        ),
    )
    return {
        "rank": rank,
        "alpha": alpha,
        "dropout": dropout,
        "targets": targets or SetupOptions().targets,
        "adapter_dtype": dtype,
        "layers_to_transform": _text(
            "Layers to transform", "layers_to_transform", "all of them; or 0,2,8-15"
        ),
        "modules_to_save": _text(
            "Modules to save", "modules_to_save", "none; or lm_head,embed_tokens"
        ),
    }


def _text(label: str, name: str, placeholder: str) -> str | None:
    """A list as text; None where nothing is written."""
    return st.text_input(label, placeholder=placeholder, **_kept(name)).strip() or None


def _quantised() -> dict[str, Any]:
    return {
        "double_quant": st.toggle(
            "Double quantisation", **_kept("double_quant"), help="Quantise the scales too."
        ),
        "recipe": _choice(
            "Recipe",
            "recipe",
            "stock; kbit: PEFT's preparation, which brings norms, embeddings and head to float32;"
            " trl: bfloat16 adapters.",
        ),
    }


def _optimizer() -> dict[str, Any]:
    left, right = st.columns(2)
    with left:
        dtype = _choice("Weights", "dtype", "Dtype of the base.")
        optimizer = _choice("Optimizer", "optimizer")
    with right:
        precision = _choice("Precision", "precision", "amp: bfloat16 autocast.")
        impl = _choice(
            "Made of",
            "optimizer_impl",
            "The optimizer's implementation; foreach is what torch takes on CUDA.",
        )
    loss = _choice(
        "Loss",
        "loss",
        "plain: all logits at once; chunked: a few tokens at a time; fused: as Liger's kernel.",
    )
    kernels = _choice(
        "Kernels", "kernels", "liger: Liger-Kernel's RMSNorm, SwiGLU and rotary embedding."
    )
    return {
        "dtype": dtype,
        "precision": precision,
        "optimizer": optimizer,
        "optimizer_impl": impl,
        "loss": loss,
        "kernels": kernels,
    }


def _attention(*, device: bool) -> dict[str, Any]:
    found = {
        "attention": _choice(
            "Attention", "attention", "auto is SDPA with the kernel that torch would take."
        )
    }
    return found | (
        {"device": _choice("Device", "device", "Whose memory rules hold.")} if device else {}
    )


def _engine() -> dict[str, Any]:
    says = (
        "auto: a compiled profile where there is one, else the rules. Nothing is traced in this"
        " window."
    )
    return {"engine": _choice("Engine", "engine", says)}


def _look_up() -> dict[str, Any]:
    revision = st.text_input(
        "Revision", help="Branch, tag or commit on the hub.", **_kept("revision")
    )
    return {
        "revision": revision.strip() or "main",
        "offline": st.toggle("Never ask the hub", **_kept("offline")),
    }
