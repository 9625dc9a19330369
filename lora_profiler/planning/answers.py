"""Everything that a face shows about a few ways to train one model."""

from collections.abc import Sequence
from dataclasses import dataclass

from lora_profiler.catalog import Gpu
from lora_profiler.planning.engine import predict
from lora_profiler.planning.fit import Fit, fit
from lora_profiler.planning.levers import Lever, best_lever, levers
from lora_profiler.planning.speed_gap import SpeedGap, speed_gap
from lora_profiler.planning.timing import Timing, is_timed, step_time
from lora_profiler.prediction import Prediction
from lora_profiler.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Everything a face shows about one workload. `gpu` is the card that was asked about, with `fit` None if unknowable.

    `timing` is of that card; without one, of this machine's processor where it was measured and is the device, else None.
    `speed_gap` is against full fine-tuning, where that is among the ways asked about and both times are known.
    """

    prediction: Prediction
    gpu: Gpu | None
    fit: Fit | None
    levers: tuple[Lever, ...]
    timing: Timing | None
    speed_gap: SpeedGap | None


def answers(
    workloads: Sequence[Workload], gpu: Gpu | None = None, engine: str = "auto", *, all_levers: bool = False
) -> list[Answer]:
    """Predict each way to train one model, judge the card if one is named, time a step, and find what lowers each peak most.

    `all_levers` lists every lever, not the best alone. A method that is among the workloads is no lever of another.
    """
    asked = {w.setup.method for w in workloads}
    predictions = [predict(workload, engine) for workload in workloads]
    timings = [step_time(p.workload, gpu, engine, p) if is_timed(p.workload, gpu) else None for p in predictions]
    full = next((t for t in timings if t and t.step and t.step.workload.setup.method == "full"), None)
    found = []
    for prediction, timing in zip(predictions, timings, strict=True):
        workload = prediction.workload
        if all_levers:
            tried = levers(workload, engine, prediction, besides=asked)
        else:
            best = best_lever(workload, engine, prediction, besides=asked)
            tried = (best,) if best else ()
        found.append(
            Answer(
                prediction=prediction,
                gpu=gpu,
                fit=fit(workload, gpu, engine, prediction) if gpu else None,
                levers=tried,
                timing=timing,
                speed_gap=_gap(full, timing),
            )
        )
    return found


def _gap(full: Timing | None, timing: Timing | None) -> SpeedGap | None:
    if full is None or timing is None or full.step is None or timing.step is None or timing is full:
        return None
    return speed_gap(full.step, timing.step)
