"""Predict's first screen: the verdict, what to change with one click, a bar for each method and
trainer against the GPU's memory, and what it rests on."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import streamlit as st

from lora_profiler.dashboard import export, link, widgets
from lora_profiler.dashboard.answered import Answered, applied, setups
from lora_profiler.dashboard.question import (
    SETUP_OPTIONS,
    Question,
    completed,
    defaults_by_method,
    predict_arguments,
)
from lora_profiler.dashboard.remembered import change, shown
from lora_profiler.planning.answers import Answer
from lora_profiler.planning.engine import on_card
from lora_profiler.planning.guided import Line, guided_lines, has_lines
from lora_profiler.planning.setups import DEFAULTS, written_options
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.workload import TrainSetup
from lora_profiler.report.answer.guided import line_bar, trainer_name
from lora_profiler.report.answer.short_answer import method_bars
from lora_profiler.report.answer.verdicts import (
    gpu_count,
    limit_of,
    method_name,
    rate_title,
    rate_words,
    size_text,
)
from lora_profiler.report.blocks import Bar, Bars
from lora_profiler.report.first_screen import offers, speed_numbers, trust, verdict
from lora_profiler.report.json.changes import Difference, between, difference_table
from lora_profiler.report.json.predict import answer_dict
from lora_profiler.report.labels import method_label
from lora_profiler.report.page.write import drawn
from lora_profiler.units import count_text

# --- by trainer -----------------------------------------------------------------------------------

# The answer by trainer: a bar each, on one scale with the GPU's memory; a click takes one.

_KEY = "trainers"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerBar:
    """A method under one trainer."""

    trainer: str
    setup: TrainSetup
    bar: Bar
    is_chosen: bool = False


def show_by_trainer(
    bars: Sequence[TrainerBar], result: Answered, answer: Answer, model: ModelSpec
) -> None:
    """About the method of `answer`, where there are several trainers; the key of the colours stands
    with the bars of the methods."""
    if len(bars) < 2:
        return
    setup = answer.prediction.workload.setup
    batch = f"{count_text(setup.batch_size)} × {count_text(setup.seq_len)} tokens"
    head = drawn("section", f"{method_label(answer.prediction)} by trainer, {batch}")
    mounted = st.components.v2.component(
        "lora_profiler.trainers",
        html='<div class="lp lp-trainers"></div>',
        js=widgets.own_text("trainers.js"),
        isolate_styles=False,
    )
    limits = (limit_of(answer.gpu, gpu_count(answer)),) if answer.gpu else ()
    drawn_bars = Bars(
        rows=tuple(each.bar for each in bars),
        limits=limits,
        has_sizes=False,
        speed_title=rate_title([answer.prediction]),
    )
    chosen = next((each.bar.name for each in bars if each.is_chosen), "")
    html = head + drawn("bars", drawn_bars, chosen, True, False)
    mounted(key=_KEY, data=html, on_taken_change=partial(_take, bars, result.question, model))


def trainer_bars(result: Answered, answer: Answer, model: ModelSpec) -> list[TrainerBar]:
    """As guides pass each trainer, at the batch size and sequence length of the question, the least
    first; the answer itself stands for its own trainer."""
    question, setup = result.question, answer.prediction.workload.setup
    sizes = {"batch_size", "seq_len", "rank", "targets"}
    given = {n for n in sizes if question.options[n] is not None} | question.explicit
    options = {**DEFAULTS, **{name: question.options[name] for name in given}}
    lines: Iterable[Line] = ()
    if result.guided:
        lines = result.guided.of(setup.method)
    elif has_lines(result.answers, question.explicit):
        on = on_card(answer.prediction.workload, answer.gpu)
        lines = guided_lines(model, options, given, setup.method, on, answer.gpu, known=answer)
    own = question.stack.name if question.trainer else ""
    bars = [
        TrainerBar(
            trainer=line.stack.name,
            setup=line.foreseen.prediction.workload.setup,
            bar=line_bar(line, line.foreseen),
        )
        for line in lines
        if line.foreseen and line.foreseen.prediction.is_whole and line.stack.name != own
    ]
    if own and answer.prediction.is_whole:
        speed = rate_words(answer.step, answer.communication)
        (bar,) = method_bars([answer]).rows
        bar = bar._replace(name=trainer_name(question.stack), speed=speed)
        bars.append(TrainerBar(trainer=own, setup=setup, bar=bar, is_chosen=True))
    return sorted(bars, key=lambda each: each.bar.total_bytes)


def _take(bars: Sequence[TrainerBar], question: Question, model: ModelSpec) -> None:
    name: Any = getattr(st.session_state[_KEY], "taken", None)
    for each in bars:
        if each.bar.name == name and not each.is_chosen:
            change(taken(each, question, model))


def least_that_fits(bars: Sequence[TrainerBar], answer: Answer) -> TrainerBar | None:
    """The trainer to take where `answer` does not fit."""
    if answer.fit is None or answer.fit.verdict == "fits":
        return None
    return next((each for each in bars if each.bar.sign == "fits"), None)


def taken(bar: TrainerBar, question: Question, model: ModelSpec) -> Question:
    """`question` with the trainer of `bar`, set up as the bar is; as the trainer is by default
    where no question has that setup."""
    methods, method = question.options["methods"], bar.setup.method
    defaults = defaults_by_method(question.model, bar.trainer, methods)
    default = {name: of.get(method) for name, of in defaults.items()}
    written = written_options(bar.setup).items()
    own = {n: v for n, v in written if n in SETUP_OPTIONS and default.get(n) != v}
    options = completed(bar.trainer, {**own, "methods": methods}, question.model)
    wanted = replace(question, trainer=bar.trainer, options=options)
    if any(_is_same(setup, bar.setup) for setup in setups(model, wanted)):
        return wanted
    explicit = {name: question.options[name] for name in question.explicit}
    options = completed(bar.trainer, {**explicit, "methods": methods}, question.model)
    return replace(wanted, options=options)


def _is_same(one: TrainSetup, other: TrainSetup) -> bool:
    """But for alpha, which costs nothing and is none of a question where it is left to PEFT."""
    if one.lora is not None and other.lora is not None:
        one = replace(one, lora=replace(one.lora, lora_alpha=other.lora.lora_alpha))
    return one == other


# --- the first screen -----------------------------------------------------------------------------


def show(result: Answered, answer: Answer, model: ModelSpec, *, linked: bool) -> None:
    """About `answer`, one of those of `result`; `linked` where a link can hold the question."""
    with st.container(key="verdict"):
        widgets.piece("verdict", verdict(answer, result.guided), speed_numbers(answer, shown().run))
    with st.container(key="first"):
        by_trainer = trainer_bars(result, answer, model)
        trainer = least_that_fits(by_trainer, answer) if result.guided else None
        _offers(trainer, result, answer, model)
        bars = method_bars(result.answers)._replace(has_sizes=False)
        widgets.bars(bars, method_name(answer))
        show_by_trainer(by_trainer, result, answer, model)
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


def _offers(trainer: TrainerBar | None, result: Answered, answer: Answer, model: ModelSpec) -> None:
    found = offers(answer, result.question.engine)
    wanted = [(offer, applied(offer, answer, model, result.question)) for offer in found]
    able = [(offer, question) for offer, question in wanted if question is not None]
    if not able and trainer is None:
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="xsmall", key="offers"):
        widgets.words("Change one thing:")
        if trainer is not None:
            st.button(
                f"{trainer.bar.name}: {size_text(trainer.bar.peak_bytes)}",
                key="apply.trainer",
                help="The trainer that needs least.",
                on_click=change,
                args=(taken(trainer, result.question, model),),
            )
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
    a, b = (method_label(each.prediction) for each in (pinned, answer))
    widgets.section(f"A, {a}, and B, {b}")
    if found:
        widgets.blocks([difference_table(found, "A", "B")])
    else:
        widgets.note("This is A: nothing differs yet.")
