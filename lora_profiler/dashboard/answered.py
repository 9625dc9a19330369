"""A question and all that is said about it, the one place where a page's numbers come from; and the
questions that an offer, or a run of a plan, leads on to."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import PurePath
from typing import Any

from lora_profiler.dashboard.question import SETUP_OPTIONS, Question, completed
from lora_profiler.errors import LoraProfilerError, ModelNotFoundError, UsageError, nearest
from lora_profiler.facts.catalog import Gpu, bundled_models, find_gpu, find_model, model_from_config
from lora_profiler.facts.catalog.config import parse
from lora_profiler.facts.catalog.lookup import MAX_CONFIG_BYTES
from lora_profiler.facts.catalog.meta_build import builds_refused
from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.answers import Answer, answers
from lora_profiler.planning.engine import is_worth_a_trace
from lora_profiler.planning.guided import Guided, guided, has_lines
from lora_profiler.planning.placement import find_network
from lora_profiler.planning.setups import DEFAULTS, written_options
from lora_profiler.planning.setups import workloads as planning_workloads
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.workload import Method, TrainSetup, Workload
from lora_profiler.report.catalogues import matching
from lora_profiler.report.first_screen import ChangeOffer
from lora_profiler.report.json.predict import predict_payload
from lora_profiler.report.setup_words import caution_lines

INSTEAD = (
    "The dashboard loads no torch to build it; ask on the command line, where `lora-profile"
    " predict` builds it without weights."
)


@lru_cache(maxsize=64)
def published_model(name: str, revision: str, offline: bool) -> ModelSpec:
    """The model of a hub id, URL or alias. Raises what `find_model` raises, UnsupportedModelError
    for what torch would build."""
    with builds_refused(INSTEAD):
        return find_model(name, revision=revision, offline=offline, on_disk=False)


def similar_models(text: str, most: int = 6) -> list[str]:
    """Bundled models that have every word of `text` in their names, the shortest first; else those
    that are spelled most like it."""
    words = re.sub(r"[^\w.]+", " ", text)
    ids = {name: e.id for e in bundled_models() for name in (e.id, *e.aliases)}
    fitting = {ids[name]: None for name in sorted(ids, key=len) if matching(words, [name])}
    if not fitting or not words.strip():
        tails = {name.rpartition("/")[2].lower(): id for name, id in reversed(ids.items())}
        near = nearest(text.rpartition("/")[2], tails, most)
        fitting = {tails[tail]: None for tail in near}
    return list(fitting)[:most]


def uploaded_model(file_name: str, content: bytes) -> ModelSpec:
    """The model of a config.json. Raises ModelNotFoundError, UnsupportedModelError as above."""
    if len(content) > MAX_CONFIG_BYTES:
        raise ModelNotFoundError(
            f"{file_name} is larger than {MAX_CONFIG_BYTES} bytes; a config.json has a few"
            " thousand."
        )
    with builds_refused(INSTEAD):
        config = parse(content, file_name)
        return model_from_config(config, id=PurePath(file_name).stem, source=file_name)


NOT_TRACED_HERE = (
    "The traced engine runs the real step with torch, which the dashboard never loads. Trace it on"
    " the command line; the profile is kept, and auto and compiled answer from it here."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The answers to a question, one a method; `guided` is the same under each trainer, of a
    question that names none."""

    question: Question
    answers: tuple[Answer, ...]
    cautions: tuple[str, ...]
    guided: Guided | None = None

    @property
    def payload(self) -> Mapping[str, Any]:
        return predict_payload(self.answers, [self.guided] if self.guided else [])

    @property
    def predictions(self) -> tuple[Prediction, ...]:
        return tuple(answer.prediction for answer in self.answers)

    @property
    def gpu(self) -> Gpu | None:
        return self.answers[0].gpu

    def about(self, method: Method | None) -> Answer:
        """The answer of that method; of the nearest where a checkpoint in 4 bit made it another."""
        of = {a.prediction.workload.setup.method: a for a in self.answers}
        return (of.get(method) if method else None) or of.get("qlora") or self.answers[-1]


def workloads(model: ModelSpec, question: Question) -> list[Workload]:
    """One for each method, on the card's platform. Raises UsageError, UnsupportedModelError for a
    model that sees, which torch would build."""
    gpu = find_gpu(question.gpu) if question.gpu is not None else None
    platform = gpu.platform() if gpu else Platform()
    with builds_refused(INSTEAD):
        return planning_workloads(
            model, question.options, question.explicit, platform, question.stack
        )


def setups(model: ModelSpec, question: Question) -> list[TrainSetup]:
    """One for each method; none where one of the methods cannot do what is asked."""
    try:
        return [workload.setup for workload in workloads(model, question)]
    except LoraProfilerError:
        return []


def answered(model: ModelSpec, question: Question) -> Answered:
    """Every method's answer. Raises UsageError for what the command line would refuse, and what the
    engine raises.

    Nothing is traced: "traced" is refused with what to do instead.
    """
    if question.engine == "traced":
        raise UsageError(NOT_TRACED_HERE)
    gpu = find_gpu(question.gpu) if question.gpu is not None else None
    network = find_network(question.interconnect) if question.interconnect is not None else None
    method_answers = answers(
        workloads(model, question),
        gpu,
        question.engine,
        levers="all",
        network=network,
        may_trace=False,
        trainer=question.trainer_defaults,
        given=question.explicit,
    )
    predictions = [answer.prediction for answer in method_answers]
    beside = None
    if question.trainer is None and has_lines(method_answers, question.explicit):
        chosen = {name: question.options[name] for name in question.explicit}
        beside = guided(method_answers, {**DEFAULTS, **chosen}, question.explicit)
    return Answered(
        question=question,
        answers=tuple(method_answers),
        cautions=tuple(caution_lines(predictions, gpu, method_answers[0].trainer)),
        guided=beside,
    )


def would_be_traced(result: Answered) -> bool:
    """Whether the command line would trace the step: neither rules nor a profile know it."""
    return result.question.engine == "auto" and any(
        is_worth_a_trace(p.workload) for p in result.predictions
    )


def applied(
    offer: ChangeOffer, answer: Answer, model: ModelSpec, question: Question
) -> Question | None:
    """`question` with what `offer` changes of the setup of `answer`, whose methods are asked
    beside; None where no question has that setup, as where a trainer lays out rows otherwise."""
    if offer.setup is None:
        return replace(question, gpu=offer.gpu)
    methods = question.options["methods"]
    if offer.setup.method not in methods:
        methods = (*methods, offer.setup.method)
    changed = _changed(answer.prediction.workload.setup, offer.setup, question)
    options = completed(
        question.trainer, {**question.options, **changed, "methods": methods}, question.model
    )
    wanted = replace(question, options=options)
    return wanted if offer.setup in setups(model, wanted) else None


def asking(workload: Workload, question: Question) -> Question | None:
    """`question` with the setup of `workload`; None where no question has that setup."""
    setup = workload.setup
    own = {n: v for n, v in written_options(setup).items() if n in SETUP_OPTIONS}
    options = completed(question.trainer, {**own, "methods": (setup.method,)}, question.model)
    wanted = replace(question, options=options)
    return wanted if setups(workload.model, wanted) == [setup] else None


def _changed(before: TrainSetup, after: TrainSetup, question: Question) -> dict[str, Any]:
    """Options that differ; all of a part that was not there. A micro-batch in the question's own
    count, where a trainer lays out several rows for one."""
    had, has = written_options(before), written_options(after)
    changed = {
        name: value
        for name, value in has.items()
        if name in SETUP_OPTIONS and value != had.get(name, question.options[name])
    }
    if "batch_size" in changed:
        rows = before.batch_size // question.options["batch_size"] or 1
        changed["batch_size"] = after.batch_size // rows
    return changed
