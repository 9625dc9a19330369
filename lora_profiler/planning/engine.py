"""Which answerer predicts: the one place that will choose between rules, profiles and traces."""

from lora_profiler.errors import UsageError, did_you_mean
from lora_profiler.prediction import Prediction
from lora_profiler.workload import Workload

ENGINES = ("auto", "analytic", "compiled", "traced")


def predict(workload: Workload, engine: str = "auto") -> Prediction:
    """The prediction of the named answerer; "auto" takes the best one that this version has.

    Raises UsageError for an engine that is unknown or not part of this version, and whatever the answerer raises.
    """
    _check(engine)
    from lora_profiler.analytic import predict as analytic_predict

    return analytic_predict(workload)


def peak_bytes(workload: Workload, engine: str = "auto") -> int:
    """Steady-state peak alone: `predict(workload, engine).peak.total_bytes`, cheap enough to search with."""
    _check(engine)
    from lora_profiler.analytic import peak_bytes as analytic_peak_bytes

    return analytic_peak_bytes(workload)


def _check(engine: str) -> None:
    if engine not in ENGINES:
        raise UsageError(f"engine is {engine!r}; accepted: {', '.join(ENGINES)}.{did_you_mean(engine, ENGINES)}")
    if engine in ("compiled", "traced"):
        raise UsageError(f"this version has no {engine} engine; leave --engine out, or use --engine analytic.")
