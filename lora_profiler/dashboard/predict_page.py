"""Predict: one question, its answer on one screen, and behind tabs all that it rests on."""

import shlex
from collections.abc import Callable

import streamlit as st

from lora_profiler.dashboard import evidence_page, first_screen, link, sentence, widgets
from lora_profiler.dashboard.answered import Answered, answered, would_be_traced
from lora_profiler.dashboard.fields import Inputs
from lora_profiler.dashboard.question import setup_arguments
from lora_profiler.dashboard.remembered import shown
from lora_profiler.errors import LoraProfilerError
from lora_profiler.planning.answers import Answer
from lora_profiler.report import labels
from lora_profiler.report.answer import timing
from lora_profiler.report.answer.explain import explain_blocks
from lora_profiler.report.answer.layers import layer_blocks
from lora_profiler.report.answer.predictions import ModelParts, card_table, model_parts
from lora_profiler.report.labels import method_label
from lora_profiler.report.page import predicted
from lora_profiler.report.page.steps import held_drawing


def show() -> None:
    main, inputs = sentence.ask()
    with main:
        _show(inputs)


def _show(inputs: Inputs) -> None:
    if inputs.model is None:
        link.write(link.written("Predict", inputs.linked))
        return
    try:
        result = answered(inputs.model, inputs.question)
    except LoraProfilerError as e:
        link.write(link.written("Predict", inputs.linked))
        widgets.problem(str(e), heading="This question has no answer")
        return
    answer = result.about(shown().about)
    first_screen.show(result, answer, inputs.model, linked=not inputs.uploaded)
    _caution(result)
    _tabs(result, answer)


def _caution(result: Answered) -> None:
    if result.cautions:
        widgets.caution(*result.cautions)
    if would_be_traced(result):
        question = result.question
        words = ["lora-profile", "compile", question.model, *setup_arguments(question)]
        widgets.caution(
            "The activations of this model are not known: every peak is a lower bound.",
            "Trace the step once on the command line; this page then knows them too:",
            shlex.join(words),
        )


VIEW_KEY = "view"


def _tabs(result: Answered, answer: Answer) -> None:
    """About `answer` where a tab is about one method; only the tab that is open is worked out."""
    tabs: dict[str, Callable[[Answered, Answer], None]] = {
        "Timeline": _timeline,
        "Breakdown": _breakdown,
        "Fit map": _fit_map,
        "Compare": lambda _, answer: first_screen.show_pinned(answer),
        "Explanation": _explanation,
    }
    places = st.tabs(list(tabs), key=VIEW_KEY, on_change="rerun")
    for place, draw in zip(places, tabs.values(), strict=True):
        if place.open:
            with place:
                draw(result, answer)


def _timeline(result: Answered, answer: Answer) -> None:
    widgets.section(f"Memory over one step, {method_label(answer.prediction)}")
    widgets.drawing(predicted.answer_curve("curve", answer), "curve")
    _time(result)
    if (sent := timing.communication_table(result.answers)) is not None:
        widgets.blocks([sent])
        widgets.small(*timing.communication_lines(result.answers))


def _breakdown(result: Answered, answer: Answer) -> None:
    widgets.section("What the peak is made of")
    widgets.drawing(predicted.composition_drawing("composition", result.answers), "composition")
    widgets.section(f"Memory by layer, {method_label(answer.prediction)}")
    nothing = ("No layer holds any of it.",)
    widgets.drawing(held_drawing("held", answer.prediction), "held", nothing=nothing)
    head, every = "Every kind of layer as a table", result.predictions
    widgets.fold(head, "layer_tables", lambda: widgets.blocks(layer_blocks(every)))


def _fit_map(result: Answered, answer: Answer) -> None:
    label = method_label(answer.prediction)
    widgets.section(f"What fits, {label}")
    fitting = predicted.fit_drawing("fit_map", answer, result.question.engine)
    if fitting is not None:
        widgets.drawing(fitting, "fit_map")
        widgets.blocks([card_table([answer])])
        meanings = labels.VERDICT_DEFINITIONS.items()
        widgets.small(*(f"{labels.VERDICT_LABELS[name]}: {words}." for name, words in meanings))
    elif result.gpu is None:
        widgets.note("Choose a GPU to see which batch sizes and sequence lengths fit it.")
    else:
        widgets.note("Which sizes fit is not known: this engine does not know the activations.")
    cards = timing.smallest_cards_table(result.answers, result.question.engine)
    if cards is not None:
        widgets.section("The smallest GPUs")
        widgets.blocks([cards])
    widgets.section(f"What lowers the peak, {label}")
    nothing = ("No single change lowers this peak.",)
    widgets.drawing(predicted.levers_drawing("levers", answer), "levers", nothing=nothing)
    widgets.small(*(f"{lever.name}: {lever.option}; {lever.price}." for lever in answer.levers))


def _explanation(result: Answered, answer: Answer) -> None:
    parts = model_parts(result.answers, result.question.engine)
    widgets.section(parts.title)
    widgets.small(*parts.setup)
    widgets.blocks(filter(None, (parts.epoch, parts.comparison, parts.times)))
    _interval(result, parts)
    formulas = (block for a in result.answers for block in explain_blocks(a))
    widgets.fold("The formula behind each number", "explain", lambda: widgets.blocks(formulas))
    widgets.small(*parts.peaks, *parts.exactness)


def _interval(result: Answered, parts: ModelParts) -> None:
    if not parts.peak_interval:
        return
    widgets.section("What public measurements say")
    widgets.small(*parts.peak_interval)
    steps = [answer.step for answer in result.answers if answer.step]
    peaks = [likely.nearest for answer in result.answers if (likely := answer.likely)]
    timed = [step.evidence for step in steps if step.evidence]
    for what, rows in (("peaks", peaks), ("steps", timed)):
        if rows:
            says = f"Measured {what} closest to this question."
            evidence_page.rows_table(list(dict.fromkeys(rows)), f"nearest_{what}", says)


def _time(result: Answered) -> None:
    lines = timing.time_lines(result.answers)
    if not lines:
        return
    widgets.section(f"Time of one step on {timing.device_name(result.answers)}")
    drawing = predicted.times_drawing("times", result.answers)
    widgets.drawing(drawing, "times", nothing=lines)
    if drawing is not None:
        widgets.small(*lines)
