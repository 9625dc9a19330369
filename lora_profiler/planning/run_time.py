"""How long training takes on so many tokens: steps of a known time."""

from dataclasses import dataclass

from lora_profiler.planning.timing import TimedStep


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTime:
    """Seconds of training, and the interval of the step's time carried over to all of it. Neither
    evaluation nor loading is among them."""

    seconds: float
    low: float
    high: float


def run_time(step: TimedStep, tokens: float, epochs: float = 1.0) -> RunTime:
    """The time of as many steps like `step` as `epochs` passes over `tokens` take; tokens of
    padding count as tokens, and a last step that is not full as its share.

    Examples:
        >>> from lora_profiler import LoraConfig, TrainSetup, Workload
        >>> from lora_profiler import find_gpu, find_model, step_time
        >>> workload = Workload(model=find_model("gpt2"), setup=TrainSetup(lora=LoraConfig()))
        >>> step = step_time(workload, find_gpu("rtx_4090")).step
        >>> found = run_time(step, 2048 * 1000)
        >>> round(found.seconds / step.time.seconds)
        1000
    """
    time = step.time
    steps = tokens * epochs / (time.tokens_per_second * time.seconds)
    return RunTime(seconds=steps * time.seconds, low=steps * time.low, high=steps * time.high)
