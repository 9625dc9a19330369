"""An offer of the first screen, or a run of a plan, as the question that it leads to."""

from dataclasses import replace
from typing import Any

from lora_profiler.dashboard.answered import workloads
from lora_profiler.dashboard.question import SETUP_OPTIONS, Question, completed
from lora_profiler.errors import LoraProfilerError
from lora_profiler.model_spec import ModelSpec
from lora_profiler.planning.answers import Answer
from lora_profiler.planning.setups import written_options
from lora_profiler.report.first_screen import Offer
from lora_profiler.workload import TrainSetup, Workload


def applied(offer: Offer, answer: Answer, model: ModelSpec, question: Question) -> Question | None:
    """`question` with what `offer` changes of the setup of `answer`, whose methods are asked
    beside; None where no question has that setup, as where a trainer lays out rows otherwise."""
    if offer.setup is None:
        return replace(question, gpu=offer.gpu)
    methods = question.options["methods"]
    if offer.setup.method not in methods:
        methods = (*methods, offer.setup.method)
    changed = _changed(answer.prediction.workload.setup, offer.setup, question)
    options = completed(question.trainer, {**question.options, **changed, "methods": methods})
    wanted = replace(question, options=options)
    try:
        made = [workload.setup for workload in workloads(model, wanted)]
    except LoraProfilerError:  # another method that is asked beside cannot do it
        return None
    return wanted if offer.setup in made else None


def asking(workload: Workload, question: Question) -> Question | None:
    """`question` with the setup of `workload` in place of its own; None where no question has that
    setup."""
    setup = workload.setup
    own = {n: v for n, v in written_options(setup).items() if n in SETUP_OPTIONS}
    options = completed(question.trainer, {**own, "methods": (setup.method,)})
    wanted = replace(question, options=options)
    try:
        made = [each.setup for each in workloads(workload.model, wanted)]
    except LoraProfilerError:
        return None
    return wanted if made == [setup] else None


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
