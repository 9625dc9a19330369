"""Which engine knows which feature: the table on the page of `benchmarks.truth.combinations`, asked
of the checks that every answer goes through."""

from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from lora_profiler.errors import LoraProfilerError, UsageError
from lora_profiler.facts.catalog import find_model
from lora_profiler.facts.stacks import find_stack
from lora_profiler.measuring.harness.preflight import LIBRARIES, refuse
from lora_profiler.measuring.records.record import Conditions
from lora_profiler.memory.compiled.law import law_unsupported_reason
from lora_profiler.planning.engine import predict
from lora_profiler.planning.setups import DEFAULTS, workloads
from lora_profiler.question.feature import Kind, names
from lora_profiler.question.support.check import (
    check,
    check_traceable,
    profile_unsupported_reason,
    trace_unsupported_reason,
)
from lora_profiler.question.workload import Workload

MODEL = "meta-llama/Llama-3.2-1B"
KINDS: Mapping[Kind, tuple[str, str]] = {
    "adapters": ("Adapters", "peft_type"),
    "bases": ("Bases", "quant_type"),
    "losses": ("Losses", "loss"),
    "kernels": ("Kernels", "kernels"),
    "lora_kernels": ("LoRA kernels", "lora_kernels"),
    "loops": ("Training loops", "loop_state"),
    "optimizers": ("Optimizers", "optimizer"),
}
"""Title and option of each kind."""
PLACES = [
    {"methods": (method,), "precision": precision, **more}
    for method, precision, more in product(
        ("lora", "qlora", "full"),
        ("pure", "amp"),
        ({}, {"targets": "q_proj,v_proj"}, {"dtype": "float16"}),
    )
]
"""Options with which a feature is predicted; the first that it goes with."""


_HEAD = "| value | rules | law | trace | measured |\n|---|---|---|---|---|\n"


def workload_of(option: str, value: str) -> Workload:
    """Raises UsageError for a feature that goes with none of `PLACES`."""
    model = find_model(MODEL, offline=True)
    for place in PLACES:
        if option == "quant_type" and place["methods"] != ("qlora",):
            continue
        given = {option: value, **place}
        try:
            (found,) = workloads(model, DEFAULTS | given, given)
            check(found, "auto")
        except LoraProfilerError:
            continue
        return found
    raise UsageError(f"{option} {value} goes with nothing that is asked here.")


def row(option: str, value: str) -> tuple[str, ...]:
    """The value, and whether rules, a law, a trace and a measurement can have it."""
    workload = workload_of(option, value)
    has_rules = predict(workload, "analytic", may_trace=False).is_whole
    has_law = not (profile_unsupported_reason(workload) or law_unsupported_reason(workload))
    can = has_rules, has_law, _traces(workload), _measures(workload)
    return f"`{value}`", *("yes" if each else "no" for each in can)


def _traces(workload: Workload) -> bool:
    try:
        check_traceable(workload)
    except UsageError:
        return False
    return not trace_unsupported_reason(workload.setup)


def _measures(workload: Workload) -> bool:
    """On a machine with everything installed; a trainer's loop where `bench` runs its package."""
    loop = workload.setup.loop_state
    if loop != "none":
        return loop in [find_stack(name).defaults["lora"]["loop_state"] for name in LIBRARIES]
    try:
        refuse(
            workload,
            Conditions(),
            installed=lambda name: object(),
            capability=lambda: (9, 0),
            environ={},
            devices=lambda: 8,
        )
    except LoraProfilerError:
        return False
    return True


def tables() -> Iterator[str]:
    """One for each kind; a line for all values of which the same is said."""
    for kind, (title, option) in KINDS.items():
        alike: dict[tuple[Any, ...], list[str]] = {}
        for name in names(kind):
            value, *cells = row(option, name)
            alike.setdefault(tuple(cells), []).append(value)
        lines = "".join(f"| {', '.join(v)} | {' | '.join(cells)} |\n" for cells, v in alike.items())
        yield f"### {title}\n\n{_HEAD}{lines}"
