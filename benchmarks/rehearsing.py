"""Rehearsals: of a script by the command, `lora-profile rehearse`, of the harness' own steps, and
what their documents say."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lora_profiler.facts.catalog import Gpu
from lora_profiler.measuring.records.serialize import workload_dict
from lora_profiler.question.workload import Workload
from lora_profiler.rehearsal.build import Stubs
from lora_profiler.rehearsal.launch import Request, pretended, rehearse
from lora_profiler.rehearsal.result import Rehearsal

ROOT = Path(__file__).parents[1]
STEPS = Path(__file__).parent / "rehearsed" / "inside" / "training_steps.py"
WORKSPACES = "workspaces of BLAS"
"""What a prediction leaves out, and rehearsals tell."""


def rehearsed(
    python: Path | str, card: str, command: Sequence[str], *options: str, **how: Any
) -> subprocess.CompletedProcess[str]:
    """With the document as its output, where there is one. `how` is as of `subprocess.run`."""
    words = rehearsal_command(python, card, command, *options)
    return subprocess.run(words, capture_output=True, text=True, **how)


def rehearsal_command(
    python: Path | str, card: str, command: Sequence[str], *options: str
) -> list[str]:
    words = [sys.executable, "-m", "lora_profiler", "rehearse", "--format", "json", "--gpu", card]
    return [*words, "--python", str(python), *options, "--", *command]


def rehearsed_steps(
    workload: Workload,
    card: Gpu,
    python: Path,
    libraries: Stubs,
    total_bytes: int,
    *,
    alone: bool = False,
) -> Rehearsal:
    """Of the first rank: the harness' own steps on a card with so much memory. `alone`: the other
    ranks are not there, since collectives of a pretended NCCL move nothing, so that nobody is
    missed. Raises RehearsalError."""
    os.environ["PYTHONPATH"] = str(ROOT)
    count = 1 if alone else workload.setup.world_size
    ranks = ("-m", "torch.distributed.run", f"--nproc-per-node={count}") if count > 1 else ()
    step = (str(STEPS), json.dumps(workload_dict(workload)), *(("--alone",) if alone else ()))
    large = replace(pretended(card, 0), total_bytes=total_bytes)
    request = Request(command=("python", *ranks, *step), python=python, card=large, count=count)
    with open(os.devnull, "wb") as nowhere:
        first, *_ = rehearse(request, libraries, nowhere.fileno())
    return first


def workspaces_bytes(rank: Mapping[str, Any]) -> int:
    """Of one rank of a document."""
    return int((rank["held"]["categories"] or {}).get(WORKSPACES, 0))


def steady_bytes(rank: Mapping[str, Any]) -> int:
    """The steady requested peak without BLAS workspaces."""
    return int(rank["peaks"]["steady"]["requested_bytes"]) - workspaces_bytes(rank)
