"""Many short rehearsals on one kind of card, each in a process of its own that is forked from one
which has imported torch already."""

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from lora_profiler.catalog import Gpu
from lora_profiler.records.serialize import workload_dict
from lora_profiler.rehearsal.build import find_compiler, stubs
from lora_profiler.rehearsal.cards import pretended
from lora_profiler.rehearsal.environment import read_environment
from lora_profiler.rehearsal.launch import over_stubs
from lora_profiler.workload import Workload

HERE = Path(__file__).parent
PLENTY_BYTES = 1 << 40
"""Of the card; what a rehearsal is not to have of it is taken before it begins."""


class ForkedRehearsals:
    """Of `gpu`, with the Python of an environment that has a CUDA build of torch. `server` answers;
    `more` are variables that it asks for. Raises RehearsalError."""

    def __init__(
        self,
        python: Path,
        gpu: Gpu,
        server: str = "benchmarks.forked_rehearsals_server",
        more: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        environment = read_environment(python)
        self.torch = environment.torch
        card = replace(pretended(gpu, 0), total_bytes=PLENTY_BYTES)
        variables = os.environ | over_stubs(stubs(environment, find_compiler()), card, 1)
        inside = variables["PYTHONPATH"]  # what answers for values that a card would give
        variables |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **more}
        for name in ("CUDA_VISIBLE_DEVICES", "PYTHONDONTWRITEBYTECODE"):
            variables.pop(name, None)
        variables["PYTHONPATH"] = f"{inside}:{HERE.parent}"
        self._process = subprocess.Popen(
            [str(python), "-m", server],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=variables,
            text=True,
        )

    def run(self, workload: Workload, room_bytes: int, steps: int) -> dict[str, Any]:
        """`status` "done", "out_of_memory" or "error", `where` it ended, and torch's counters after
        so many steps on a card whose allocator may have `room_bytes`."""
        question = {
            "workload": workload_dict(workload),
            "taken_bytes": PLENTY_BYTES - room_bytes,
            "steps": steps,
        }
        return self.ask(question)

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
