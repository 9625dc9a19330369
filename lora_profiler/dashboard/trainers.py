"""The answer by trainer: a bar each, on one scale with the GPU's memory; a click takes one."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import streamlit as st

from lora_profiler.dashboard import widgets
from lora_profiler.dashboard.answered import Answered, workloads
from lora_profiler.dashboard.question import SETUP_OPTIONS, Question, completed, defaults_by_method
from lora_profiler.dashboard.remembered import change
from lora_profiler.errors import LoraProfilerError
from lora_profiler.model_spec import ModelSpec
from lora_profiler.planning.answers import Answer
from lora_profiler.planning.engine import on_card
from lora_profiler.planning.guided import Foreseen, Line, guided_lines, has_lines
from lora_profiler.planning.setups import DEFAULTS, written_options
from lora_profiler.report.answer.bars import bar_parts
from lora_profiler.report.answer.verdicts import gpu_name, size_text
from lora_profiler.report.card import FRAMES
from lora_profiler.report.labels import method_label
from lora_profiler.report.palette import VERDICT_SIGNS
from lora_profiler.stacks import Stack
from lora_profiler.units import byte_unit, count_text, short_in_unit
from lora_profiler.workload import TrainSetup

_KEY = "trainers"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerBar:
    """A method under one trainer; the parts of its peak in bytes, in the order in which they are
    drawn."""

    trainer: str
    name: str
    setup: TrainSetup
    parts: dict[str, int]
    overhead_bytes: int
    sign: str
    speed: str
    is_chosen: bool

    @property
    def peak_bytes(self) -> int:
        return sum(self.parts.values())

    @property
    def total_bytes(self) -> int:
        return self.peak_bytes + self.overhead_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerBars:
    """Bars up to `scale_bytes`, the least first; `gpu` is the label of where its memory ends, of
    `usable_bytes`, None without one."""

    head: str
    gpu: str
    usable_bytes: int | None
    scale_bytes: int
    bars: tuple[TrainerBar, ...]

    def percent(self, size: int) -> float:
        return round(100 * size / self.scale_bytes, 3)

    def is_cut(self, bar: TrainerBar) -> bool:
        return bar.total_bytes > self.scale_bytes

    @property
    def has_cut(self) -> bool:
        return any(map(self.is_cut, self.bars))

    @property
    def has_speeds(self) -> bool:
        return any(bar.speed for bar in self.bars)

    def number(self, size: int) -> str:
        return short_in_unit(size, self.unit[1])

    @property
    def unit(self) -> tuple[str, int]:
        return byte_unit(self.usable_bytes or max(bar.peak_bytes for bar in self.bars))

    @property
    def parts(self) -> tuple[str, ...]:
        """Names for the key, in the order of the bars."""
        return tuple(dict.fromkeys(name for bar in self.bars for name in bar.parts))


def show(result: Answered, answer: Answer, model: ModelSpec) -> None:
    """About the method of `answer`."""
    drawn = trainer_bars(result, answer, model)
    if len(drawn.bars) < 2:
        return
    mounted = st.components.v2.component(
        "lora_profiler.trainers",
        html='<div class="lp lp-trainers"></div>',
        js=widgets.own_text("trainers.js"),
        isolate_styles=False,
    )
    html = widgets.piece_text("trainers", drawn)
    mounted(key=_KEY, data=html, on_taken_change=partial(_take, drawn.bars, result.question, model))


def trainer_bars(result: Answered, answer: Answer, model: ModelSpec) -> TrainerBars:
    """As guides pass each trainer, at the batch size and sequence length of the question; the
    answer itself stands for its own trainer."""
    question, setup = result.question, answer.prediction.workload.setup
    sizes = {"batch_size", "seq_len", "rank", "targets"}
    given = {n for n in sizes if question.options[n] is not None} | question.explicit
    options = {**DEFAULTS, **{name: question.options[name] for name in given}}
    usable = answer.gpu.usable_bytes if answer.gpu else None
    lines: Iterable[Line] = ()
    if result.guided:
        lines = result.guided.of(setup.method)
    elif has_lines(result.answers, question.explicit):
        on = on_card(answer.prediction.workload, answer.gpu)
        lines = guided_lines(model, options, given, setup.method, on, answer.gpu)
    own = question.stack.name if question.trainer else ""
    bars = [
        _bar(line.stack, line.foreseen, is_chosen=False)
        for line in lines
        if line.foreseen and line.foreseen.prediction.is_whole and line.stack.name != own
    ]
    if own and answer.prediction.is_whole:
        foreseen = Foreseen(prediction=answer.prediction, judged=None, step=answer.step)
        bar = _bar(question.stack, foreseen, is_chosen=True)
        if answer.fit:
            sign, overhead = VERDICT_SIGNS[answer.fit.verdict], answer.fit.reserve_bytes
            bar = replace(bar, overhead_bytes=overhead, sign=sign)
        bars.append(bar)
    largest = max((bar.total_bytes for bar in bars), default=1)
    batch = f"{count_text(setup.batch_size)} × {count_text(setup.seq_len)} tokens"
    return TrainerBars(
        head=f"{method_label(answer.prediction)} by trainer, {batch}",
        gpu=f"{gpu_name(answer.gpu)}, {size_text(usable)}" if answer.gpu and usable else "",
        usable_bytes=usable,
        scale_bytes=int(FRAMES * usable) if usable else largest,
        bars=tuple(sorted(bars, key=lambda bar: bar.total_bytes)),
    )


def _bar(stack: Stack, foreseen: Foreseen, *, is_chosen: bool) -> TrainerBar:
    judged, step = foreseen.judged, foreseen.step
    return TrainerBar(
        trainer=stack.name,
        name=stack.library or ("your own loop" if stack.name == "loop" else "bare loop"),
        setup=foreseen.prediction.workload.setup,
        parts=bar_parts(foreseen.prediction),
        overhead_bytes=judged.reserve.total_bytes if judged else 0,
        sign=VERDICT_SIGNS[judged.verdict] if judged else "",
        speed=count_text(round(step.time.tokens_per_second)) if step else "",
        is_chosen=is_chosen,
    )


def _take(bars: tuple[TrainerBar, ...], question: Question, model: ModelSpec) -> None:
    """Asks for what the bar that was clicked stands for."""
    name: Any = getattr(st.session_state[_KEY], "taken", None)
    for bar in bars:
        if bar.trainer == name and not bar.is_chosen:
            change(taken(bar, question, model))


def taken(bar: TrainerBar, question: Question, model: ModelSpec) -> Question:
    """`question` with the trainer of `bar`, set up as the bar is; as the trainer is by default
    where no question has that setup."""
    methods, method = question.options["methods"], bar.setup.method
    default = {n: of.get(method) for n, of in defaults_by_method(bar.trainer, methods).items()}
    written = written_options(bar.setup).items()
    own = {n: v for n, v in written if n in SETUP_OPTIONS and default.get(n) != v}
    options = completed(bar.trainer, {**own, "methods": methods})
    wanted = replace(question, trainer=bar.trainer, options=options)
    try:
        made = [workload.setup for workload in workloads(model, wanted)]
        if any(_is_same(setup, bar.setup) for setup in made):
            return wanted
    except LoraProfilerError:  # another method that is asked cannot do it
        pass
    explicit = {name: question.options[name] for name in question.explicit}
    return replace(wanted, options=completed(bar.trainer, {**explicit, "methods": methods}))


def _is_same(one: TrainSetup, other: TrainSetup) -> bool:
    """But for alpha, which costs nothing and is none of a question where it is left to PEFT."""
    if one.lora is not None and other.lora is not None:
        one = replace(one, lora=replace(one.lora, lora_alpha=other.lora.lora_alpha))
    return one == other
