"""Crossover: from which length on one way to train needs more memory than another, or takes
longer."""

import streamlit as st

from lora_profiler.catalog import Gpu, find_gpu
from lora_profiler.dashboard import link, sentence, widgets
from lora_profiler.dashboard.answered import NOT_TRACED_HERE, workloads
from lora_profiler.dashboard.fields import Asked, tell
from lora_profiler.dashboard.widgets import once
from lora_profiler.errors import LoraProfilerError, UsageError
from lora_profiler.planning.crossover import BATCH_SIZES, Crossover, crossover
from lora_profiler.report.blocks import Table
from lora_profiler.report.decision.crossover import crossover_blocks, sentences
from lora_profiler.report.decision.figures import crossover_drawing


def show() -> None:
    inputs = sentence.ask_between()
    tell(inputs)
    link.write(link.written("Crossover", None if inputs.uploaded else inputs.question))
    if inputs.model is None:
        return
    timed = inputs.question.gpu is not None and st.toggle(
        "Step times too, which takes some seconds", key="crossover.timed", persist_state="session"
    )
    try:
        found = _found(inputs, timed=timed)
    except LoraProfilerError as e:
        widgets.problem(str(e), heading="This question has no answer")
        return
    widgets.title("From which length on?", *sentences(found))
    batch = int(widgets.choose("Batch", [str(b) for b in BATCH_SIZES], "1", "crossover.batch"))
    nothing = ("No peak is known at this batch.",)
    drawing = crossover_drawing("crossover", found, batch, _gpu(inputs))
    widgets.drawing(drawing, "crossover", nothing=nothing)
    widgets.blocks(block for block in crossover_blocks(found) if isinstance(block, Table))


def _gpu(inputs: Asked) -> Gpu | None:
    return None if inputs.question.gpu is None else find_gpu(inputs.question.gpu)


def _found(inputs: Asked, *, timed: bool) -> Crossover:
    question, model = inputs.question, inputs.model
    assert model is not None
    if question.engine == "traced":
        raise UsageError(NOT_TRACED_HERE)
    gpu = _gpu(inputs) if timed else None
    return once(
        "crossover",
        (question, model.fingerprint, timed),
        lambda: crossover(workloads(model, question), gpu, engine=question.engine),
        "Looking for the lengths",
    )
