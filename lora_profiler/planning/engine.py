"""Who answers: the one place that chooses between rules, profiles and fresh traces."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lora_profiler._common.packages import missing
from lora_profiler.errors import CompileError, UnbuildableError, UsageError, did_you_mean
from lora_profiler.facts.catalog.gpus import Gpu
from lora_profiler.memory.analytic import knows, modules_error, paged_bytes, tells
from lora_profiler.memory.compiled import has_nearly, has_profile
from lora_profiler.memory.compiled.regime import key_of, one_of_each_regime
from lora_profiler.memory.prediction import Prediction
from lora_profiler.question import kernel_set, lora_kernel_set
from lora_profiler.question.base import base_kind
from lora_profiler.question.loop import nearest_estimated, nearest_traced, of_loop
from lora_profiler.question.optimizer import optimizer_facts
from lora_profiler.question.support.bases import base_words, qat_words
from lora_profiler.question.support.check import (
    check,
    profile_unsupported_reason,
    trace_unsupported_reason,
)
from lora_profiler.question.support.images import NO_IMAGES, image_words, is_unchecked
from lora_profiler.question.support.optimizers import optimizer_words, package_of
from lora_profiler.question.workload import TrainSetup, Workload
from lora_profiler.trace import compile_profile, is_untrusted
from lora_profiler.trace.watch import announce, note, warn
from lora_profiler.units import short_count_text

if TYPE_CHECKING:
    from lora_profiler._common.polynomial import Polynomial

ENGINES = ("auto", "analytic", "compiled", "traced")
REHEARSED = "rehearsed"
"""Answers `predict` alone, one question at a time: it runs the step, in a process of its own."""
rules_know = knows
"""Whether the rules know what the layers of a workload's model keep."""


def predict(workload: Workload, engine: str = "auto", *, may_trace: bool = True) -> Prediction:
    """The prediction of the named answerer.

    "auto" takes a compiled profile where one is bundled or cached, else rules that know the model,
    else the estimate from its modules, else a profile made now: see `engines_for`. "traced" traces
    the real step anew, which needs torch and takes seconds to minutes, and keeps the profile.
    "rehearsed" runs the harness' own steps on a simulated GPU, which takes a CUDA build of torch
    and some seconds.

    Raises UsageError for an engine that is unknown, and whatever the answerer raises.

    Examples:
        >>> from lora_profiler import TrainSetup, Workload, find_model, predict
        >>> workload = Workload(model=find_model("gpt2"), setup=TrainSetup(seq_len=512))
        >>> predict(workload).peak.total_bytes
        1331468072
    """
    (engine,) = engines_for([workload], engine, may_trace=may_trace)
    return predict_checked(workload, engine)


def peak_bytes(workload: Workload, engine: str = "auto") -> int:
    """Steady-state peak alone: `predict(workload, engine).peak.total_bytes`, cheap enough to search
    with.

    Nothing is traced: "traced" takes the profiles that are there, as "compiled" does, and "auto"
    what is known so far.

    Examples:
        >>> from lora_profiler import TrainSetup, Workload, find_model
        >>> from lora_profiler.planning.engine import peak_bytes
        >>> peak_bytes(Workload(model=find_model("gpt2"), setup=TrainSetup(seq_len=512)))
        1331468072
    """
    (engine,) = engines_for([workload], engine, may_trace=False)
    return peak_bytes_checked(workload, engine)


def engines_for(
    workloads: Sequence[Workload],
    engine: str = "auto",
    *,
    other_sizes: bool = False,
    may_trace: bool = True,
) -> list[str]:
    """Makes workloads ready: checks them, once, and tells the engine to ask for each.

    "auto" stands for a profile that is bundled or cached, else the rules, else the estimate from
    the model's modules, which is there at once. Where there is none of these, the step is traced
    here and now, and the profile kept, if torch is installed; "traced" comes back for a workload of
    which no profile could be trusted: it is traced at exactly its size. Without `may_trace` nothing
    is, and the rules give a lower bound. With `other_sizes` the profiles for other batches and
    lengths are made too: the largest that fit are searched for among all. Whoever watches
    (`trace.watch`) hears of traces and of what could not be traced.

    Raises UsageError for an unknown engine, and for a workload that cannot be answered.
    """
    if engine != REHEARSED:
        check_engine(engine)
    elif not may_trace:
        raise UsageError("a rehearsal runs the step, so engine rehearsed answers `predict` alone.")
    for workload in workloads:
        check(workload, engine)
    if any(workload.setup.images is not None for workload in workloads):
        if engine != "traced" and not may_trace:
            raise UsageError(NO_IMAGES)
        for workload in workloads:
            check(workload, "traced")
        return ["traced"] * len(workloads)
    workloads = [as_known(workload, engine) for workload in workloads]
    unknown = [workload for workload in workloads if not tells(workload)]
    if engine != "auto" or not may_trace or not unknown:
        return [engine] * len(workloads)
    from lora_profiler.question.adapters import adapters

    for workload in unknown:
        if reason := trace_unsupported_reason(workload.setup):
            raise UsageError(f"{workload.model.id} has layers that no rule describes, and {reason}")
        if workload.setup.lora is not None:
            adapters(workload.model, workload.setup.lora)  # what PEFT refuses is not traced first
    untrusted = make_missing(unknown, other_sizes=other_sizes)
    return ["traced" if workload in untrusted else engine for workload in workloads]


def predict_checked(workload: Workload, engine: str) -> Prediction:
    """`predict` of a workload that is ready."""
    known = as_known(workload, engine)
    priced_as = None if known == workload else known
    prediction = _predicted(known, engine)
    if engine == REHEARSED:  # which knows the torch that it ran
        workload = replace(workload, platform=prediction.workload.platform)
    prediction = replace(prediction, workload=workload, priced_as=priced_as)
    words, model = common_assumptions(workload, priced_as), workload.model
    is_partly = model.stored is not None and (model.stored.partly or model.stored.in_16_bit)
    is_unrun = is_partly or is_unchecked(workload.setup) or _has_stood_in_kernels(workload)
    is_unrun = is_unrun or known != workload or has_newer_layers(workload)
    is_unrun = is_unrun or _has_unheld_head(workload)
    if is_unrun or model.text_side_of is not None:
        is_bounded = prediction.modules_error is not None and not has_newer_layers(workload)
        bound = prediction.error_bound if is_bounded else None
        prediction = replace(prediction, exactness="estimate", error_bound=bound)
    if optimizer_facts(workload.setup.optimizer).reduces:
        from lora_profiler.planning.reserve import with_reductions

        prediction = with_reductions(prediction)
    if workload.setup.device == "cuda" and prediction.engine != REHEARSED:
        from lora_profiler.planning.reserve import with_product_workspaces

        prediction = with_product_workspaces(prediction)
    if not words:
        return prediction
    return replace(prediction, assumptions=(*prediction.assumptions, *words))


def doubt_share(workload: Workload, engine: str) -> float:
    """By which `peak_bytes_checked` may be off where the layers are estimated from the model's
    modules, as a share of it."""
    workload = as_known(workload, engine)
    if (_at_hand(workload) if engine == "auto" else engine) != "analytic":
        return 0.0
    return modules_error(workload) or 0.0


def common_assumptions(workload: Workload, priced_as: Workload | None = None) -> tuple[str, ...]:
    """What every answer to `workload` says of its checkpoint, base and an optimizer of another
    package, whoever gives it; and of the nearest question, where that was answered in its
    place."""
    words = (
        *_checkpoint_words(workload),
        *base_words(workload.setup),
        *_text_side_words(workload),
        *((_EMBEDDING,) if workload.model.is_embedding else ()),
        *image_words(workload),
        *qat_words(workload),
        *((_STOOD_IN,) if _has_stood_in_kernels(workload) else ()),
        *((_NEWER_LAYERS,) if has_newer_layers(workload) else ()),
        *((_UNHELD_HEAD,) if _has_unheld_head(workload) else ()),
        *(_nearest_words(workload, priced_as) if priced_as is not None else ()),
    )
    facts = optimizer_facts(workload.setup.optimizer)
    if package_of(workload.setup) is None and not facts.assumption:
        return words
    return (*words, *optimizer_words(workload.setup, paged_bytes(workload)))


_NEWER_LAYERS = (
    "This type of model is known from transformers 5 alone: an older version may keep more."
)


def has_newer_layers(workload: Workload) -> bool:
    """Whether an older version of transformers is asked about, and no rule knows its layers."""
    return workload.setup.transformers != "5" and not rules_know(workload)


def _nearest_words(workload: Workload, priced_as: Workload) -> Iterator[str]:
    """Of a loop whose own code is in the question, and none of it in what is priced."""
    asked, priced = (nearest_traced(w.setup) == w.setup for w in (workload, priced_as))
    if priced and not asked:
        yield str(of_loop(workload.setup.loop_state, "NEAREST"))


def as_known(workload: Workload, engine: str) -> Workload:
    """`workload`, or where no rule knows its layers the nearest one that an estimate from its
    modules, a profile or a trace can be of: with today's transformers, but where a trace is asked
    for, whose loss at least is as old; and without what only the loop's own code does."""
    if rules_know(workload):
        return workload
    if engine in ("auto", "analytic") and (estimated := _as_estimated(workload)) is not None:
        return estimated
    setup = nearest_traced(workload.setup)
    if engine != "traced":
        setup = replace(setup, transformers="5")
    return workload if setup == workload.setup else replace(workload, setup=setup)


def _as_estimated(workload: Workload) -> Workload | None:
    """`workload` with more of the loop's own code than a trace has, where its modules tell the
    layers. Held against Unsloth's own code, such estimates were nearer than laws without it
    (`benchmarks/results/rehearsed_frameworks.md`)."""
    setup = nearest_estimated(workload.setup)
    if setup is None:
        return None
    estimated = replace(workload, setup=replace(setup, transformers="5"))
    return estimated if tells(estimated) else None


_EMBEDDING = (
    "The batch counts texts, a pair is two; layers after the pooling and cached losses are left"
    " out."
)
_STOOD_IN = (
    "Kernels of Liger or axolotl are stand-ins in a trace of this type of model: no run with them"
    " was held against it."
)


def _has_stood_in_kernels(workload: Workload) -> bool:
    """Whether kernels of another library are known of the model by traces alone, in which others
    stand in for them."""
    setup = workload.setup
    adapted = setup.lora is not None and lora_kernel_set.has_stand_in(setup.lora.lora_kernels)
    replaced = kernel_set.has_stand_in(setup.kernels) or adapted
    return replaced and not rules_know(workload)


_UNHELD_HEAD = "No rehearsal held TRL's head on this type of model to the byte."


def _has_unheld_head(workload: Workload) -> bool:
    """Whether TRL's head stands on layers that traces alone know: rehearsals held it to the byte on
    those that rules know, and some others are 4 bytes off."""
    return workload.setup.loss == "trl" and not rules_know(workload)


def _predicted(workload: Workload, engine: str) -> Prediction:
    answerer = _at_hand(workload) if engine == "auto" else engine
    if answerer == "analytic":
        from lora_profiler.memory.analytic import predict as analytic_predict

        if engine != "auto" or profile_unsupported_reason(workload):
            return analytic_predict(workload)
        from lora_profiler.memory.compiled import with_tape

        return with_tape(analytic_predict(workload))
    if answerer == "traced":
        from lora_profiler.trace import predict as traced_predict

        return traced_predict(workload)
    if answerer == REHEARSED:
        from lora_profiler.planning.rehearsed import predict as rehearsed_predict

        return rehearsed_predict(workload, lambda asked: predict(asked, may_trace=False))
    from lora_profiler.memory.compiled import predict as compiled_predict

    return compiled_predict(workload)


def peak_bytes_checked(workload: Workload, engine: str) -> int:
    """`peak_bytes` of a workload that is ready."""
    workload = as_known(workload, engine)
    if (_at_hand(workload) if engine == "auto" else engine) == "analytic":
        from lora_profiler.memory.analytic import peak_bytes as analytic_peak_bytes

        return analytic_peak_bytes(workload)
    from lora_profiler.memory.compiled import peak_bytes as compiled_peak_bytes

    return compiled_peak_bytes(workload)


def peak_polynomials(workload: Workload, engine: str) -> "tuple[Polynomial, ...]":
    """Polynomials in batch, sequence and rank whose maximum is the steady-state peak, where the
    regime of `workload`, which is ready, holds."""
    workload = as_known(workload, engine)
    if (_at_hand(workload) if engine == "auto" else engine) == "analytic":
        from lora_profiler.memory.analytic import peak_polynomials as analytic_polynomials

        return analytic_polynomials(workload)
    from lora_profiler.memory.compiled import peak_polynomials as compiled_polynomials

    return compiled_polynomials(workload)


def resized(workload: Workload, setup: TrainSetup, engine: str) -> Workload:
    """`workload`, which is ready, with other sizes, which are then too."""
    other = replace(workload, setup=setup)
    if setup.is_packed and not workload.setup.is_packed:  # longer rows hold several sequences
        check(other, engine)
    return other


def _at_hand(workload: Workload) -> str:
    """Who answers for "auto" without a trace."""
    # a profile leaves the loop's state open, by which some weights are wider
    if profile_unsupported_reason(workload):
        return "analytic"
    is_near = not rules_know(workload) and has_nearly(workload)
    return "compiled" if is_near or has_profile(workload) else "analytic"


def on_card(workload: Workload, gpu: Gpu | None) -> Workload:
    """`workload` on the platform of `gpu`; as it is without a card, and on one whose compute
    capability nobody tells."""
    if gpu is None or gpu.capability is None:
        return workload
    return replace(workload, platform=gpu.platform(workload.platform.torch))


def engine_for_search(prediction: Prediction, engine: str) -> str:
    """The engine for questions that compare with `prediction`: where rules do not know the
    activations, profiles alone answer; where no profile could hold the setup, rules alone do.
    Nobody searches by rehearsals."""
    if engine == REHEARSED:
        engine = "auto"
    if (
        engine in ("compiled", "traced")
        and profile_unsupported_reason(prediction.workload)
        and rules_know(prediction.workload)
    ):
        return "analytic"
    if engine == "auto" and prediction.engine != "analytic" and not rules_know(prediction.workload):
        return "compiled"
    return engine


def answers_without_trace(workload: Workload) -> bool:
    """Whether rules or a profile at hand know the whole peak of a workload that is ready, or its
    modules give an estimate."""
    return tells(workload) or _at_hand(workload) == "compiled"


def engine_for_all(workload: Workload, engine: str) -> str:
    """The one engine that answers for `workload` at every size: without rules a profile where there
    is one, whose numbers no estimate is mixed with."""
    if engine != "auto" or rules_know(workload):
        return engine
    is_estimated = tells(workload) and _at_hand(workload) == "analytic"
    return "analytic" if is_estimated else "compiled"


def check_engine(engine: str) -> None:
    """Raises UsageError for an engine that is unknown, and for "rehearsed", which only `predict`
    takes."""
    if engine not in ENGINES:
        raise UsageError(
            f"unknown engine {engine!r}.{did_you_mean(engine, ENGINES)}"
            f" Supported: {', '.join(ENGINES)}"
        )


def _text_side_words(workload: Workload) -> tuple[str, ...]:
    """What an answer says of a model that sees."""
    whole = workload.model.text_side_of
    if whole is None:
        return ()
    vision = short_count_text(whole.num_parameters - workload.model.num_parameters)
    return (
        f"Answered for the language model of {whole.name}, sized as {workload.model.id}. Its vision"
        f" tower of {vision} parameters is left out; --images adds it.",
    )


ASSUMED_FLOAT32 = (
    "The config names no dtype: the checkpoint is assumed to be in float32; else give --dtype."
)


def _checkpoint_words(workload: Workload) -> tuple[str, ...]:
    """What an answer says of a checkpoint that stores its weights in neither 16 nor 32 bit, or in a
    format that nobody knows, which trainers load it in."""
    model, setup = workload.model, workload.setup
    stored = model.stored
    if stored is not None and stored.quant_type == "nf4":
        quantised = (
            "with double quantisation" if stored.double_quant else "without double quantisation"
        )
        count = len(stored.in_16_bit)
        kept = f" It keeps {count:,} linear layer{'s' * (count > 1)} in 16 bit."
        partly = (
            " Layers that its own config.json keeps in 16 bit are counted in 4 bit here; the peak"
            " is too low. Name that file, or its folder, for the right one."
        )
        return (
            f"The checkpoint is stored in NF4 by bitsandbytes, {quantised}: adapters on it are"
            f" QLoRA.{partly if stored.partly else kept if stored.in_16_bit else ''}",
        )
    if stored is not None:
        group = "one scale for all" if stored.group_size == -1 else f"groups of {stored.group_size}"
        return (
            f"The checkpoint is stored in {base_kind(stored.quant_type).title}, {stored.bits} bit,"
            f" {group}: adapters on it are QLoRA.",
        )
    if model.dequantized_from is None:
        is_assumed = model.dtype is None and setup.dtype == "float32" and setup.loop_state != "none"
        return (ASSUMED_FLOAT32,) * is_assumed
    is_mxfp4 = model.dequantized_from == "MXFP4"
    why = "transformers trains nothing" if is_mxfp4 else "this training is not modelled"
    return (
        f"The checkpoint is stored in {model.dequantized_from}, on which {why}: the answer is for"
        f" its weights turned back into {setup.dtype} (dequantize=True).",
    )


# --- profiles that nobody has made yet ------------------------------------------------------------


def is_worth_a_trace(workload: Workload) -> bool:
    """Whether nothing at hand tells the model's activations, and what a trace needs is
    installed."""
    if profile_unsupported_reason(workload):
        return False
    return not answers_without_trace(workload) and not missing()


def _is_traced_alone(workload: Workload) -> bool:
    """Whether neither what is at hand nor a profile for other sizes can tell the activations, as of
    a trainer's own loss, where a trace of exactly this size can be made."""
    if not profile_unsupported_reason(workload) or answers_without_trace(workload) or missing():
        return False
    try:
        check(workload, "traced")
    except UsageError:
        return False
    return True


def make_missing(workloads: Sequence[Workload], *, other_sizes: bool) -> list[Workload]:
    """Traces the profiles that `workloads` lack, with `other_sizes` those of other regimes too.

    Returns the workloads of which no profile could be trusted, or can be made. What could not be
    traced at all is told to whoever watches, and stays unknown.
    """
    lacking: dict[str, tuple[Workload, Workload]] = {}
    for workload in workloads:
        for example in (workload, *(one_of_each_regime(workload) if other_sizes else ())):
            if is_worth_a_trace(example):
                lacking.setdefault(key_of(example), (workload, example))
    if lacking:
        announce(len(lacking))
    untrusted = [workload for workload in workloads if _is_traced_alone(workload)]
    for workload, example in lacking.values():
        if workload in untrusted:
            continue
        if is_untrusted(example):
            untrusted += [workload] if example is workload else []
            continue
        try:
            compile_profile(example)
        except CompileError as e:
            warn(str(e))
            if example is workload:
                note("tracing exactly this size instead")
                untrusted.append(workload)
        except UnbuildableError as e:
            warn(f"the step could not be traced: {e}")
    return untrusted
