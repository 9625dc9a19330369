"""One question in the loops that people run: each trainer as its guides pass it, at the batch size
and sequence length of the question, so that trainers can be compared; and what would change the
answer most."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import log
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.catalog import Gpu
from lora_profiler.facts.stacks import Stack, as_guided, find_stack, guided_trainers, spelled
from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.answers import Answer
from lora_profiler.planning.engine import engines_for, on_card, predict_checked
from lora_profiler.planning.fit import judged_on
from lora_profiler.planning.reserve import Judged
from lora_profiler.planning.setups import read_by, workloads
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.support.generations import has_packed_experts
from lora_profiler.question.workload import Method, Workload

if TYPE_CHECKING:
    from lora_profiler.planning.timing import TimedStep

MOST_CHANGES: Final = 3
EVALUATION_BATCH_SIZE: Final = 8
"""transformers' default of per_device_eval_batch_size."""


@dataclass(frozen=True, kw_only=True)
class Foreseen:
    """One way to run a question: its peak, and on a GPU the verdict, None where it is not known.
    `answer` is the headline's, where this is the way that it takes."""

    prediction: Prediction
    judged: Judged | None
    gpu: Gpu | None
    engine: str
    answer: Answer | None = None

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


class Guided(NamedTuple):
    """A question by trainer: `lines` for each trainer and method, `changes` by method, the largest
    first. `own_defaults`: with each trainer's defaults, batch size and sequence length among them,
    in place of what its guides pass."""

    lines: tuple[Line, ...]
    changes: Mapping[Method, tuple[OpenChange, ...]]
    own_defaults: bool = False

    def of(self, method: Method) -> tuple[Line, ...]:
        return tuple(line for line in self.lines if line.method == method)


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
        own_defaults=own_defaults,
        lines=tuple(lines),
        changes={
            answer.prediction.workload.setup.method: tuple(open_changes(answer, options, given))
            for answer in answers
        },
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
    for name in guided_trainers():
        stack = find_stack(name)
        if not own_defaults:
            stack = as_guided(stack)
        foreseen: Foreseen | None = None
        refusal: str | None = None
        try:
            workload = asked_of(stack, model, options, given, method, platform)
            if known is not None and known.prediction.workload == workload:
                foreseen = _foreseen(known.prediction, gpu, "auto", known)
            else:
                foreseen = foresee(workload, gpu)
        except LoraProfilerError as e:
            refusal = str(e)
        yield Line(model=model.id, stack=stack, method=method, foreseen=foreseen, refusal=refusal)


def foresee(workload: Workload, gpu: Gpu | None) -> Foreseen:
    """By rules and profiles at hand. Raises what `predict` raises."""
    (engine,) = engines_for([workload], "auto", may_trace=False)
    return _foreseen(predict_checked(workload, engine), gpu, engine)


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
    written, names = spelled(stack, asked, read_by((method,), given))
    (workload,) = workloads(model, written, names, platform, stack)
    return workload


def _foreseen(
    prediction: Prediction, gpu: Gpu | None, engine: str, answer: Answer | None = None
) -> Foreseen:
    judged = judged_on(prediction, gpu, engine) if gpu else None
    return Foreseen(prediction=prediction, judged=judged, gpu=gpu, engine=engine, answer=answer)


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
    changes, read = [], read_by((setup.method,), given)
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
        if foreseen.prediction.is_whole:
            changes.append(OpenChange(option=option, value=value, foreseen=foreseen))
    changes.sort(key=lambda change: -abs(log(change.peak_bytes / peak)))
    return changes[:MOST_CHANGES]
