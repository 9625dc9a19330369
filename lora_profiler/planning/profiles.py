"""Profiles made when they are needed: which ones a model has, and the traces that make them."""

from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec

from lora_profiler.compiled.evaluation import forget, has_profile
from lora_profiler.compiled.facts import windows_of
from lora_profiler.compiled.library import keep
from lora_profiler.compiled.profile import Profile
from lora_profiler.planning.engine import rules_know
from lora_profiler.workload import Workload

NEEDED = ("torch", "transformers", "peft")


def variants(workload: Workload) -> Iterator[Workload]:
    """The workload at one size for each set of facts: one sample or several, windows that the sequence fills or does not."""
    windows = windows_of(workload.model)
    for batch in (1, 2):
        for seq in (2, *windows):
            yield replace(workload, setup=replace(workload.setup, batch_size=batch, seq_len=seq))


def make_profile(workload: Workload) -> Profile:
    """Traces, compiles and keeps it. Raises CompileError, and what building the model raises."""
    from lora_profiler.traced.compiler import compile_profile

    profile = compile_profile(workload)
    keep(profile)
    forget()
    return profile


def is_worth_a_trace(workload: Workload) -> bool:
    """Whether neither rules nor a profile know the model's activations, and what a trace needs is installed."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    return not missing and not rules_know(workload) and not has_profile(workload)
