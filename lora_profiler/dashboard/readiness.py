"""What is known of a measurement before it begins: whether this machine cannot make it, and about
how long it takes. No torch."""

from dataclasses import replace

from lora_profiler.campaign.planned import Planned, refuse_beyond
from lora_profiler.catalog import Gpu, find_gpu
from lora_profiler.dashboard.answered import Answered
from lora_profiler.dashboard.measuring import Conditions
from lora_profiler.errors import LoraProfilerError
from lora_profiler.harness import Case
from lora_profiler.harness.machine import memory_limit_bytes, physical_memory_bytes
from lora_profiler.harness.preflight import refuse_here
from lora_profiler.planning.timing import step_time
from lora_profiler.prediction import Prediction
from lora_profiler.records.record import Conditions as Recorded
from lora_profiler.units import about_text, parse_bytes


def refusal(result: Answered, conditions: Conditions) -> str | None:
    """Why `bench` would refuse it, in its words; None where it would not. Whether a card can be
    pretended is told by the rehearsal itself."""
    if conditions.rehearsed_on is not None:
        return None
    memory = memory_limit_bytes() or physical_memory_bytes()
    try:
        asked = recorded(conditions)
        for prediction in result.predictions:
            case = Case(workload=prediction.workload, conditions=asked)
            refuse_here(case.workload, asked)
            refuse_beyond(memory, [Planned(case=case, prediction=prediction)])
    except LoraProfilerError as e:
        return str(e).replace("--budget", "a memory budget")
    return None


def recorded(conditions: Conditions) -> Recorded:
    """What a record says of them. Raises UsageError for a budget that is no size."""
    default = Recorded()
    steps = 0 if conditions.no_timing else conditions.steps or default.min_timed_steps
    return replace(
        default,
        budget_bytes=None if conditions.budget is None else parse_bytes(conditions.budget),
        min_timed_steps=steps,
        max_timing_seconds=conditions.timing_seconds or default.max_timing_seconds,
    )


def duration_words(result: Answered, conditions: Conditions) -> str:
    """How long it takes, as far as it can be told."""
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


def _seconds(prediction: Prediction, step: float, asked: Recorded) -> tuple[float, float]:
    """Of one case, at the least and at the most: the memory pass, then the timed steps, which end
    when their median is sure, or their time is up."""
    memory = asked.memory_steps * step
    if not asked.min_timed_steps:
        return memory, memory
    most = asked.max_timing_seconds
    return memory + min(asked.min_timed_steps * step, most), memory + max(step, most)


def _card(result: Answered) -> Gpu | None:
    if result.question.options["device"] != "cuda":
        return None
    try:
        return find_gpu("auto")
    except LoraProfilerError:  # no driver tells which
        return None
