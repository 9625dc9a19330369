"""Profiles that nobody has made yet: when one is worth a trace, and the traces that make them."""

from collections.abc import Sequence

from lora_profiler._common.packages import missing
from lora_profiler.errors import CompileError, UnbuildableError, UsageError
from lora_profiler.memory.analytic import knows
from lora_profiler.memory.compiled import has_nearly, has_profile
from lora_profiler.memory.compiled.regime import key_of, one_of_each_regime
from lora_profiler.question.support.check import check, profile_unsupported_reason
from lora_profiler.question.workload import Workload
from lora_profiler.trace import compile_profile, is_untrusted
from lora_profiler.trace.watch import announce, note, warn


def is_worth_a_trace(workload: Workload) -> bool:
    """Whether neither rules nor a profile know the model's activations, and what a trace needs is
    installed."""
    if profile_unsupported_reason(workload):
        return False
    return (
        not knows(workload)
        and not has_profile(workload)
        and not has_nearly(workload)
        and not missing()
    )


def _is_traced_alone(workload: Workload) -> bool:
    """Whether neither rules nor a profile for other sizes can know the activations, as of a
    trainer's own loss, where a trace of exactly this size can be made."""
    if not profile_unsupported_reason(workload) or knows(workload) or missing():
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
