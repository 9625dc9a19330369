"""What a question would need in the loops that most people run: the peak under each trainer's own
defaults, by rules alone."""

from collections.abc import Collection, Mapping
from typing import Any, Final, NamedTuple

from lora_profiler.errors import LoraProfilerError
from lora_profiler.model_spec import ModelSpec
from lora_profiler.planning.engine import peak_bytes, rules_know
from lora_profiler.planning.setups import workloads
from lora_profiler.platform import Platform
from lora_profiler.stacks import Stack, find_stack
from lora_profiler.workload import Workload

COMMON: Final = ("transformers", "trl-sft", "axolotl")
"""The trainers that most people run."""


class TrainerPeak(NamedTuple):
    """Steady-state peak bytes of each method under a stack's defaults."""

    stack: Stack
    peaks: tuple[tuple[Workload, int], ...]


def trainer_peaks(
    model: ModelSpec, options: Mapping[str, Any], given: Collection[str], platform: Platform
) -> list[TrainerPeak]:
    """One for each common trainer that can do what was given; none where rules do not know what the
    model's layers keep."""
    peaks = []
    for name in COMMON:
        stack = find_stack(name)
        try:
            requested = workloads(model, options, given, platform, stack)
            if not all(map(rules_know, requested)):
                return []
            of_methods = tuple((w, peak_bytes(w, "analytic")) for w in requested)
        except LoraProfilerError:
            continue
        peaks.append(TrainerPeak(stack, of_methods))
    return peaks
