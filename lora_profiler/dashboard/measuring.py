"""A measurement: `lora-profile bench` on the question of a page, which stores what it measures
itself; and before it begins whether this machine cannot make it, and about how long it takes."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lora_profiler.dashboard import following
from lora_profiler.dashboard.answered import Answered
from lora_profiler.dashboard.export import plain_name
from lora_profiler.dashboard.following import Followed
from lora_profiler.dashboard.question import Question, changed, setup_arguments, with_model
from lora_profiler.errors import LoraProfilerError
from lora_profiler.facts.catalog import Gpu, find_gpu
from lora_profiler.facts.stacks import GUIDE
from lora_profiler.measuring.harness import Case
from lora_profiler.measuring.harness.machine import memory_limit_bytes, physical_memory_bytes
from lora_profiler.measuring.harness.preflight import refuse_on_this_machine
from lora_profiler.measuring.records.load import parsed_record
from lora_profiler.measuring.records.locks import WorkingFolder
from lora_profiler.measuring.records.record import Conditions as Recorded
from lora_profiler.measuring.records.record import Readings, Record, readings_from_dict
from lora_profiler.memory.prediction import Prediction
from lora_profiler.planning.setups import CPU_DEFAULTS, DEFAULTS
from lora_profiler.planning.timing import step_time
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.option import flag
from lora_profiler.question.workload import Device
from lora_profiler.runs.campaign.planned import Planned, refuse_beyond
from lora_profiler.units import about_text, parse_memory


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchConditions:
    """What `bench` is told beside the question, by the names of its options, times in seconds; None
    leaves its default. `rehearsed_on` is the card to pretend, on which nothing is timed; None
    trains for real."""

    rehearsed_on: str | None = None
    device: Device | None = None
    steps: int | None = None
    timing_seconds: float | None = None
    no_timing: bool = False
    budget: str | None = None
    repeats: int = 1
    timeout: float = 1800.0


def bench_arguments(model: str, question: Question, conditions: BenchConditions) -> list[str]:
    """What to give `lora-profile`; `model` is an id or a config.json's path. The device of a
    prediction is not taken over."""
    arguments = setup_arguments(
        replace(
            question,
            trainer=question.trainer or GUIDE,  # `bench` has the bare loop by default
            options={**question.options, "device": DEFAULTS["device"]},
        )
    )
    own = question.stack.options
    arguments.append("--own-loop")
    scaled = question.options["precision"] == "amp-float16"
    for name in CPU_DEFAULTS:
        if name == "dtype" and scaled and "full" in question.options["methods"]:
            continue  # full and LoRA take different ones unless one is given
        if name not in question.explicit and name not in own:
            arguments += [flag(name), str(question.options[name])]
    if conditions.rehearsed_on is not None:
        arguments += ["--rehearse", "--gpu", conditions.rehearsed_on]
        return with_model("bench", model, arguments)
    names = ("device", "steps", "timing_seconds", "budget", "repeats", "timeout")
    for name, values in changed(conditions, BenchConditions(), names).items():
        arguments += [flag(name), *values]
    if conditions.no_timing:
        arguments.append("--no-timing")
    return with_model("bench", model, arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class CaseState:
    """Where one case stands, as `bench --progress json` tells it, and all that was read of it."""

    case: int
    of: int | None
    model: str
    method: str
    state: str
    predicted_bytes: int | None
    phase: str | None
    step: int | None
    done: int | None
    status: str | None
    record_id: str | None
    read: Readings
    left_s: int | None = None


Measuring = Followed[CaseState]


def read_case(line: Mapping[str, Any], before: Mapping[int, CaseState]) -> tuple[int, CaseState]:
    """Raises TypeError for a line that is none."""
    state = CaseState(**{**line, "read": readings_from_dict(line.get("read", {}))})
    earlier = before.get(state.case)
    read = state.read if earlier is None else earlier.read.with_later(state.read)
    return state.case, replace(state, read=read)


USUAL_STEPS = 12.0
"""Timed in a case; where there are more, the bar goes on ever more slowly."""


def share(states: Collection[CaseState]) -> float:
    of = next((case.of for case in states if case.of is not None), None)
    return 0.0 if of is None else min(1.0, sum(map(_share_of, states)) / of)


def _share_of(case: CaseState) -> float:
    if case.status is not None:
        return 1.0
    if case.done is not None:
        return 0.5 + 0.45 * case.done / (case.done + USUAL_STEPS)
    return 0.45 * (case.step or 0) / ((case.step or 0) + 2)


def records(ended: Measuring) -> list[Record]:
    return [parsed_record(document) for document in (ended.document or {}).get("records", ())]


def is_rehearsal(measuring: Measuring) -> bool:
    return "--rehearse" in measuring.command.split()


def start(
    model: ModelSpec, question: Question, conditions: BenchConditions, *, uploaded: bool
) -> Measuring:
    """Starts `lora-profile bench` on the question. Raises AlreadyRunningError.

    An uploaded config.json is written to a folder of this user's alone, which is gone when the
    process has ended.
    """
    folder = WorkingFolder() if uploaded else None
    name = question.model if folder is None else _written(model, folder.name)
    arguments = bench_arguments(name, question, conditions)
    own = f"{plain_name(model.id)}.json"
    shown = bench_arguments(own, question, conditions) if uploaded else arguments
    return following.start("measuring", read_case, arguments, shown, folder)


def _written(model: ModelSpec, folder: str) -> str:
    path = Path(folder) / f"{plain_name(model.id)}.json"
    path.write_text(json.dumps(dict(model.published)), "utf-8")
    return str(path)


def refusal(result: Answered, conditions: BenchConditions) -> str | None:
    """Why `bench` would refuse it, in its words; None where it would not. Whether a card can be
    pretended is told by the rehearsal itself."""
    if conditions.rehearsed_on is not None:
        return None
    memory = memory_limit_bytes() or physical_memory_bytes()
    try:
        requested = recorded(conditions)
        for prediction in result.predictions:
            case = Case(workload=prediction.workload, conditions=requested)
            refuse_on_this_machine(case.workload, requested)
            refuse_beyond(memory, [Planned(case=case, prediction=prediction)])
    except LoraProfilerError as e:
        return str(e).replace("--budget", "a memory budget")
    return None


def recorded(conditions: BenchConditions) -> Recorded:
    """What a record says of them. Raises UsageError for a budget that is no size."""
    default = Recorded()
    steps = 0 if conditions.no_timing else conditions.steps or default.min_timed_steps
    return replace(
        default,
        budget_bytes=None if conditions.budget is None else parse_memory(conditions.budget),
        min_timed_steps=steps,
        max_timing_seconds=conditions.timing_seconds or default.max_timing_seconds,
    )


def duration_words(result: Answered, conditions: BenchConditions) -> str:
    if conditions.rehearsed_on is not None:
        return "A rehearsal computes nothing: each method takes some seconds, whatever the model."
    gpu = _card(result)
    low = high = 0.0
    for prediction in result.predictions:
        timing = step_time(prediction.workload, gpu, prediction=prediction)
        if timing.step is None:
            here = "lora-profile calibrate measures it on this machine."
            why = here if prediction.workload.setup.device == "cpu" else timing.refusal
            return f"How long a step takes is not known: {why}"
        seconds = _seconds(prediction, timing.step.time.seconds, recorded(conditions))
        low, high = low + seconds[0], high + seconds[1]
    low, high = low * conditions.repeats, high * conditions.repeats
    span = " to ".join(dict.fromkeys((about_text(low), about_text(high))))
    return f"Training takes {span}, loading torch and the model in each process comes to it."


def _seconds(prediction: Prediction, step: float, requested: Recorded) -> tuple[float, float]:
    """Of one case, at the least and at the most: the memory pass, then the timed steps, which end
    when their median is sure, or their time is up."""
    memory = requested.memory_steps * step
    if not requested.min_timed_steps:
        return memory, memory
    most = requested.max_timing_seconds
    return memory + min(requested.min_timed_steps * step, most), memory + max(step, most)


def _card(result: Answered) -> Gpu | None:
    if result.question.options["device"] != "cuda":
        return None
    try:
        return find_gpu("auto")
    except LoraProfilerError:  # no driver tells which
        return None
