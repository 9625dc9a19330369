"""Predict: one question, its answer on one screen, and behind tabs all that it rests on."""

import shlex

from lora_profiler.dashboard import details, dropped, first_screen, link, sentence, widgets
from lora_profiler.dashboard.answered import Answered, answered, would_be_traced
from lora_profiler.dashboard.fields import tell
from lora_profiler.dashboard.question import setup_arguments
from lora_profiler.dashboard.remembered import shown
from lora_profiler.errors import LoraProfilerError


def show() -> None:
    inputs = sentence.ask()
    dropped.tell()
    tell(inputs)
    if inputs.model is None:
        link.write(link.written("Predict", None if inputs.uploaded else inputs.question))
        return
    try:
        result = answered(inputs.model, inputs.question)
    except LoraProfilerError as e:
        link.write(link.written("Predict", None if inputs.uploaded else inputs.question))
        widgets.problem(str(e), heading="This question has no answer")
        return
    _caution(result)
    answer = result.about(shown().about)
    first_screen.show(result, answer, inputs.model, linked=not inputs.uploaded)
    details.show(result, answer)


def _caution(result: Answered) -> None:
    if result.cautions:
        widgets.caution(*result.cautions)
    if would_be_traced(result):
        command = shlex.join(
            ["lora-profile", "compile", result.question.model, *setup_arguments(result.question)]
        )
        widgets.caution(
            "Neither the rules nor a profile know this model's activations, so that every peak here"
            " is a lower bound. Trace the step once on the command line, and this page knows them"
            " too:",
            command,
        )
