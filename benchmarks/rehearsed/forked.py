"""Many short rehearsals, each in a process of its own that is forked from one which has imported
torch already: one such process a kind of card."""

import json
import os
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from lora_profiler.facts.catalog import find_gpu
from lora_profiler.measuring.records.serialize import workload_dict
from lora_profiler.question.workload import Workload
from lora_profiler.rehearsal.build import find_compiler, stubs
from lora_profiler.rehearsal.environment import read_environment
from lora_profiler.rehearsal.launch import over_stubs, pretended

ROOT = Path(__file__).parents[2]
PLENTY_BYTES = 1 << 40
"""Of every card; what a rehearsal is not to have of it is taken before it begins."""


class ForkedRehearsals:
    """With the Python of an environment that has a CUDA build of torch. The module `server` of
    `benchmarks.rehearsed.inside` answers; `with_hub` gives it a folder for what it takes from a hub
    that is
    not there. To be used in a `with`. Raises RehearsalError."""

    def __init__(
        self, python: Path, server: str = "steps_server", *, with_hub: bool = False
    ) -> None:
        self._environment = read_environment(python)
        self._command = [str(python), "-m", f"benchmarks.rehearsed.inside.{server}"]
        self._with_hub = with_hub
        self._servers: dict[str, subprocess.Popen[str]] = {}
        self._folders = ExitStack()

    @property
    def torch(self) -> str:
        return self._environment.torch

    def run(self, card: str, workload: Workload, room_bytes: int, steps: int) -> dict[str, Any]:
        """`status` "done", "out_of_memory" or "error", `where` it ended, and torch's counters after
        so many steps on a card whose allocator may have `room_bytes`."""
        taken = {"taken_bytes": PLENTY_BYTES - room_bytes}
        return self.ask(card, {"workload": workload_dict(workload), **taken, "steps": steps})

    def ask(self, card: str, question: Mapping[str, Any]) -> dict[str, Any]:
        server = self._servers.get(card) or self._started(card)
        assert server.stdin is not None and server.stdout is not None
        server.stdin.write(json.dumps(question) + "\n")
        server.stdin.flush()
        answer: dict[str, Any] = json.loads(server.stdout.readline())
        return answer

    def _started(self, card: str) -> subprocess.Popen[str]:
        large = replace(pretended(find_gpu(card), 0), total_bytes=PLENTY_BYTES)
        variables = os.environ | over_stubs(stubs(self._environment, find_compiler()), large, 1)
        inside = variables["PYTHONPATH"]  # what answers for values that a card would give
        variables |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        if self._with_hub:
            folder = self._folders.enter_context(TemporaryDirectory())
            variables |= {"LORA_PROFILER_RUN": folder, "HF_HUB_CACHE": f"{folder}/hub"}
            variables["WANDB_MODE"] = "disabled"
        for name in ("CUDA_VISIBLE_DEVICES", "PYTHONDONTWRITEBYTECODE"):
            variables.pop(name, None)
        variables["PYTHONPATH"] = f"{inside}:{ROOT}"
        self._servers[card] = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=variables,
            text=True,
        )
        return self._servers[card]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers.values():
            assert server.stdin is not None
            server.stdin.close()
            server.wait()
        self._folders.close()
