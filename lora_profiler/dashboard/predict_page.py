"""Predict: one question, every method side by side, where the memory goes, what fits, and what
would lower it."""

import shlex
from typing import get_args

import streamlit as st

from lora_profiler.dashboard import downloads, evidence_table, form, link, widgets
from lora_profiler.dashboard.answered import Answered, answered, would_be_traced
from lora_profiler.dashboard.question import predict_arguments, setup_arguments
from lora_profiler.errors import LoraProfilerError
from lora_profiler.report import labels
from lora_profiler.report.charts.layer_bars import LayerQuantity
from lora_profiler.report.communication import sending_lines
from lora_profiler.report.explain import explain_blocks
from lora_profiler.report.layers import layer_blocks
from lora_profiler.report.method_label import method_label
from lora_profiler.report.page.headlines import headlines
from lora_profiler.report.page.predicted import (
    answer_curve,
    composition_drawing,
    fit_drawing,
    levers_drawing,
    times_drawing,
)
from lora_profiler.report.page.steps import layer_drawing
from lora_profiler.report.predictions import ModelParts, model_parts
from lora_profiler.report.timing import device_name, steps_of, time_lines


def show() -> None:
    with st.sidebar:
        inputs = form.ask()
    form.tell(inputs)
    link.write(link.written("Predict", None if inputs.uploaded else inputs.question))
    if inputs.model is None:
        return
    try:
        result = answered(inputs.model, inputs.question)
    except LoraProfilerError as e:
        widgets.problem(str(e), heading="This question has no answer")
        return
    _draw(result)


def _draw(result: Answered) -> None:
    parts = model_parts(result.answers, result.excess)
    widgets.title(parts.title, *parts.setup)
    if result.cautions:
        widgets.caution(*result.cautions)
    if would_be_traced(result):
        command = shlex.join(
            ["lora-profile", "compile", result.question.model, *setup_arguments(result.question)]
        )
        widgets.caution(
            "Neither the rules nor a profile know this model's activations, so that every peak here"
            " is a lower bound. Trace the step once on the command line, and this page knows them"
            " too:",
            command,
        )
    widgets.cards(headlines(result.answers))
    widgets.section("What the peak is made of")
    widgets.drawing(composition_drawing("composition", result.answers), "composition")
    _likely(result, parts)
    _time(result)
    _sending(result)
    _detail(result)
    _layers(result)
    widgets.section("In numbers")
    with widgets.drawer("All numbers", "numbers") as is_open:
        if is_open:
            widgets.blocks(parts.tables)
    with widgets.drawer("How each number was worked out", "explain") as is_open:
        if is_open:
            widgets.blocks(block for a in result.answers for block in explain_blocks(a))
    widgets.small(*parts.peaks, *parts.exactness)
    widgets.section("Take it along")
    widgets.downloads("predict", downloads.of_answers(result))
    st.caption("The same on the command line")
    st.code(
        shlex.join(["lora-profile", *predict_arguments(result.question)]),
        language=None,
        wrap_lines=True,
    )


def _likely(result: Answered, parts: ModelParts) -> None:
    """How far off the peaks may be, and the public measurements nearest to this question; nothing
    where there are none."""
    if not parts.likely:
        return
    widgets.section("What public measurements say")
    widgets.small(*parts.likely)
    steps = [step for step in steps_of(result.answers) if step]
    peaks = [likely.nearest for answer in result.answers if (likely := answer.likely)]
    evidence_table.show(
        list(dict.fromkeys(peaks)), "nearest_peaks", "The measured peaks nearest to this question."
    )
    timed = [step.evidence for step in steps if step.evidence]
    if timed:
        evidence_table.show(
            list(dict.fromkeys(timed)),
            "nearest_steps",
            "The measured steps nearest to this question.",
        )


def _time(result: Answered) -> None:
    """Where the time of a step goes, and what there is to say about it; nothing where no device was
    asked about."""
    lines = time_lines(result.answers)
    if not lines:
        return
    widgets.section(f"Time of one step on {device_name(result.answers)}")
    drawing = times_drawing("times", result.answers)
    widgets.drawing(drawing, "times", nothing=lines)
    if drawing is not None:
        widgets.small(*lines)


def _sending(result: Answered) -> None:
    """What ranks send each other in a step; nothing where there is one process."""
    if lines := sending_lines(result.answers):
        widgets.section("Between the ranks")
        widgets.small(*lines)


def _detail(result: Answered) -> None:
    """What belongs to one method: its step, its map of what fits, its levers."""
    names = [method_label(p) for p in result.predictions]
    default = next(
        (
            label
            for label, p in zip(names, result.predictions, strict=True)
            if p.workload.setup.lora
        ),
        names[0],
    )
    answer = result.answers[names.index(widgets.choose("In detail", names, default, "detail"))]
    label = method_label(answer.prediction)
    widgets.section(f"Memory over one step, {label}")
    widgets.drawing(answer_curve("curve", answer), "curve")
    widgets.section(f"What fits, {label}")
    fitting = fit_drawing("fit_map", answer, result.question.engine)
    if fitting is not None:
        widgets.drawing(fitting, "fit_map")
        widgets.small(
            *(
                f"{labels.VERDICT_LABELS[name]}: {words}."
                for name, words in labels.VERDICT_DEFINITIONS.items()
            )
        )
    elif result.gpu is None:
        widgets.note(
            "Choose a card on the left to see which batch sizes and sequence lengths fit it."
        )
    else:
        widgets.note(
            "Whether a size fits is not known, because this engine does not know the model's"
            " activations."
        )
    widgets.section(f"What lowers the peak, {label}")
    nothing = ("No single change that is known here lowers this peak.",)
    widgets.drawing(levers_drawing("levers", answer), "levers", nothing=nothing)
    widgets.small(*(f"{lever.name}: {lever.option}; {lever.price}." for lever in answer.levers))


def _layers(result: Answered) -> None:
    widgets.section("Layer by layer")
    quantity: LayerQuantity = st.selectbox(
        "What is shown of each layer",
        get_args(LayerQuantity),
        key="quantity",
        format_func=labels.LAYER_LABELS.__getitem__,
    )
    drawing = layer_drawing("layers", result.predictions, quantity)
    widgets.drawing(drawing, "layers", nothing=("No layer holds any of it.",))
    with widgets.drawer("Every kind of layer as a table", "layer_tables") as is_open:
        if is_open:
            widgets.blocks(layer_blocks(result.predictions))
