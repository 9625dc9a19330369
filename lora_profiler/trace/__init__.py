"""The real training step traced on the meta device, and compiled into profiles. What lies inside
knows torch, this file not."""

from dataclasses import replace
from typing import TYPE_CHECKING

from lora_profiler._common.packages import load, require
from lora_profiler.errors import CompileError, UsageError
from lora_profiler.question.adapters import check_patterns
from lora_profiler.question.support.check import profile_unsupported_reason

if TYPE_CHECKING:
    from lora_profiler.memory.compiled.profile import Profile
    from lora_profiler.memory.prediction import Prediction
    from lora_profiler.question.workload import Workload

_refused: set[str] = set()
"""Keys of profiles that could not be trusted in this process: whoever asks again is spared the
attempt."""


def is_untrusted(workload: "Workload") -> bool:
    """Whether this process has seen that no profile of `workload` can be trusted."""
    from lora_profiler.memory.compiled.regime import key_of

    return key_of(workload) in _refused


def compile_profile(workload: "Workload") -> "Profile":
    """A profile made now and kept in the cache, that of a law where one holds for all models of
    the type. Raises UnbuildableError: a library is missing, or
    no profile could be trusted; and UsageError for a setup that none could hold."""
    _check(workload)
    if reason := profile_unsupported_reason(workload):
        raise UsageError(reason)
    from lora_profiler.memory.compiled.tape import LEAST_UNITS
    from lora_profiler.trace.watch import Size, watched

    layers = workload.model.num_layers
    few = [
        Size(depth)
        for depth in (*(LEAST_UNITS,) * 4, LEAST_UNITS + 1, LEAST_UNITS + 2)
        if depth < layers
    ]
    with watched(workload, [*few, Size(layers)], kept=True):  # as far as is known without torch
        return _compiled(workload)


def _compiled(workload: "Workload") -> "Profile":
    """Of a step of one micro-batch, of which that of several is made."""
    from lora_profiler.memory.compiled.accumulation import accumulated
    from lora_profiler.memory.compiled.regime import key_of

    if workload.setup.accumulation == 1:
        return _kept(workload)
    try:
        once = _kept(replace(workload, setup=replace(workload.setup, accumulation=1)))
    except CompileError:
        _refused.add(key_of(workload))
        raise
    return accumulated(once) or _kept(workload)


def _kept(workload: "Workload") -> "Profile":
    """Of a law of the model's type where one holds, else of the model alone."""
    load()
    from lora_profiler.memory.compiled.evaluation import bytes_of, forget
    from lora_profiler.memory.compiled.law import NotOfLawError, of_model
    from lora_profiler.memory.compiled.library import cache_path, keep
    from lora_profiler.memory.compiled.regime import key_of
    from lora_profiler.trace.compiler import compile_law
    from lora_profiler.trace.compiler import compile_profile as compiled
    from lora_profiler.trace.watch import note

    try:
        made = compile_law(workload)
        leaves_loss = made.law is not None and made.law.hidden_dtype
        loss = bytes_of(workload, made) if leaves_loss else None
        profile = of_model(made, workload.model, loss)
    except (CompileError, NotOfLawError):
        try:
            made = profile = compiled(workload)
        except CompileError:
            _refused.add(key_of(workload))
            raise
    if keep(made) is None:
        note(f"the profile could not be kept in {cache_path() or 'a home folder'}")
    forget()
    return profile


def _check(workload: "Workload") -> None:
    """What would fail only after the libraries are loaded, or, a pattern without end in PEFT's own
    matching, never."""
    require("tracing")
    if workload.setup.lora is not None:
        check_patterns(workload.model, workload.setup.lora)


def predict(workload: "Workload") -> "Prediction":
    """The answer of a profile made now, which is kept; of one trace of exactly this size where no
    profile could hold the setup, or none that was made could be trusted.

    Raises UnbuildableError where a library is missing, or the step cannot be built or traced.
    """
    _check(workload)
    from lora_profiler.memory.compiled import predict_with

    if profile_unsupported_reason(workload) or is_untrusted(workload):
        return _once(workload)
    try:
        return replace(predict_with(compile_profile(workload), workload), engine="traced")
    except CompileError:
        return _once(workload)


def _once(workload: "Workload") -> "Prediction":
    from lora_profiler.trace.watch import Size, watched

    with watched(workload, [Size(workload.model.num_layers, workload.setup.seq_len)], kept=False):
        load()
        from lora_profiler.trace.single_size import predict_once

        return predict_once(workload)
