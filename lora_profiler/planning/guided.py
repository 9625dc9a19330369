"""One question in the loops that people run: each trainer as its guides pass it, at the batch size
and sequence length of the question, so that trainers can be compared; and what would change the
answer most."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import log
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.catalog import Gpu
from lora_profiler.facts.stacks import (
    GUIDE,
    Stack,
    Trainer,
    as_guided,
    find_stack,
    guided_trainers,
    spelled,
)
from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.answers import Answer
from lora_profiler.planning.engine import engines_for, on_card, peak_bytes_checked, predict_checked
from lora_profiler.planning.fit import fit, judged_on
from lora_profiler.planning.reserve import Judged, held_bytes
from lora_profiler.planning.setups import workloads
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.option import flag
from lora_profiler.question.support.generations import has_packed_experts
from lora_profiler.question.workload import Method, Workload, idle_options

if TYPE_CHECKING:
    from lora_profiler.planning.placement import Communication, Network
    from lora_profiler.planning.timing import TimedStep

MOST_CHANGES: Final = 3
EVALUATION_BATCH_SIZE: Final = 8
"""transformers' default of per_device_eval_batch_size."""


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """One way to run a question: its peak, and on a GPU the verdict, None where it is not known.
    `answer` is the headline's, where this is the way that it takes; `network` is its ranks'."""

    prediction: Prediction
    judged: Judged | None
    gpu: Gpu | None
    engine: str
    answer: Answer | None = None
    network: "Network | None" = None

    @property
    def communication(self) -> "Communication | None":
        """What a rank sends in a step; None for a process alone."""
        from lora_profiler.planning.placement import communication

        return communication(self.prediction, self.network)

    @cached_property
    def step(self) -> "TimedStep | None":
        """The step's time, worked out when it is first read; None where nothing is known of it."""
        if self.answer is not None:
            return self.answer.step
        if self.gpu is None:
            return None
        from lora_profiler.planning.timing import is_timed, step_time

        workload = self.prediction.workload
        if not is_timed(workload, self.gpu):
            return None
        return step_time(workload, self.gpu, self.engine, self.prediction).step


class Line(NamedTuple):
    """A method under one trainer: what is foreseen, or in a sentence why nothing is."""

    model: str
    stack: Stack
    method: Method
    foreseen: Foreseen | None
    refusal: str | None


class OpenChange(NamedTuple):
    """What one thing that the question leaves open is worth: all as in the headline, but for
    `option`, which is `value`."""

    option: str
    value: bool | int | str
    foreseen: Foreseen

    @property
    def peak_bytes(self) -> int:
        return self.foreseen.prediction.peak.total_bytes


class WayIn(NamedTuple):
    """Options to add to a question, so that a method fits that surely fits with no trainer."""

    options: tuple[str, ...]
    peak_bytes: int


@dataclass(frozen=True, kw_only=True)
class Guided:
    """A question by trainer: `lines` for each trainer and method of its `answers`. `own_defaults`:
    with each trainer's defaults, batch size and sequence length among them, in place of what its
    guides pass. What else there is to say of a method is worked out when it is asked for."""

    lines: tuple[Line, ...]
    answers: Sequence[Answer]
    options: Mapping[str, Any] = field(repr=False)
    given: Collection[str] = field(repr=False)
    own_defaults: bool = False
    _changes: dict[Method, tuple[OpenChange, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def by_method(self) -> dict[Method, Answer]:
        return {answer.prediction.workload.setup.method: answer for answer in self.answers}

    def of(self, method: Method) -> tuple[Line, ...]:
        return tuple(line for line in self.lines if line.method == method)

    def changes(self, method: Method) -> tuple[OpenChange, ...]:
        """What matters most of what the question leaves open, the largest first."""
        if method not in self._changes:
            answer = self.by_method[method]
            self._changes[method] = tuple(open_changes(answer, self.options, self.given))
        return self._changes[method]

    def way_in(self, method: Method) -> WayIn | None:
        """Where the method surely fits with no trainer, how it does."""
        return way_in(self.by_method[method], self.options, self.given, self.of(method))


def guided(
    answers: Sequence[Answer],
    options: Mapping[str, Any],
    given: Collection[str],
    *,
    own_defaults: bool = False,
) -> Guided:
    """Of `answers` to one question by several methods; `options` and `given` as in `setups`, whose
    batch is the worst of the data where there are some."""
    first = answers[0].prediction.workload
    if answers[0].over_data is not None:
        sizes = {"batch_size": first.setup.batch_size, "seq_len": first.setup.seq_len}
        options, given = {**options, **sizes}, {*given, *sizes}
    lines = (
        line
        for answer in answers
        for line in guided_lines(
            first.model,
            options,
            given,
            answer.prediction.workload.setup.method,
            on_card(first, answer.gpu),
            answer.gpu,
            own_defaults=own_defaults,
            known=answer,
        )
    )
    return Guided(
        lines=tuple(lines), answers=answers, options=options, given=given, own_defaults=own_defaults
    )


def has_lines(answers: Sequence[Answer], given: Collection[str]) -> bool:
    """Whether a question has an answer for each trainer: not where it says what the loop keeps, or
    generates, as no supervised fine-tuning does."""
    setups = [answer.prediction.workload.setup for answer in answers]
    return "loop_state" not in given and not any(s.completions_at_once for s in setups)


def guided_lines(
    model: ModelSpec,
    options: Mapping[str, Any],
    given: Collection[str],
    method: Method,
    on: Workload,
    gpu: Gpu | None = None,
    *,
    own_defaults: bool = False,
    known: Answer | None = None,
) -> Iterator[Line]:
    """A line for each of `guided_trainers`; `on` is a workload on the platform that is asked about,
    `known` the answer to one of them.

    What was given overrules every guide. Nothing is traced: where no rule or profile knows what a
    model's layers keep, the peak is a lower bound, but of the question that is `known`.
    """
    platform = on.platform
    sent = known.communication if known is not None else None
    network = sent.network if sent is not None else None
    for name in guided_trainers():
        stack = find_stack(name)
        if not own_defaults:
            stack = as_guided(stack)
        foreseen: Foreseen | None = None
        refusal: str | None = None
        try:
            workload = asked_of(stack, model, options, given, method, platform)
            if known is not None and known.prediction.workload == workload:
                foreseen = _foreseen(known.prediction, gpu, "auto", known, network)
            else:
                foreseen = foresee(workload, gpu, network)
        except LoraProfilerError as e:
            refusal = str(e)
        yield Line(model=model.id, stack=stack, method=method, foreseen=foreseen, refusal=refusal)


def foresee(workload: Workload, gpu: Gpu | None, network: "Network | None" = None) -> Foreseen:
    """By rules and profiles at hand. Raises what `predict` raises."""
    (engine,) = engines_for([workload], "auto", may_trace=False)
    return _foreseen(predict_checked(workload, engine), gpu, engine, network=network)


def way_in(
    answer: Answer, options: Mapping[str, Any], given: Collection[str], lines: Sequence[Line]
) -> WayIn | None:
    """By the trainer that needs least, where the method surely fits with none: what makes it fit,
    else the longest sequence that does. None where what lives through the step has no room."""
    gpu, workload = answer.gpu, answer.prediction.workload
    judged = [line for line in lines if line.foreseen and line.foreseen.judged]
    if gpu is None or not judged or any(_verdict(line) == "fits" for line in judged):
        return None
    least = min(judged, key=lambda line: _prediction(line).peak.total_bytes)
    stack = find_stack(least.stack.name)
    if stack.name == GUIDE or held_bytes(_prediction(least)) > (gpu.usable_bytes or 0):
        return None
    sizes = {"batch_size": workload.setup.batch_size, "seq_len": workload.setup.seq_len}
    names = {*given, *sizes} - idle_options((least.method,))
    try:
        asked = asked_of(
            stack, workload.model, {**options, **sizes}, names, least.method, workload.platform
        )
        foreseen = foresee(asked, gpu)
    except LoraProfilerError:
        return None
    from lora_profiler.planning.advise import advise

    trainer = Trainer(stack=stack, explicit=frozenset(names))
    remedies = advise(
        asked, gpu, foreseen.engine, foreseen.prediction, besides=answer.besides, trainer=trainer
    )
    if remedies:
        words, peak = remedies[0].options, remedies[0].peak_bytes
    else:
        grown = fit(asked, gpu, foreseen.engine, foreseen.prediction, may_trace=False)
        longest = (grown.longest_seq_len or 0) // _STEP * _STEP if grown else 0
        if not longest:
            return None
        words = (f"-s {longest}",)
        shorter = replace(asked, setup=replace(asked.setup, seq_len=longest))
        peak = peak_bytes_checked(shorter, foreseen.engine)
    pinned = [
        f"{short} {value}"
        for (name, value), short in zip(sizes.items(), ("-b", "-s"), strict=True)
        if name not in given and not any(o.startswith((short, flag(name))) for o in words)
    ]
    return WayIn((f"--trainer {stack.name}", *pinned, *words), peak)


_STEP = 64
"""Tokens of which a length that is proposed is a multiple."""


def _prediction(line: Line) -> Prediction:
    assert line.foreseen is not None
    return line.foreseen.prediction


def _verdict(line: Line) -> str:
    judged = line.foreseen.judged if line.foreseen else None
    return judged.verdict if judged else ""


def asked_of(
    stack: Stack,
    model: ModelSpec,
    options: Mapping[str, Any],
    given: Collection[str],
    method: Method,
    platform: Platform,
) -> Workload:
    """The question as one trainer runs it by one of the question's methods. Raises
    LoraProfilerError where it cannot."""
    stack.check_model(model)
    asked = {**options, "methods": (method,)}
    written, names = spelled(stack, asked, {*given} - idle_options((method,)))
    (workload,) = workloads(model, written, names, platform, stack)
    return workload


def _foreseen(
    prediction: Prediction,
    gpu: Gpu | None,
    engine: str,
    answer: Answer | None = None,
    network: "Network | None" = None,
) -> Foreseen:
    return Foreseen(
        prediction=prediction,
        judged=judged_on(prediction, gpu, engine) if gpu else None,
        gpu=gpu,
        engine=engine,
        answer=answer,
        network=network,
    )


def open_changes(
    answer: Answer, options: Mapping[str, Any], given: Collection[str]
) -> list[OpenChange]:
    """What matters most of what the question of `answer` leaves open: checkpointing, the length of
    samples, evaluation, k-bit preparation, the format of weights, the loss, and with experts the
    version of transformers."""
    workload = answer.prediction.workload
    setup, peak = workload.setup, answer.prediction.peak.total_bytes
    values: dict[str, bool | int | str] = {
        "checkpointing": not setup.checkpointing,
        "eval_batch_size": EVALUATION_BATCH_SIZE,
        "loss": "fused",
    }
    if setup.seq_len > 1:
        values["seq_len"] = setup.seq_len // 2
    if setup.quantization is None:
        values["dtype"] = "float32"
    else:
        values["recipe"] = "kbit" if setup.quantization.recipe == "stock" else "stock"
        if has_packed_experts(workload.model):  # of which older ones make 4-bit layers
            values["transformers"] = "4.57"
    assert answer.trainer is not None
    changes, read = [], {*given} - idle_options((setup.method,))
    for option, value in values.items():
        if option in given:
            continue
        changed = {**options, option: value, "methods": (setup.method,)}
        try:
            (other,) = workloads(
                workload.model, changed, {*read, option}, workload.platform, answer.trainer.stack
            )
            foreseen = foresee(other, answer.gpu)
        except LoraProfilerError:
            continue
        if foreseen.prediction.is_whole and foreseen.prediction.peak.total_bytes != peak:
            changes.append(OpenChange(option=option, value=value, foreseen=foreseen))
    changes.sort(key=lambda change: -abs(log(change.peak_bytes / peak)))
    return changes[:MOST_CHANGES]
