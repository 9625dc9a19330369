"""The question as widgets: seeded by the link, grouped as people think of them, the same options as the command line's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import streamlit as st

from lora_profiler.catalog import bundled_gpus, bundled_models
from lora_profiler.dashboard import parts
from lora_profiler.dashboard.models import published_model, uploaded_model
from lora_profiler.dashboard.question import CHOICES, METHODS, Question, from_params, idle_options, to_params
from lora_profiler.dashboard.settings import UPLOAD_MIB
from lora_profiler.errors import LoraProfilerError
from lora_profiler.model_spec import ModelSpec
from lora_profiler.planning.setups import SetupOptions
from lora_profiler.report import metrics
from lora_profiler.workload import MAX_SIZE

BY_NAME, UPLOAD = "By name", "A config.json"
_TARGETS = ("all-linear", "default", "attention")
_KEY = "ask."


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What the widgets ask. `model` is None where there is none, and `refusal` says why unless a file is still waited for."""

    question: Question
    model: ModelSpec | None
    refusal: str | None
    uploaded: bool


# --- what is remembered ---------------------------------------------------------------------------------------------------


def question() -> Question:
    """What is asked now: at first what the link says, then what the widgets say, on whichever page they stand."""
    state = st.session_state
    if "question" not in state:
        state.question, state.complaints = from_params(_link())
        state["linked"], state["remembered"] = _values(state.question), _values(state.question)
    found: Question = state.question
    return found


def ask_about(model: str) -> None:
    """The same question about another model, as if it had been chosen on the page."""
    st.session_state.question = replace(question(), model=model)
    st.session_state["remembered"] |= {"model": model, "origin": BY_NAME}


def judge(card: str) -> None:
    """The same question with another card."""
    st.session_state.question = replace(question(), gpu=card)
    st.session_state["remembered"] |= {"gpu": card}


def _link() -> dict[str, list[str]]:
    return {name: st.query_params.get_all(name) for name in st.query_params}


def write_link(asked: Asked) -> None:
    """Puts the question into the address; nothing where no link could hold it."""
    params = {} if asked.uploaded else to_params(asked.question)
    if _link() != params:
        st.query_params.from_dict(params)


def _values(asked: Question) -> dict[str, Any]:
    own = {name: getattr(asked, name) for name in ("model", "revision", "offline", "gpu", "engine")}
    return {"origin": BY_NAME, **own, **{f.name: getattr(asked.options, f.name) for f in fields(SetupOptions)}}


def _keyed(name: str) -> str:
    """The widget's key, whose state begins with what is remembered."""
    key = _KEY + name
    if key not in st.session_state:
        st.session_state[key] = st.session_state["remembered"][name]
    return key


# --- the widgets ----------------------------------------------------------------------------------------------------------


def ask() -> Asked:
    """Draws the whole question in the place where it is called."""
    question()
    values: dict[str, Any] = st.session_state["remembered"]
    values["origin"] = st.segmented_control("Model", (BY_NAME, UPLOAD), key=_keyed("origin"), required=True)
    uploaded = None
    if values["origin"] == UPLOAD:
        uploaded = st.file_uploader("A model's config.json", type="json", key="config_json", max_upload_size=UPLOAD_MIB)
    else:
        values["model"] = _model()
    chosen = st.pills(
        "Methods", METHODS, selection_mode="multi", key=_keyed_methods(), format_func=metrics.METHOD_LABELS.__getitem__
    )
    values["methods"] = tuple(method for method in METHODS if method in chosen) or SetupOptions().methods
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
    with st.expander("Attention and device"):
        values |= _attention()
    with st.expander("Answer and look-up"):
        values |= _answer(hub=values["origin"] == BY_NAME)
    found = st.session_state.question = _question(values)
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
    """Says in the place where it is called what the link asked in vain, and why there is no model; else writes the link."""
    for text in st.session_state.complaints:
        parts.caution(f"Passed over in the link: {text}")
    if asked.refusal is not None:
        parts.problem(asked.refusal, heading="There is no such model here")
    elif asked.model is None:
        parts.note("Choose a file on the left: the config.json of any transformers model.", heading="A config.json is needed")
    else:
        write_link(asked)


def _question(values: Mapping[str, Any]) -> Question:
    """The question of the values; options that no method reads, whose widgets are not shown, keep their defaults."""
    idle = idle_options(values["methods"])
    options = SetupOptions(**{f.name: values[f.name] for f in fields(SetupOptions) if f.name not in idle})
    own = {name: values[name] for name in ("model", "revision", "offline", "gpu", "engine")}
    return Question(options=options, **own)


def _keyed_methods() -> str:
    key = _keyed("methods")
    if isinstance(st.session_state[key], tuple):
        st.session_state[key] = list(st.session_state[key])
    return key


def _model() -> str:
    names = [name for entry in bundled_models() for name in (entry.id, *entry.aliases)]
    chosen = st.selectbox(
        "Model's name", _with_linked("model", names), key=_keyed("model"), accept_new_options=True,
        placeholder="Search, or type a hub id", label_visibility="collapsed",
        help="One of the bundled models, or any hub id such as organisation/name: its config.json is fetched then.",
    )  # fmt: skip
    return chosen or Question().model


def _card() -> str | None:
    keys = [card.key for card in bundled_gpus() if card.usable_bytes is not None]
    names = {card.key: f"{card.key} · {card.name}" for card in bundled_gpus()}
    return st.selectbox(
        "Card", _with_linked("gpu", [*keys, "auto"]), index=None, key=_keyed("gpu"), accept_new_options=True,
        placeholder="None: search, or type custom:24GiB", format_func=lambda key: names.get(key, key),
        help="Whether it fits, the largest batch and the longest sequence. auto asks the driver of this machine.",
    )  # fmt: skip


def _with_linked(name: str, options: Sequence[str]) -> list[str]:
    """The options, and what a link named beside them."""
    linked = st.session_state["linked"][name]
    return list(options) if linked is None or linked in options else [linked, *options]


def _size(label: str, name: str, help: str | None = None, step: int = 1) -> int:
    return st.number_input(label, 1, MAX_SIZE, step=step, key=_keyed(name), help=help)


def _choice(label: str, name: str, help: str | None = None) -> str:
    return st.selectbox(label, CHOICES[name], key=_keyed(name), help=help)


def _batch() -> dict[str, Any]:
    return {
        "batch_size": _size("Batch size", "batch_size", "Sequences in one micro-batch."),
        "seq_len": _size("Sequence length, tokens", "seq_len"),
        "accumulation": _size("Accumulation", "accumulation", "Micro-batches per optimizer step."),
        "checkpointing": st.toggle(
            "Gradient checkpointing", key=_keyed("checkpointing"), help="Recompute each layer in backward."
        ),
    }


def _adapter() -> dict[str, Any]:
    rank = _size("Rank", "rank", "Of the LoRA matrices.")
    alpha = st.number_input(
        "Alpha", min_value=0.0, value=None, step=1.0, format="%g", key=_keyed("alpha"), placeholder="2 × rank",
        help="LoRA's scale; costs nothing.",
    )  # fmt: skip
    dropout = st.number_input(
        "Dropout", 0.0, 0.99, step=0.05, format="%g", key=_keyed("dropout"), help="On the adapters' inputs."
    )
    targets = st.selectbox(
        "Targets", _with_linked("targets", _TARGETS), key=_keyed("targets"), accept_new_options=True,
        help="Every linear layer, PEFT's default for the model, the attention projections; or type names with commas, or "
        "re:PATTERN.",
    )  # fmt: skip
    return {
        "rank": rank,
        "alpha": alpha,
        "dropout": dropout,
        "targets": targets or SetupOptions().targets,
        "adapter_dtype": _choice("Adapter dtype", "adapter_dtype", "PEFT takes float32 for a 16-bit base."),
        "layers_to_transform": _text("Layers to transform", "layers_to_transform", "all of them; or 0,2,8-15"),
        "modules_to_save": _text("Modules to save", "modules_to_save", "none; or lm_head,embed_tokens"),
    }


def _text(label: str, name: str, placeholder: str) -> str | None:
    """A list as text; None where nothing is written."""
    key = _keyed(name)
    if st.session_state[key] is None:
        st.session_state[key] = ""
    return st.text_input(label, key=key, placeholder=placeholder).strip() or None


def _quantised() -> dict[str, Any]:
    return {
        "double_quant": st.toggle("Double quantisation", key=_keyed("double_quant"), help="Quantise the scales too."),
        "recipe": _choice(
            "Recipe", "recipe",
            "stock; kbit: PEFT's preparation, which brings norms, embeddings and head to float32; trl: bfloat16 adapters.",
        ),
    }  # fmt: skip


def _optimizer() -> dict[str, Any]:
    return {
        "dtype": _choice("Weights", "dtype", "Dtype of the base."),
        "precision": _choice("Precision", "precision", "amp: bfloat16 autocast."),
        "optimizer": _choice("Optimizer", "optimizer"),
        "optimizer_impl": _choice("Optimizer implementation", "optimizer_impl", "foreach is what torch takes on CUDA."),
    }


def _attention() -> dict[str, Any]:
    return {
        "attention": _choice("Attention", "attention", "auto is SDPA with the kernel that torch would take."),
        "device": _choice("Device", "device", "Whose memory rules hold."),
    }


def _answer(*, hub: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "engine": _choice(
            "Engine", "engine", "auto: a compiled profile where there is one, else the rules. Nothing is traced in this window."
        )
    }
    if hub:
        found["revision"] = st.text_input("Revision", key=_keyed("revision"), help="Branch, tag or commit on the hub.") or "main"
        found["offline"] = st.toggle("Never ask the hub", key=_keyed("offline"))
    return found
