"""Which answerer predicts: the one place that chooses between rules, profiles and fresh traces."""

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from lora_profiler.errors import UsageError, did_you_mean
from lora_profiler.model_spec import ModelSpec
from lora_profiler.planning.checkpoints import checkpoint_words
from lora_profiler.prediction import Prediction
from lora_profiler.support.liger import check_kernels
from lora_profiler.support.losses import check_loss
from lora_profiler.support.packing import check_packing
from lora_profiler.support.profiles import why_unprofiled
from lora_profiler.support.sdpa import check_platform
from lora_profiler.workload import Workload

if TYPE_CHECKING:
    from lora_profiler.algebra import Polynomial

ENGINES = ("auto", "analytic", "compiled", "traced")


def predict(workload: Workload, engine: str = "auto") -> Prediction:
    """The prediction of the named answerer.

    "auto" takes a compiled profile where one is bundled or cached, else the rules, which say
    themselves where they are estimates or lower bounds. "traced" traces the real step anew, which
    needs torch and takes seconds to minutes, and keeps the profile.

    Raises UsageError for an engine that is unknown, and whatever the answerer raises.
    """
    found, words = _predicted(workload, engine), checkpoint_words(workload)
    return replace(found, assumptions=(*found.assumptions, words)) if words else found


def _predicted(workload: Workload, engine: str) -> Prediction:
    if _resolved(workload, engine) == "analytic":
        from lora_profiler.analytic import predict as analytic_predict

        if engine != "auto" or why_unprofiled(workload.setup):
            return analytic_predict(workload)
        from lora_profiler.compiled import with_tape

        return with_tape(analytic_predict(workload))
    if engine == "traced":
        from lora_profiler.traced import predict as traced_predict

        return traced_predict(workload)
    from lora_profiler.compiled import predict as compiled_predict

    return compiled_predict(workload)


def peak_bytes(workload: Workload, engine: str = "auto") -> int:
    """Steady-state peak alone: `predict(workload, engine).peak.total_bytes`, cheap enough to search
    with.

    "traced" takes the profiles that are there, as "compiled" does: a search traces nothing.
    """
    if _resolved(workload, engine) == "analytic":
        from lora_profiler.analytic import peak_bytes as analytic_peak_bytes

        return analytic_peak_bytes(workload)
    from lora_profiler.compiled import peak_bytes as compiled_peak_bytes

    return compiled_peak_bytes(workload)


def peak_polynomials(workload: Workload, engine: str = "auto") -> "tuple[Polynomial, ...]":
    """Polynomials in batch, sequence and rank whose maximum is the steady-state peak, where the
    regime of `workload` holds."""
    if _resolved(workload, engine) == "analytic":
        from lora_profiler.analytic import peak_polynomials as analytic_polynomials

        return analytic_polynomials(workload)
    from lora_profiler.compiled import peak_polynomials as compiled_polynomials

    return compiled_polynomials(workload)


class HasCapability(Protocol):
    """What a platform is told by: the compute capability of a card, times ten."""

    @property
    def capability(self) -> int | None: ...


def on_card(workload: Workload, gpu: "HasCapability | None") -> Workload:
    """`workload` on the platform of `gpu`; as it is without a card, and on one whose compute
    capability nobody tells."""
    if gpu is None or gpu.capability is None:
        return workload
    return replace(workload, platform=replace(workload.platform, capability=gpu.capability))


def windows_of(model: ModelSpec) -> tuple[int, ...]:
    """Lengths from which on other rules hold, in tokens."""
    from lora_profiler.compiled.regime import windows_of as compiled_windows

    return compiled_windows(model)


def engine_for_search(prediction: Prediction, engine: str) -> str:
    """The engine for questions that compare with `prediction`: where rules do not know the
    activations, profiles alone answer; where no profile could hold the setup, rules alone do."""
    if (
        engine in ("compiled", "traced")
        and why_unprofiled(prediction.workload.setup)
        and rules_know(prediction.workload)
    ):
        return "analytic"
    if engine == "auto" and prediction.engine != "analytic" and not rules_know(prediction.workload):
        return "compiled"
    return engine


def rules_know(workload: Workload) -> bool:
    """Whether the rules know what the model's layers keep."""
    from lora_profiler.analytic import knows

    return knows(workload.model)


def check_engine(engine: str) -> None:
    """Raises UsageError for an engine that is unknown."""
    if engine not in ENGINES:
        raise UsageError(
            f"engine is {engine!r}; accepted: {', '.join(ENGINES)}.{did_you_mean(engine, ENGINES)}"
        )


def _check_setup(workload: Workload, engine: str) -> None:
    """Raises UsageError for a setup that no answerer knows, or not the one that is asked."""
    check_loss(workload)
    check_packing(workload)
    check_kernels(workload)
    check_platform(workload)
    if engine == "compiled" and (reason := why_unprofiled(workload.setup)):
        raise UsageError(reason)


def _resolved(workload: Workload, engine: str) -> str:
    check_engine(engine)
    _check_setup(workload, engine)
    if engine != "auto":
        return engine
    from lora_profiler.compiled import has_profile, has_stand_in

    if has_profile(workload) or (not rules_know(workload) and has_stand_in(workload)):
        return "compiled"
    return "analytic"
