"""Predict's first screen: the verdict, what to change with one click, a bar a method in the card's
frame, three numbers, and what it rests on."""

from dataclasses import replace
from functools import partial
from typing import Any

import streamlit as st

from lora_profiler.dashboard import downloads, fields, link, pinned, take_along, widgets
from lora_profiler.dashboard.answered import Answered
from lora_profiler.dashboard.applying import applied
from lora_profiler.dashboard.question import predict_arguments
from lora_profiler.dashboard.remembered import change, question, shown
from lora_profiler.dashboard.slides import as_data, is_stop, slides
from lora_profiler.model_spec import ModelSpec
from lora_profiler.planning.answers import Answer
from lora_profiler.report.first_screen import (
    Frame,
    frame,
    offers,
    three_numbers,
    trust,
    verdict_words,
)
from lora_profiler.report.first_screen.card import share_card

_SLIDES = "slides"


def show(result: Answered, answer: Answer, model: ModelSpec, *, linked: bool) -> None:
    """About `answer`, one of those of `result`; `linked` where a link can hold the question. The
    address is written here, since the fields of the training are drawn here."""
    bars = frame(result.answers, answer.prediction)
    with st.container(key="first"):
        left, right = st.columns([2, 1], gap="large")
        with left:
            widgets.piece("verdict", verdict_words(answer))
            _offers(result, answer, model)
            widgets.piece("frame", bars)
            _slides(model, result, bars)
        with right:
            place = st.container()
            if answer.timing and answer.timing.step:
                with st.container(horizontal=True, gap="xsmall", key="run"):
                    fields.run(with_price=True)
            with place:
                widgets.piece("numbers", three_numbers(answer, shown().run))
        params = link.written("Predict", result.question if linked else None, shown=shown())
        link.write(params)
        widgets.piece("trust", trust(answer))
        with st.container(horizontal=True, gap="small", key="actions"):
            command = _command(result, answer, is_file=not linked)
            take_along.show(
                params if linked else None,
                command,
                answer.prediction.workload,
                downloads.of_answers(result),
                partial(share_card, result.answers, answer, shown().run, command),
            )
            pinned.button(answer)


def _offers(result: Answered, answer: Answer, model: ModelSpec) -> None:
    """What to change, the first one first; Apply asks for it."""
    with st.container(key="offers", gap="xsmall"):
        for number, offer in enumerate(offers(answer, result.question.engine)):
            wanted = applied(offer, answer, model, result.question)
            with st.container(
                horizontal=True, vertical_alignment="center", gap="small", wrap=False
            ):
                if wanted is not None:
                    st.button(
                        "Apply",
                        key=f"apply.{number}",
                        type="primary" if number == 0 else "secondary",
                        help=offer.tip,
                        on_click=change,
                        args=(wanted, offer.setup.method if offer.setup else None),
                    )
                widgets.piece("offer", offer)


def _command(result: Answered, answer: Answer, *, is_file: bool) -> list[str]:
    """Of an uploaded model with its file's name, which stands for its path."""
    question = result.question
    if is_file:
        question = replace(question, model=f"{answer.prediction.workload.model.id}.json")
    return predict_arguments(question)


def _slides(model: ModelSpec, result: Answered, bars: Frame) -> None:
    """Below the bars, and drawing them while one is dragged."""
    data = as_data(slides(model, result, bars))
    mounted = st.components.v2.component(
        "lora_profiler.slides",
        html='<div class="lp-slides"></div>',
        css=widgets.own_text("slides.css"),
        js=widgets.own_text("slides.js"),
    )
    mounted(key=_SLIDES, data={"slides": data}, on_released_change=_released)


def _released() -> None:
    """Asks for the size that a slider was left at."""
    sent: Any = getattr(st.session_state[_SLIDES], "released", None)
    if not isinstance(sent, dict) or not is_stop(sent.get("name"), sent.get("value")):
        return
    asked = question()
    change(replace(asked, options={**asked.options, sent["name"]: sent["value"]}))
