"""The first of many ranks rehearsed, the others not there: what a machine has no room to start 64
times is one process. Ranks that differ (uneven shards) have the first as the largest."""

from dataclasses import replace
from typing import Any

from benchmarks.rehearsing import rehearsed_steps
from lora_profiler.facts.catalog import Gpu
from lora_profiler.planning.rehearsed import cuda_python
from lora_profiler.question.gpu_platform import version_of
from lora_profiler.question.workload import Workload
from lora_profiler.rehearsal.build import find_compiler, stubs
from lora_profiler.rehearsal.environment import read_environment
from lora_profiler.units import GIB

PLENTY_BYTES = 4096 * GIB


def rehearsed_first_rank(workload: Workload, gpu: Gpu) -> tuple[Workload, dict[str, Any]]:
    """The workload under the torch of that environment, and the rehearsal's document: two steps of
    the harness' loop on a pretended card with memory for anything.

    Raises RehearsalError where none can be made, RuntimeError where the steps did not go through.
    """
    environment = read_environment(cuda_python(None))
    libraries = stubs(environment, find_compiler())
    torch = version_of(environment.torch) or workload.platform.torch
    asked = replace(workload, platform=replace(workload.platform, torch=torch))
    found = rehearsed_steps(asked, gpu, environment.python, libraries, PLENTY_BYTES, alone=True)
    if found.status != "done":
        raise RuntimeError(f"{found.status}: {found.document['error']}")
    return asked, found.document
