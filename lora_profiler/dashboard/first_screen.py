"""Predict's first screen: the verdict, what to change with one click, a bar for each method and
trainer against the GPU's memory, and what it rests on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import streamlit as st

from lora_profiler.dashboard import export, link, trainers, widgets
from lora_profiler.dashboard.answered import Answered, applied, workloads
from lora_profiler.dashboard.question import SETUP_OPTIONS, predict_arguments
from lora_profiler.dashboard.remembered import change, question, shown
from lora_profiler.errors import LoraProfilerError
from lora_profiler.model_spec import ModelSpec
from lora_profiler.planning.answers import Answer
from lora_profiler.planning.engine import (
    engine_for_search,
    on_card,
    peak_bytes_checked,
    predict_checked,
)
from lora_profiler.planning.reserve import held_bytes
from lora_profiler.planning.sizes import BATCHES, RANKS, lengths
from lora_profiler.report.answer.comparison_table import answered_differently, asked_differently
from lora_profiler.report.card import Frame, frame, framed, judged, share_card
from lora_profiler.report.first_screen import offers, three_numbers, trust, verdict
from lora_profiler.report.labels import method_label, way_label
from lora_profiler.units import count_text

_SLIDES = "slides"


def show(result: Answered, answer: Answer, model: ModelSpec, *, linked: bool) -> None:
    """About `answer`, one of those of `result`; `linked` where a link can hold the question."""
    run = shown().run
    with st.container(key="verdict"):
        widgets.piece("verdict", verdict(answer), three_numbers(answer, run)[1:])
    with st.container(key="first"):
        _offers(result, answer, model)
        bars = frame(result.answers, answer.prediction)
        widgets.piece("frame", bars)
        _slides(model, result, bars)
        trainers.show(result, answer, model)
        params = link.written("Predict", result.question if linked else None, shown=shown())
        link.write(params)
        widgets.piece("trust", trust(answer))
        with st.container(horizontal=True, gap="small", key="actions"):
            command = _command(result, answer, is_file=not linked)
            export.show(
                params if linked else None,
                command,
                answer.prediction.workload,
                export.of_answers(result),
                partial(share_card, result.answers, answer, run, command),
            )
            st.button("Compare with this", key="pin", on_click=_pin, args=(answer,))


def _offers(result: Answered, answer: Answer, model: ModelSpec) -> None:
    """A button for each change, the first one first."""
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
    current = question()
    change(replace(current, options={**current.options, sent["name"]: sent["value"]}))


LABELS = {"seq_len": "Length", "batch_size": "Batch", "rank": "Rank"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Slider:
    """A slider: an option, its stops, the place of the one that is asked, and the bars at each."""

    name: str
    label: str
    stops: tuple[int, ...]
    place: int
    frames: tuple[Frame, ...]


def slides(model: ModelSpec, result: Answered, shown: Frame) -> tuple[Slider, ...]:
    """A slider for each size of the question, with the bars of `shown` at each of its stops. Stops
    that are refused, or of which a peak is not known, are left out; a slider of one stop too.

    Each peak is that of the question with that size, from the same polynomials as its answer.
    """
    if any(answer.prediction.saved_activation_bytes is None for answer in result.answers):
        return ()
    is_adapted = any(p.workload.setup.lora for p in result.predictions)
    sliders = []
    for name, label in LABELS.items():
        if name == "rank" and not is_adapted:
            continue
        current = result.question.options[name]
        frames = dict(_frames(name, _stops(name, current, model), model, result, shown))
        if len(frames) > 1:
            stops = tuple(frames)
            place = stops.index(current) if current in stops else 0
            bars = tuple(frames.values())
            sliders.append(Slider(name=name, label=label, stops=stops, place=place, frames=bars))
    return tuple(sliders)


def _stops(name: str, current: int, model: ModelSpec) -> Sequence[int]:
    if name == "seq_len":
        return lengths(current, model.trained_length)
    return sorted({*(RANKS if name == "rank" else BATCHES), current})


def _frames(
    name: str, stops: Sequence[int], model: ModelSpec, result: Answered, shown: Frame
) -> Iterator[tuple[int, Frame]]:
    question = result.question
    engines = [engine_for_search(p, question.engine) for p in result.predictions]
    helds = [held_bytes(p) for p in result.predictions]
    for stop in stops:
        if stop == question.options[name]:
            yield stop, shown
            continue
        sized = replace(question, options={**question.options, name: stop})
        try:
            ways = [on_card(w, result.gpu) for w in workloads(model, sized)]
            pairs = list(zip(ways, engines, strict=True))
            peaks = [(way_label(w.setup), peak_bytes_checked(w, engine)) for w, engine in pairs]
            if name == "rank":  # alone it changes what is held
                helds = [held_bytes(predict_checked(w, engine)) for w, engine in pairs]
        except LoraProfilerError:  # this size is refused, or nobody knows it
            continue
        bars = [
            replace(bar, label=label, peak_bytes=peak, reserve_bytes=kept, verdict=verdict)
            for bar, (label, peak), held in zip(shown.bars, peaks, helds, strict=True)
            for kept, verdict in (judged(peak, held, result.gpu),)
        ]
        yield stop, framed(bars, result.gpu, shown.scale_bytes)


def as_data(sliders: Sequence[Slider]) -> list[dict[str, Any]]:
    """What the script in the browser draws from: texts, and parts of bars in per cent."""
    return [
        {
            "name": slide.name,
            "label": slide.label,
            "place": slide.place,
            "stops": list(slide.stops),
            "texts": [count_text(stop) for stop in slide.stops],
            "frames": [_bars(frame) for frame in slide.frames],
        }
        for slide in sliders
    ]


def _bars(frame: Frame) -> dict[str, Any]:
    return {
        "words": frame.words,
        "bars": [
            {
                "label": bar.label,
                "number": frame.number(bar),
                "parts": list(frame.parts(bar)),
                "cut": frame.is_cut(bar),
            }
            for bar in frame.bars
        ],
    }


def is_stop(name: object, value: object) -> bool:
    """Whether a browser may have sent this: an option with a slider, and a size of it."""
    return (
        isinstance(name, str)
        and name in LABELS
        and isinstance(value, int)
        and not isinstance(value, bool)
        and 1 <= value <= SETUP_OPTIONS[name].declared.largest
    )


# --- one answer kept as A while the question goes on to B -----------------------------------------

_PINNED = "pinned"


def _pin(answer: Answer) -> None:
    st.session_state[_PINNED] = answer


def show_pinned(answer: Answer) -> None:
    """What differs between the answer that was pinned and the present one."""
    pinned: Answer | None = st.session_state.get(_PINNED)
    if pinned is None:
        widgets.note("Click Compare with this, change the question, and see here what differs.")
        return
    questions, answers = asked_differently(pinned, answer), answered_differently(pinned, answer)
    widgets.section(
        f"A, {method_label(pinned.prediction)}, and B, {method_label(answer.prediction)}"
    )
    tables = [table for table in (questions, answers) if table is not None]
    if tables:
        widgets.blocks(tables)
    else:
        widgets.note("This is A: nothing differs yet.")
