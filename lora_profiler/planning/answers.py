"""Everything that a face shows about a few ways to train one model."""

from collections.abc import Sequence
from dataclasses import dataclass

from lora_profiler.planning.engine import predict
from lora_profiler.planning.fit import Card, Fit, fit
from lora_profiler.planning.levers import Lever, best_lever, levers
from lora_profiler.prediction import Prediction
from lora_profiler.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Everything a face shows about one workload. `gpu` is the card that was asked about, with `fit` None if unknowable."""

    prediction: Prediction
    gpu: Card | None
    fit: Fit | None
    levers: tuple[Lever, ...]


def answers(
    workloads: Sequence[Workload], gpu: Card | None = None, engine: str = "auto", *, all_levers: bool = False
) -> list[Answer]:
    """Predict each way to train one model, judge the card if one is named, and find what lowers each peak most.

    `all_levers` lists every lever, not the best alone. A method that is among the workloads is no lever of another.
    """
    asked = {w.setup.method for w in workloads}
    found = []
    for workload in workloads:
        prediction = predict(workload, engine)
        if all_levers:
            tried = levers(workload, engine, prediction, besides=asked)
        else:
            best = best_lever(workload, engine, prediction, besides=asked)
            tried = (best,) if best else ()
        fitted = fit(workload, gpu, engine, prediction) if gpu else None
        found.append(Answer(prediction=prediction, gpu=gpu, fit=fitted, levers=tried))
    return found
