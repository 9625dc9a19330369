"""Measure: the present question trained for real on this machine, followed while it goes, and held
against its prediction."""

from dataclasses import replace
from functools import cache, partial
from typing import Any, get_args

import streamlit as st

from lora_profiler._common.messages import WARNING, messages_in
from lora_profiler.dashboard import (
    following,
    link,
    measuring,
    records,
    remembered,
    sentence,
    widgets,
)
from lora_profiler.dashboard.answered import Answered, answered
from lora_profiler.dashboard.fields import Inputs
from lora_profiler.dashboard.measuring import BenchConditions, CaseState, Measuring
from lora_profiler.dashboard.question import Question, completed
from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.catalog import bundled_gpus
from lora_profiler.measuring.harness import Heartbeat
from lora_profiler.measuring.harness.capabilities import present_device
from lora_profiler.planning.setups import CPU_DEFAULTS, DEFAULTS
from lora_profiler.question.option import MAX_SIZE
from lora_profiler.question.workload import Device
from lora_profiler.report import labels
from lora_profiler.report.blocks import Row, Table, table
from lora_profiler.report.charts.bars import phase_samples
from lora_profiler.report.charts.lines import step_times
from lora_profiler.report.charts.plot import Limit
from lora_profiler.report.labels import method_label
from lora_profiler.report.measured import run_labels
from lora_profiler.report.measured.running import beat_text, predicted_text
from lora_profiler.report.page.runs import numbered
from lora_profiler.runs.comparison.errors import scored
from lora_profiler.units import bytes_text, clock_text, count_text, seconds_text


def show() -> None:
    (main, inputs), conditions = sentence.ask_measured(_how)
    with main:
        link.write(link.written("Measure", inputs.linked))
        if inputs.model is not None:
            try:
                result = answered(inputs.model, _as_measured(inputs.question, conditions))
            except LoraProfilerError as e:
                widgets.problem(str(e), heading="This question cannot be measured")
            else:
                _before(result, inputs, conditions)
        following.show("measuring", _going, _after)


# --- before ---------------------------------------------------------------------------------------

SMALL_MODEL = "HuggingFaceTB/SmolLM2-135M"


def _how() -> BenchConditions:
    with st.container(key="conditions", gap="xsmall"):
        widgets.head("How it is measured")
        return _conditions()


def _conditions() -> BenchConditions:
    card = st.selectbox(
        "Rehearse on",
        [gpu.key for gpu in bundled_gpus() if gpu.vendor == "nvidia" and gpu.usable_bytes],
        index=None,
        **_kept("rehearsed_on"),
        placeholder="Train for real",
        help="Memory alone, without training or a GPU; needs the CUDA build of torch.",
    )
    if card is not None:
        return BenchConditions(rehearsed_on=card)
    device: Device | None = st.selectbox(
        "Train on",
        get_args(Device),
        index=None,
        **_kept("device"),
        placeholder="An accelerator, else CPU",
    )
    no_timing = st.toggle("Memory alone, no step times", **_kept("no_timing"))
    steps = seconds = None
    if not no_timing:
        looks: dict[str, Any] = {"value": None, "placeholder": "10", "format": "%d"}
        steps = st.number_input("Timed steps, at least", 1, MAX_SIZE, **_kept("steps"), **looks)
        looks = {"value": None, "placeholder": "60", "format": "%g"}
        most = "Time no longer than, seconds"
        seconds = st.number_input(most, 1.0, 86_400.0, **_kept("seconds"), **looks)
    budget = st.text_input(
        "Memory budget",
        **_kept("budget"),
        placeholder="the device's own; or 24GiB",
        help="Emulates a device with so much memory: does it fit?",
    )
    tip = "Each in a process of its own."
    repeats = st.number_input("Runs of each case", 1, 100, help=tip, **_kept("repeats"))
    until = "End a case after, seconds"
    timeout = st.number_input(until, 10.0, 86_400.0, 1800.0, format="%g", **_kept("timeout"))
    return BenchConditions(
        device=device,
        steps=steps,
        timing_seconds=seconds,
        no_timing=no_timing,
        budget=budget.strip() or None,
        repeats=repeats,
        timeout=timeout,
    )


def _kept(name: str) -> dict[str, Any]:
    return {"persist_state": "session", "key": f"measure.{name}"}


def _as_measured(question: Question, conditions: BenchConditions) -> Question:
    """The question of the device that would be trained on, or of the card that is pretended;
    `bench` asks about no card else, and no engine."""
    device = "cuda" if conditions.rehearsed_on else conditions.device or default_device()
    return replace(
        question,
        options={**question.options, "device": device},
        gpu=conditions.rehearsed_on,
        interconnect=None,
        engine="auto",
    )


@cache
def default_device() -> Device:
    return present_device()


def _before(result: Answered, inputs: Inputs, conditions: BenchConditions) -> None:
    on = conditions.rehearsed_on or result.question.options["device"].upper()
    model = result.predictions[0].workload.model
    if conditions.rehearsed_on is None:
        widgets.title(
            f"Measure {model.id}",
            f"Trains on this machine ({on}), each method in its own process.",
            "Weights are random: nothing is downloaded. Results go to your records and to Compare.",
        )
    else:
        widgets.title(
            f"Rehearse {model.id} on {on}",
            "Counts the GPU memory that the steps request, to the byte, without a GPU.",
            "Needs the CUDA build of torch: lora-profile rehearse --setup FOLDER.",
        )
    columns = (("method", method_label), (f"predicted peak on {on}", predicted_text))
    widgets.blocks([table(result.predictions, columns)])
    refused = measuring.refusal(result, conditions)
    if refused is not None:
        widgets.problem(refused, heading="This machine cannot measure it")
        _instead(inputs)
    else:
        widgets.small(measuring.duration_words(result, conditions))
    following.start_button(
        "Start measuring" if conditions.rehearsed_on is None else "Start the rehearsal",
        "measure.start",
        partial(measuring.start, model, result.question, conditions, uploaded=inputs.uploaded),
        disabled=refused is not None,
    )


def _instead(inputs: Inputs) -> None:
    if inputs.question.model != SMALL_MODEL or inputs.uploaded:
        st.button(
            "Measure SmolLM2-135M instead", key="measure.small", type="primary", on_click=_small
        )
    widgets.small("Or choose a GPU under Rehearse on: that counts memory without training.")


def _small() -> None:
    own = CPU_DEFAULTS if default_device() == "cpu" else {}
    options = completed(None, {"methods": DEFAULTS["methods"], **own}, SMALL_MODEL)
    remembered.seed(Question(model=SMALL_MODEL, options=options))
    link.mark_changed()


# --- during ---------------------------------------------------------------------------------------


def _going(running: Measuring) -> None:
    following.under_way(
        running,
        "Rehearsing" if measuring.is_rehearsal(running) else "Measuring",
        _progress(running),
        bar=(measuring.share(running.states.values()), _count(running)),
        key="measure.cancel",
        ending="It is being ended; what is done is stored first.",
        tip="Ends the process; what is done is kept.",
    )
    for case in running.states.values():
        if case.status is None:
            _curves(case)


def _curves(case: CaseState) -> None:
    """What was read of a case so far, beside what was predicted of it."""
    read = case.read
    if read.phases:
        size = case.predicted_bytes
        predicted = None if size is None else Limit(label="predicted peak", bytes=size)
        peak = max(sample.requested_peak_bytes or 0 for sample in read.phases)
        widgets.section("Memory, phase by phase")
        widgets.figure(
            phase_samples(read.phases, predicted),
            "measure.memory",
            f"A line through {len(read.phases)} phases; the largest peak so far is"
            f" {bytes_text(peak)}.",
        )
    seconds = (*read.warmup_seconds, *read.step_seconds)
    if seconds:
        widgets.section("Time of each step")
        widgets.figure(
            step_times(read.warmup_seconds, read.step_seconds),
            "measure.times",
            f"{len(read.warmup_seconds)} warm-up steps and {len(read.step_seconds)} timed ones so"
            f" far, the last of {seconds_text(seconds[-1])}.",
        )


def _count(running: Measuring) -> str:
    """'1 of 3 cases done'."""
    ended = sum(case.status is not None for case in running.states.values())
    of = next((case.of for case in running.states.values() if case.of is not None), None)
    return "Starting" if of is None else f"{ended} of {count_text(of)} cases done"


def _progress(running: Measuring) -> Table:
    steps = table(
        running.states.values(),
        (
            ("case", lambda c: f"{c.case} of {c.of}" if c.of is not None else str(c.case)),
            ("model", lambda case: case.model),
            ("method", lambda case: labels.METHOD_LABELS.get(case.method, case.method)),
            ("now", where),
        ),
        left=4,
    )
    return steps if steps.rows else steps._replace(rows=(Row(cells=("", "", "", "starting")),))


def where(case: CaseState) -> str:
    """Where a case stands: 'step 2: backward', 'timing, 40 steps', or how it ended."""
    if case.status is not None:
        return run_labels.STATUS_LABELS.get(case.status, case.status)
    return beat_text(
        None if case.phase is None else Heartbeat(phase=case.phase, step=case.step, done=case.done)
    )


# --- after ----------------------------------------------------------------------------------------


def _after(ended: Measuring) -> None:
    done = "Rehearsed" if measuring.is_rehearsal(ended) else "Measured"
    widgets.section("Cancelled" if ended.cancelled else done)
    widgets.small(f"{ended.command}; took {clock_text(ended.seconds)}")
    refusal = ended.refusal()
    if refusal is not None:
        widgets.problem(*refusal.splitlines(), heading="Nothing was measured")
        return
    for warning in messages_in(WARNING, ended.stderr_lines):
        widgets.caution(warning)
    runs = numbered(scored(measuring.records(ended)))
    if not runs:
        widgets.note("No case had ended or begun to be measured; nothing was stored.")
    for run in runs:
        records.show(run, f"measured.{run.number}")
