"""Crossover: from which length on one way to train needs more memory than another, or takes
longer."""

import streamlit as st

from lora_profiler.dashboard import link, sentence, widgets
from lora_profiler.dashboard.answered import NOT_TRACED_HERE, workloads
from lora_profiler.dashboard.fields import Inputs
from lora_profiler.dashboard.question import Question
from lora_profiler.dashboard.widgets import once
from lora_profiler.errors import LoraProfilerError, UsageError
from lora_profiler.facts.catalog import Gpu, find_gpu
from lora_profiler.planning.crossover import BATCH_SIZES, Crossover, checkpoints_some, crossover
from lora_profiler.planning.setups import workloads as planning_workloads
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.workload import Workload
from lora_profiler.report.blocks import Drawing, Table
from lora_profiler.report.charts.lines import MethodLine, crossover_lines
from lora_profiler.report.charts.plot import Limit
from lora_profiler.report.decision.crossover import crossover_blocks, sentences, setup_sentence
from lora_profiler.report.labels import way_label
from lora_profiler.units import count_text


def show() -> None:
    main, inputs = sentence.ask_between()
    with main:
        _show(inputs)


def _show(inputs: Inputs) -> None:
    link.write(link.written("Crossover", inputs.linked))
    if inputs.model is None:
        return
    timed = inputs.question.gpu is not None and st.toggle(
        "Step times too, which takes some seconds", key="crossover.timed", persist_state="session"
    )
    try:
        crossover = _crossover(inputs, timed=timed)
    except LoraProfilerError as e:
        widgets.problem(str(e), heading="This question has no answer")
        return
    widgets.title("From which length on?", *sentences(crossover))
    batch = int(widgets.choose("Batch", [str(b) for b in BATCH_SIZES], "1", "crossover.batch"))
    nothing = ("No peak is known at this batch.",)
    drawing = crossover_drawing("crossover", crossover, batch, _gpu(inputs))
    widgets.drawing(drawing, "crossover", nothing=nothing)
    widgets.blocks(block for block in crossover_blocks(crossover) if isinstance(block, Table))
    widgets.small(setup_sentence(crossover))


def _gpu(inputs: Inputs) -> Gpu | None:
    return None if inputs.question.gpu is None else find_gpu(inputs.question.gpu)


def _crossover(inputs: Inputs, *, timed: bool) -> Crossover:
    question, model = inputs.question, inputs.model
    assert model is not None
    if question.engine == "traced":
        raise UsageError(NOT_TRACED_HERE)
    gpu = _gpu(inputs) if timed else None
    return once(
        "crossover",
        (question, model.fingerprint, timed),
        lambda: crossover(_ways(model, question), gpu, engine=question.engine),
        "Looking for the lengths",
    )


def _ways(model: ModelSpec, question: Question) -> list[Workload]:
    """All with checkpointing, or all without it."""
    ways = workloads(model, question)
    if not checkpoints_some(ways):
        return ways
    options = {**question.options, "checkpointing": True}
    given = question.explicit | {"checkpointing"}
    return planning_workloads(model, options, given, ways[0].platform, question.stack)


def crossover_drawing(
    name: str, crossover: Crossover, batch_size: int, gpu: Gpu | None = None
) -> Drawing | None:
    """Peaks over lengths at `batch_size`, below what `gpu` has; None where none is known."""
    at = [point for point in crossover.points if point.batch_size == batch_size]
    known = []
    for setup in (way.setup for way in crossover.workloads):
        peaks = {p.seq_len: p.peak_bytes[setup.method] for p in at if setup.method in p.peak_bytes}
        if peaks:
            way = way_label(setup)
            known.append(MethodLine(method=setup.method, name=way, peak_bytes=peaks))
    if not known:
        return None
    key = ("memory", batch_size)
    spans = [(c.first, c.last) for c in crossover.crossings if (c.quantity, c.batch_size) == key]
    ends = sorted({end for span in spans for end in span if end is not None})
    limit = Limit(label=gpu.name, bytes=gpu.usable_bytes) if gpu and gpu.usable_bytes else None
    return Drawing(
        name=name,
        caption=f"The peak of each method over the length, at batch {count_text(batch_size)}.",
        description=" ".join(sentences(crossover)),
        figure=crossover_lines(known, ends, limit),
    )
