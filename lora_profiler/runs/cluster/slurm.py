"""A suite for Slurm: a folder of case files and an array job over them. Slurm queues, places and
repeats; nothing here does.

Every task measures one case by the same command that a person would type, into a file of records of
its own, so that no two tasks write to one file over a network; `lora-profile compare` reads them
all as one set.
"""

import math
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lora_profiler.errors import UsageError
from lora_profiler.measuring.harness import Case
from lora_profiler.runs.campaign.suites import write_cases
from lora_profiler.runs.cluster.ray import Needs, together
from lora_profiler.units import MIB

SCRIPT = "run.sbatch"
CASES, RESULTS = "cases", "results"
USUAL_ARRAY_SIZE = 1000
"""Slurm's MaxArraySize is 1001 unless its administrator says otherwise, and counts from 0."""
START_MINUTES = 5
"""Added to a case's time limit: what a task takes before and after it."""


def emit(
    cases: Sequence[Case],
    needs: Sequence[Needs],
    folder: Path,
    *,
    suite: str,
    timeout_seconds: float,
    force: bool,
) -> None:
    """Writes `folder`, whose cases `needs` describes in the same order; results that lie in it
    stay.

    Raises UsageError where the folder is there and not empty, unless `force` is given and it was
    written by this function.
    """
    check_folder(folder, force)
    try:
        text = script(
            len(cases),
            together(needs),
            folder.absolute(),
            suite=suite,
            timeout_seconds=timeout_seconds,
        )
        # the disk may get full
        with tempfile.TemporaryDirectory(prefix=".", dir=folder.absolute().parent) as folder_beside:
            write_cases(cases, Path(folder_beside) / CASES)
            (Path(folder_beside) / SCRIPT).write_text(text, "utf-8")
            folder.mkdir(exist_ok=True)
            (folder / RESULTS).mkdir(exist_ok=True)
            shutil.rmtree(folder / CASES, ignore_errors=True)
            for name in (CASES, SCRIPT):
                os.replace(Path(folder_beside) / name, folder / name)
    except OSError as e:
        raise UsageError(f"{folder} cannot be written: {e.strerror or e}.") from None


def check_folder(folder: Path, force: bool) -> None:
    """Raises UsageError for a place where the files cannot or should not be written."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; name a folder to write the job and its cases into.")
    if not folder.absolute().parent.is_dir():
        raise UsageError(f"There is no folder {folder.parent}; make it first.")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / SCRIPT).is_file():
            raise UsageError(f"{folder} is not empty and holds no {SCRIPT}; name a new folder.")
        if not force:
            raise UsageError(
                f"{folder} holds a job already; name another folder, or add --force to write its"
                " cases anew."
            )


def script(
    num_cases: int,
    needs: Needs,
    folder: Path,
    *,
    suite: str,
    timeout_seconds: float,
    python: str = sys.executable,
) -> str:
    """The array job. Each task asks for `needs`; nothing in it depends on where `sbatch` was
    called.

    Slurm copies the script before it runs it, so that the folder stands in it by its whole name.
    """
    options = [
        f"--job-name=lora-profile-{suite}",
        f"--array=1-{num_cases}",
        "--requeue",
        "--open-mode=append",
        "--nodes=1",
        "--ntasks=1",
        f"--cpus-per-task={needs.cpus}",
        *([f"--gpus-per-node={needs.gpus}"] if needs.gpus else []),
        *([f"--mem={math.ceil(needs.memory_bytes / MIB)}M"] if needs.memory_bytes else []),
        f"--time={math.ceil(timeout_seconds / 60) + START_MINUTES}",
    ]
    header = "\n".join(f"#SBATCH {option}" for option in options)
    return f"""#!/bin/bash
{header}
# One task a case: cases/N.json is measured into results/N.jsonl. A task that Slurm queues again does not measure twice.
# Add partition, account and the like: sbatch --partition=NAME {SCRIPT}
set -euo pipefail

folder={shlex.quote(str(folder))}
python={shlex.quote(python)}
task="${{SLURM_ARRAY_TASK_ID:?submit this with sbatch, or set it to the number of a case}}"

cd "$folder"
export OMP_NUM_THREADS={needs.cpus}
exec "$python" -m lora_profiler bench --case "{CASES}/$task.json" --records "{RESULTS}/$task.jsonl" \\
    --resume --timeout {timeout_seconds:g}
"""  # noqa: E501
