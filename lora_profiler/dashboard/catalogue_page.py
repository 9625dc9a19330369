"""Catalogue: the bundled models and GPUs, to search, to sort, and to take to the page of
predictions."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pandas as pd
import streamlit as st

from lora_profiler.dashboard import export, link, remembered, widgets
from lora_profiler.dashboard.question import Question, about_model
from lora_profiler.errors import did_you_mean
from lora_profiler.facts.catalog import Gpu, bundled_gpus, bundled_models
from lora_profiler.report.catalogues import (
    gpu_names,
    gpu_records,
    matching,
    model_names,
    model_records,
)
from lora_profiler.units import GIB, count_text

E = TypeVar("E")


def show() -> None:
    link.write(link.written("Catalogue", remembered.question()))
    widgets.title("Catalogue", "What is known offline. Choose a row to predict it.")
    _models()
    _gpus()


def _models() -> None:
    entries, access = bundled_models(), {True: "gated", False: ""}
    matches = _matches(
        "models",
        entries,
        lambda e: (*model_names(e), access[e.gated]),
        "llama 8b; qwen3; gated",
        "Any hub id can be typed on the page Predict.",
    )
    if not matches:
        return
    columns: dict[str, list[Any]] = {
        "model": [e.id for e in matches],
        "type": [e.model_type for e in matches],
        "parameters, M": [e.num_parameters / 1e6 for e in matches],
        "published in": [e.checkpoint_quantization or e.dtype or "not stated" for e in matches],
        "access": ["gated" if e.gated else "open" for e in matches],
        "count checked": [e.verification for e in matches],
        "also called": [", ".join(e.aliases) for e in matches],
        "source": [e.source for e in matches],
    }
    chosen = _table("models", columns, {"parameters, M": "%,.1f"}, len(entries))
    if chosen is not None:
        name = matches[chosen].id
        _button(f"Predict {name}", "models_go", about_model(remembered.question(), name))
    widgets.downloads("models", export.of_rows("models", "models", model_records(matches)))


def _gpus() -> None:
    gpus = bundled_gpus()
    matches = _matches(
        "GPUs", gpus, gpu_names, "4090; h100; amd", "custom:24GiB is any GPU of that size."
    )
    if not matches:
        return
    columns: dict[str, list[Any]] = {
        "GPU": [c.name for c in matches],
        "key": [c.key for c in matches],
        "architecture": [c.architecture for c in matches],
        "usable, GiB": [None if c.usable_bytes is None else c.usable_bytes / GIB for c in matches],
        "usable is": [_memory_source(c) for c in matches],
        "bandwidth, GB/s": [c.bandwidth_gb_s for c in matches],
        "bf16, TFLOP/s": [c.bf16_dense_tflops for c in matches],
        "confidence": [c.confidence for c in matches],
        "source": [c.source for c in matches],
    }
    formats = {"usable, GiB": "%,.2f", "bandwidth, GB/s": "%,.0f", "bf16, TFLOP/s": "%,.1f"}
    chosen = _table("GPUs", columns, formats, len(gpus))
    if chosen is not None and matches[chosen].usable_bytes is None:
        widgets.note(
            f"{matches[chosen].name} is sold with several memory sizes; type one as GPU memory on"
            " Predict."
        )
    elif chosen is not None:
        gpu = matches[chosen]
        _button(f"Predict on {gpu.name}", "gpus_go", replace(remembered.question(), gpu=gpu.key))
    widgets.downloads("gpus", export.of_rows("gpus", "gpus", gpu_records(matches)))


def _matches(
    what: str,
    entries: Sequence[E],
    words: Callable[[E], tuple[str, ...]],
    example: str,
    instead: str,
) -> list[E]:
    """Those whose words, the name first, match the search; says what to do where none does."""
    widgets.section(what[0].upper() + what[1:])
    text = st.text_input(f"Search the {what}", key=f"{what}_text", placeholder=example)
    matches = [entry for entry in entries if matching(text, words(entry))]
    if not matches:
        near = did_you_mean(text, [words(entry)[0] for entry in entries])
        widgets.note(f"No bundled {what[:-1]} is called {text!r}.{near} {instead}")
    return matches


def _memory_source(gpu: Gpu) -> str:
    if gpu.usable_bytes is None:
        return "several sizes"
    return "estimated" if gpu.usable_is_estimated else "the driver's figure"


def _table(
    what: str, columns: dict[str, list[Any]], formats: dict[str, str], of: int
) -> int | None:
    frame = pd.DataFrame(columns)
    says = f"{count_text(len(frame))} of {count_text(of)} {what}"
    row = widgets.chosen_row(frame, what, says, formats, height=360)
    widgets.small(says)
    return row


def _button(label: str, key: str, question: Question) -> None:
    st.button(widgets.plain(label), key=key, type="primary", on_click=_predict, args=(question,))


def _predict(question: Question) -> None:
    remembered.seed(question)
    st.session_state[link.PAGE_KEY] = "Predict"
    link.mark_changed()
