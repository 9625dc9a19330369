"""A question and all that is said about it: the one place where a page's numbers come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lora_profiler.catalog import Gpu, find_gpu
from lora_profiler.catalog.meta_build import nothing_built
from lora_profiler.dashboard.models import INSTEAD
from lora_profiler.dashboard.question import Question
from lora_profiler.errors import UsageError
from lora_profiler.model_spec import ModelSpec
from lora_profiler.planning.answers import Answer, answers
from lora_profiler.planning.diagnostics import ActivationExcess, activation_excess
from lora_profiler.planning.network import find_network
from lora_profiler.planning.profiles import is_worth_a_trace
from lora_profiler.planning.setups import workloads as planning_workloads
from lora_profiler.platform import Platform
from lora_profiler.prediction import Prediction
from lora_profiler.report.answer.cautions import caution_lines
from lora_profiler.report.json.predict import predict_payload
from lora_profiler.workload import Method, Workload

NOT_TRACED_HERE = (
    "The traced engine runs the real step with torch, which the dashboard never loads. Trace it on"
    " the command line; the profile is kept, and auto and compiled answer from it here."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The answers to a question, one a method."""

    question: Question
    answers: tuple[Answer, ...]
    excess: ActivationExcess | None
    cautions: tuple[str, ...]

    @property
    def payload(self) -> Mapping[str, Any]:
        """The JSON of `lora-profile predict`."""
        return predict_payload(self.answers)

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
    with nothing_built(INSTEAD):
        return planning_workloads(model, question.options, question.given, platform, question.stack)


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
        trainer=question.whose,
    )
    predictions = [answer.prediction for answer in method_answers]
    full = next((p for p in predictions if p.workload.setup.method == "full"), None)
    lora = next((p for p in predictions if p.workload.setup.method != "full"), None)
    return Answered(
        question=question,
        answers=tuple(method_answers),
        excess=activation_excess(full, lora, question.engine) if full and lora else None,
        cautions=tuple(caution_lines(predictions, gpu)),
    )


def would_be_traced(result: Answered) -> bool:
    """Whether the command line would trace the step first, since neither rules nor a profile know
    what the model keeps."""
    return result.question.engine == "auto" and any(
        is_worth_a_trace(p.workload) for p in result.predictions
    )
