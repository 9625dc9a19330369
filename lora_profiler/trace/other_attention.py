"""The law of a type under cuDNN's attention, made of its law under flash attention: the same
events, of which the random state is smaller. A fresh trace of the real model proves it."""

from collections.abc import Callable
from contextlib import suppress

from lora_profiler._common.polynomial import Polynomial
from lora_profiler.errors import CompileError
from lora_profiler.memory.compiled.law import law_key, law_unsupported_reason
from lora_profiler.memory.compiled.library import find_profile
from lora_profiler.memory.compiled.profile import Law, Profile, Regime
from lora_profiler.memory.compiled.regime import regime_of
from lora_profiler.memory.compiled.tape import Birth, Event, Tape
from lora_profiler.question.workload import Workload
from lora_profiler.trace.compiler import ProofOfLaw

CUDNN = ("cudnn", "cudnn")
_FLASH = "_scaled_dot_product_flash_attention"
_FLASH_STATE, _CUDNN_STATE = 16, 8
"""Bytes of what reproduces the dropout in backward: seed and offset together under flash, each in a
tensor of its own under cuDNN (torch `native_functions.yaml`)."""


def of_flash(
    workload: Workload, find: Callable[[str], Profile | None] = find_profile
) -> Profile | None:
    """The law of `workload` where that under flash attention is there, by its key, and holds."""
    usual = under_flash(regime_of(workload))
    law = usual and find(law_key(workload.model, workload.setup, usual))
    if law is None or law_unsupported_reason(workload):
        return None
    with suppress(CompileError):
        return with_cudnn(law, workload)
    return None


def under_flash(regime: Regime) -> Regime | None:
    """The regime under flash attention; None of one that has other kernels than cuDNN's."""
    return regime._replace(kernels=()) if regime.kernels == CUDNN else None


def with_cudnn(law: Profile, workload: Workload) -> Profile:
    """The law of `workload`, made of the one of the same setup `under_flash`. Raises CompileError
    with the first event of a fresh trace that differs."""
    assert law.law is not None
    sizes, small = list(law.sizes), _constant(law.law, _CUDNN_STATE)
    if small not in sizes:
        sizes.append(small)
    large, place = _constant(law.law, _FLASH_STATE), sizes.index(small)

    def other(event: Event) -> Event:
        if not isinstance(event, Birth) or not event.op.startswith(_FLASH):
            return event
        size = place if sizes[event.size] == large else event.size
        return event._replace(op=event.op.replace("flash", "cudnn"), size=size)

    runs = (
        run._replace(blocks=tuple(tuple(map(other, block)) for block in run.blocks))
        for run in law.tape.runs
    )
    tape = Tape(tuple(runs), law.tape.layout)
    return ProofOfLaw(workload, regime_of(workload), law).proven(tape, sizes)


def _constant(law: Law, number: int) -> Polynomial:
    """In the symbols of the law."""
    places = (n for n, m in enumerate(law.monomials) if not m.factors and not any(m.exponents))
    return Polynomial({(next(places), 0, 0, 0, 0, 0): number})
