"""Predict's first screen: the verdict, what to change with one click, a bar for each method and
trainer against the GPU's memory, and what it rests on."""

from dataclasses import replace

import streamlit as st

from lora_profiler.dashboard import export, link, trainers, widgets
from lora_profiler.dashboard.answered import Answered, applied
from lora_profiler.dashboard.question import predict_arguments
from lora_profiler.dashboard.remembered import change, shown
from lora_profiler.planning.answers import Answer
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.report.answer.short_answer import method_bars
from lora_profiler.report.answer.verdicts import method_name
from lora_profiler.report.first_screen import offers, speed_numbers, trust, verdict
from lora_profiler.report.json.changes import Difference, between, difference_table
from lora_profiler.report.json.predict import answer_dict
from lora_profiler.report.labels import method_label


def show(result: Answered, answer: Answer, model: ModelSpec, *, linked: bool) -> None:
    """About `answer`, one of those of `result`; `linked` where a link can hold the question."""
    with st.container(key="verdict"):
        widgets.piece("verdict", verdict(answer), speed_numbers(answer, shown().run))
    with st.container(key="first"):
        _offers(result, answer, model)
        bars = replace(method_bars(result.answers), has_sizes=False)
        widgets.bars(bars, method_name(answer))
        trainers.show(result, answer, model)
        params = link.written("Predict", result.question if linked else None, shown=shown())
        link.write(params)
        widgets.piece("trust", trust(answer))
        with st.container(horizontal=True, gap="small", key="actions"):
            export.show(
                params if linked else None,
                _command(result, answer, is_file=not linked),
                answer.prediction.workload,
                export.of_answers(result),
            )
            st.button("Compare with this", key="pin", on_click=_pin, args=(answer,))


def _offers(result: Answered, answer: Answer, model: ModelSpec) -> None:
    found = offers(answer, result.question.engine)
    wanted = [(offer, applied(offer, answer, model, result.question)) for offer in found]
    able = [(offer, question) for offer, question in wanted if question is not None]
    if not able:
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall", key="offers"):
        widgets.words("Change one thing:")
        for number, (offer, question) in enumerate(able):
            st.button(
                widgets.plain(offer.text),
                key=f"apply.{number}",
                help=offer.tip,
                wrap=True,
                on_click=change,
                args=(question, offer.setup.method if offer.setup else None),
            )


def _command(result: Answered, answer: Answer, *, is_file: bool) -> list[str]:
    """Of an uploaded model with its file's name, which stands for its path."""
    question = result.question
    if is_file:
        question = replace(question, model=f"{answer.prediction.workload.model.id}.json")
    return predict_arguments(question)


# --- one answer kept as A while the question goes on to B -----------------------------------------

_PINNED = "pinned"


def _pin(answer: Answer) -> None:
    st.session_state[_PINNED] = answer


def show_pinned(answer: Answer) -> None:
    pinned: Answer | None = st.session_state.get(_PINNED)
    if pinned is None:
        widgets.note("Click Compare with this, change the question, and see here what differs.")
        return
    names = [
        (each.prediction.workload.model.id, each.gpu.key if each.gpu else None)
        for each in (pinned, answer)
    ]
    places = [
        Difference(prediction="", name=name, before=one, after=other)
        for name, one, other in zip(("model", "GPU"), *names, strict=True)
        if one != other
    ]
    found = [*places, *between(answer_dict(pinned), answer_dict(answer))]
    widgets.section(
        f"A, {method_label(pinned.prediction)}, and B, {method_label(answer.prediction)}"
    )
    if found:
        widgets.blocks([difference_table(found, "A", "B")])
    else:
        widgets.note("This is A: nothing differs yet.")
