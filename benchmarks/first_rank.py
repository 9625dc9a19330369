"""The first of many ranks rehearsed, the others not there: what a machine has no room to start 64
times is one process. Collectives of a pretended NCCL move nothing, so that nobody is missed; ranks
that differ (uneven shards) have the first as the largest.
"""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora_profiler.catalog import Gpu
from lora_profiler.planning.rehearsed import cuda_python
from lora_profiler.platform import version_of
from lora_profiler.records.serialize import workload_dict
from lora_profiler.rehearsal.build import find_compiler, stubs
from lora_profiler.rehearsal.cards import pretended
from lora_profiler.rehearsal.environment import read_environment
from lora_profiler.rehearsal.launch import Request, rehearse
from lora_profiler.units import GIB
from lora_profiler.workload import Workload

HERE = Path(__file__).parent
PLENTY_BYTES = 4096 * GIB


def rehearsed_first_rank(workload: Workload, gpu: Gpu) -> tuple[Workload, dict[str, Any]]:
    """The workload under the torch of that environment, and the rehearsal's document: two steps of
    the harness' loop on a pretended card with memory for anything.

    Raises RehearsalError where none can be made, RuntimeError where the steps did not go through.
    """
    environment = read_environment(cuda_python(None))
    torch = version_of(environment.torch) or workload.platform.torch
    platform = replace(workload.platform, torch=torch)
    asked = replace(workload, platform=platform)
    os.environ["PYTHONPATH"] = str(HERE.parent)
    step = (str(HERE / "inside" / "training_steps.py"), json.dumps(workload_dict(asked)), "--alone")
    request = Request(
        command=("python", *step),
        python=environment.python,
        card=replace(pretended(gpu, 0), total_bytes=PLENTY_BYTES),
    )
    with open(os.devnull, "wb") as nowhere:
        result, *_ = rehearse(request, stubs(environment, find_compiler()), nowhere.fileno())
    if result.status != "done":
        raise RuntimeError(f"{result.status}: {result.document['error']}")
    return asked, result.document
