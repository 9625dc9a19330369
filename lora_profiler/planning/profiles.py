"""Which profiles a model has, and when one is worth a trace."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from lora_profiler._versions import missing
from lora_profiler.compiled import has_profile, has_stand_in
from lora_profiler.compiled.regime import key_of, windows_of
from lora_profiler.planning.engine import rules_know
from lora_profiler.support.profiles import why_unprofiled
from lora_profiler.workload import Workload


def variants(workload: Workload) -> Iterator[Workload]:
    """The workload at one size for each regime: one sample or several, windows that the sequence
    fills or does not."""
    windows = windows_of(workload.model)
    for batch in (1, 2):
        for seq in (2, *windows):
            yield replace(workload, setup=replace(workload.setup, batch_size=batch, seq_len=seq))


def worth_a_trace(
    workloads: Sequence[Workload], *, other_sizes: bool
) -> list[tuple[Workload, Workload]]:
    """(what was asked, the workload to trace for it), each profile once; with `other_sizes` those
    of other sizes too."""
    by_key: dict[str, tuple[Workload, Workload]] = {}
    for question in workloads:
        for workload in (question, *(variants(question) if other_sizes else ())):
            if is_worth_a_trace(workload):
                by_key.setdefault(key_of(workload), (question, workload))
    return list(by_key.values())


def is_worth_a_trace(workload: Workload) -> bool:
    """Whether neither rules nor a profile know the model's activations, and what a trace needs is
    installed."""
    if why_unprofiled(workload.setup):
        return False
    return (
        not rules_know(workload)
        and not has_profile(workload)
        and not has_stand_in(workload)
        and not missing()
    )
