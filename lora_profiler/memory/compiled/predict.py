"""`predict`: a workload answered by its profile. `peak_bytes`: only the number, for searches over
thousands of sizes."""

from dataclasses import replace

from lora_profiler._common.polynomial import Polynomial, Values
from lora_profiler.memory.compiled.evaluation import Evaluation, evaluation_of, has_stand_in
from lora_profiler.memory.compiled.profile import Profile
from lora_profiler.memory.compiled.regime import regime_of
from lora_profiler.memory.prediction import (
    CATEGORIES,
    Category,
    FlopCount,
    Moment,
    ParameterCount,
    Prediction,
)
from lora_profiler.question.gpu_platform import CUDA_RULES
from lora_profiler.question.kernel_set import kernel_set
from lora_profiler.question.loss import loss_facts
from lora_profiler.question.support.check import OUTLIERS, has_outliers
from lora_profiler.question.support.library_memory import evaluation_words
from lora_profiler.question.support.losses import OUTPUTS_HELD, SMOOTHED, loss_words
from lora_profiler.question.support.packing import rows_words
from lora_profiler.question.support.sdpa import kernel_words
from lora_profiler.question.workload import Workload

_SCALED = "The trace has no loss scaler; its tensors of 4 bytes are added."
SCALED_ERROR = 0.0001
"""Of a peak of 0.1 MB, what is added of `scaler_holds` beside the 8 bytes that last."""
PROMOTION_ERROR = 0.20
"""On a CPU an operator on two dtypes first copies the narrower operand, which no trace sees. The
trace of LoRA with adapters of another dtype lay up to 11.6 % below measured peaks in
`benchmarks/results/traced_records.md`, and up to 19 % in toys with hardly any vocabulary
(`tests/trace/test_traced.py`): the largest, rounded up."""
SEVERAL_ERROR = 0.035
"""Of a step of one sample by the profile of several: most such peaks in
`benchmarks/results/laws.md` are equal; Falcon's, whose attention is written out, is 3.4 % high."""
STAND_IN_ERROR = 0.005
"""Flash keeps 8 bytes a layer more than cuDNN's call; the efficient kernel pads the log-sum-exp, 4
bytes a head and token, to a multiple of 32 tokens. Held against traces in
`tests/question/test_platform.py`."""


def peak_bytes(workload: Workload) -> int:
    """Steady-state peak of live bytes: `predict(workload).peak.total_bytes` without the rest.
    Raises NoProfileError."""
    return evaluation_of(workload).peak(workload.setup)


def peak_polynomials(workload: Workload) -> tuple[Polynomial, ...]:
    """Polynomials in batch, sequence and rank whose maximum is the steady-state peak, where the
    regime of `workload` holds.

    Raises NoProfileError.
    """
    return evaluation_of(workload).steady_polynomials


def predict(workload: Workload) -> Prediction:
    """Memory at every moment, FLOPs and cost per layer of one training step, read off the profile
    of the traced step.

    Raises NoProfileError where neither the package nor the cache has one.
    """
    return _prediction(evaluation_of(workload), workload)


def with_tape(prediction: Prediction) -> Prediction:
    """A prediction by rules, with the memory over time and in the allocator of the profile that
    stands in for its platform's kernel, where there is one: what the allocator rounds up hides the
    bytes in which the two kernels differ.
    """
    workload = prediction.workload
    if workload.setup.device != "cuda" or not has_stand_in(workload):
        return prediction
    return replace(prediction, has_tape=True)


def predict_with(profile: Profile, workload: Workload) -> Prediction:
    """`predict` from a profile at hand, which must be one of this workload. No library may have it,
    so that all of it is worked out now."""
    from lora_profiler.memory.compiled.details import details

    evaluation = _evaluation_with(profile, workload)
    return replace(_prediction(evaluation, workload), details=details(evaluation, workload))


def moments_with(profile: Profile, workload: Workload) -> Prediction:
    """`predict_with` without what goes through the tape."""
    return _prediction(_evaluation_with(profile, workload), workload)


def _evaluation_with(profile: Profile, workload: Workload) -> Evaluation:
    units = profile.units(workload.model.num_layers)
    assert units is not None, f"the profile serves no model of {workload.model.num_layers} layers"
    return Evaluation(profile, units, workload.setup, workload.model.sound)


def _prediction(evaluation: Evaluation, workload: Workload) -> Prediction:
    profile, setup, at = evaluation.profile, workload.setup, evaluation.values(workload.setup)
    trainable = evaluation.trainable.evaluate(*at)
    moments = _moments(evaluation, at)
    persistent: dict[str, int] = {
        name: evaluation.persistent[name].evaluate(*at) if name in evaluation.persistent else 0
        for name in _PERSISTENT
    }
    kernels = _kernels(profile, workload)
    doubt = _doubt(workload, profile, kernels)
    return Prediction(
        workload=workload,
        engine="compiled",
        exactness="estimate" if doubt else "exact",
        assumptions=(*_assumptions(workload, profile, kernels), *(doubt[:1] if doubt else ())),
        error_bound=doubt[1] if doubt else None,
        attention_kernel=" and ".join(kernels) or "eager",
        parameters=ParameterCount(
            base=workload.model.num_parameters,
            adapter=trainable if setup.lora else 0,
            trainable=trainable,
        ),
        persistent_bytes=persistent,
        saved_activation_bytes=evaluation.saved.evaluate(*at),
        moments=moments,
        flops=_flop_count(evaluation, at, setup.batch_size * setup.seq_len),
        has_tape=not loss_facts(setup.loss).leaves_stack,
    )


_PERSISTENT: tuple[Category, ...] = (
    "parameters",
    "quantization_state",
    "adapters",
    "gradients",
    "optimizer_states",
)


def _moments(evaluation: Evaluation, at: Values) -> tuple[Moment, ...]:
    """Those of step 1, then those of the steady state."""
    largest = [peak for step in (1, 2) for peak in evaluation.largest(step, at)]
    instants = [evaluation.profile.instants[peak.number] for peak in largest]
    return tuple(
        Moment(
            moment=instant.moment,
            step=1 if instant.step == 1 else "steady",
            bytes={
                c: size
                for c in CATEGORIES
                if (size := live[c].evaluate(*at) if c in live else 0) or c in _PERSISTENT[:3]
            },
        )
        for instant, live in zip(instants, evaluation.live_at(largest), strict=True)
    )


def _kernels(profile: Profile, workload: Workload) -> tuple[str, ...]:
    """Those of the profile; cuDNN's, where one of another fused kernel stands in."""
    kernels = regime_of(workload).kernels
    stands_in = kernels != profile.regime.kernels and kernels[0].startswith("cudnn")
    return (
        ("cudnn",)
        if stands_in and {"flash", "efficient"} & set(profile.kernels)
        else profile.kernels
    )


def _doubt(
    workload: Workload, profile: Profile, kernels: tuple[str, ...]
) -> tuple[str, float | None] | None:
    """Why an answer is an estimate, and how far off a peak may be, None where nobody can tell; None
    where it is exact."""
    setup = workload.setup
    if kernels != profile.kernels:
        return (
            (
                "Traced with another fused kernel, which keeps some bytes per layer more than"
                " cuDNN's."
            ),
            STAND_IN_ERROR,
        )
    if "efficient" in kernels and regime_of(workload).kernels != profile.regime.kernels:
        return (
            (
                "Traced with the efficient kernel of torch before 2.14; later versions keep 16"
                " bytes per"
                " layer more on the GPU."
            ),
            STAND_IN_ERROR,
        )
    if regime_of(workload).one_sample and not profile.regime.one_sample:
        return (
            "Traced with several samples; one mostly takes as much as each of them.",
            SEVERAL_ERROR,
        )
    if has_outliers(setup):
        return OUTLIERS, None
    mixed = setup.lora is not None and setup.lora.adapter_dtype != setup.dtype
    if setup.device == "cpu" and (mixed or setup.autocast_dtype):
        return (
            (
                "On a CPU an operator on two dtypes copies the narrower operand. The trace does"
                " not see"
                " these copies; a peak inside a layer may be higher."
            ),
            PROMOTION_ERROR,
        )
    if setup.precision == "amp-float16":
        return _SCALED, SCALED_ERROR
    return None


def _flop_count(evaluation: Evaluation, at: Values, tokens: int) -> FlopCount | None:
    if not evaluation.flops:
        return None
    phases = {phase: polynomial.evaluate(*at) for phase, polynomial in evaluation.flops.items()}
    return FlopCount(
        forward=phases["forward"],
        backward=phases["backward"],
        recompute=phases["recompute"],
        tokens=tokens,
    )


def _assumptions(workload: Workload, profile: Profile, kernels: tuple[str, ...]) -> tuple[str, ...]:
    made = ", ".join(
        f"{name} {profile.versions[name]}"
        for name in ("torch", "transformers", "peft")
        if name in profile.versions
    )
    whole = any(layers == profile.num_layers for layers, *_ in profile.checked)
    checked = (
        "a fresh trace of the whole model" if whole else "a fresh trace of other sizes and depth"
    )
    how = (
        f"compiled; {checked} agreed event by event" if profile.checked else "at exactly this size"
    )
    assumptions = [
        f"The real step traced without data by {made}, {how}.",
        (
            "Bytes that live tensors request; allocator rounding, workspaces and the CUDA context"
            " are extra."
        ),
        rows_words(workload.setup, " and ".join(kernels) or "eager"),
        *evaluation_words(workload),
        *kernel_words(workload, kernels or ("eager",)),
    ]
    if profile.fallbacks:
        assumptions.append(
            "In plain torch, as transformers runs them where the package is missing:"
            f" {', '.join(profile.fallbacks)}. With it other kernels run, which keep other tensors."
        )
    if words := kernel_set(workload.setup.kernels).assumption:
        assumptions.append(words)
    if words := loss_words(workload.setup):
        assumptions.append(words)
    if workload.setup.label_smoothing_factor:
        assumptions.append(SMOOTHED)
    if workload.setup.hold_outputs:
        assumptions.append(OUTPUTS_HELD)
    if workload.setup.device == "cuda":
        assumptions.append(CUDA_RULES)
    return tuple(assumptions)
