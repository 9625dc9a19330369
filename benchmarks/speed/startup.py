"""How long a user waits for `lora-profile meta-llama/Llama-3.1-8B --rank 16`, as ratios in one run.

    python -m benchmarks.speed.startup [--also FOLDERS] [--rounds N] [--write | --render]

Compared with a bare interpreter, with `accelerate estimate-memory --help`, and with the rivals
`fitcheck` (fitcheck-llm) and `canifinetune`, wherever one is found in this environment's folder of
programs or in a folder given by --also, parted by `:`. A rival that cannot answer without a network
is asked for its --help, which is less work than an answer; the table says what was asked. Rounds
are interleaved, so that a slow moment of the machine meets all alike. Prints the page; --write puts
it into `results/startup.md` and `results/startup.json`.
"""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from benchmarks.pages import page_of, table
from benchmarks.runner import once

OURS = "lora-profile meta-llama/Llama-3.1-8B --rank 16"
RIVALS = (
    (
        "canifinetune estimate --model Qwen/Qwen2.5-1.5B-Instruct --method lora --gpu-vram-gb 24"
        " --offline",
        1,
        "canifinetune",
    ),
    ("canifinetune --help", 1, "canifinetune"),
    ("fitcheck --help", 1, "fitcheck-llm"),
    ("accelerate estimate-memory --help", 4, "accelerate"),
)


class Case(NamedTuple):
    """A command as the table names it, how it is run, how often, and of which distribution."""

    name: str
    command: tuple[str, ...]
    every: int = 1
    distribution: str | None = None


def found(program: str, folders: list[Path]) -> Path | None:
    return next((folder / program for folder in folders if (folder / program).exists()), None)


def cases(folders: list[Path]) -> list[Case]:
    installed = found("lora-profile", folders)
    ours = (str(installed),) if installed else (sys.executable, "-m", "lora_profiler")
    asked = (
        OURS,
        *(f"{OURS} --trainer bare --engine {e}" for e in ("compiled", "analytic")),
        "lora-profile --help",
    )
    every = [Case("python -c pass", (sys.executable, "-c", "pass"))]
    every += [Case(name, (*ours, *name.split()[1:]), 1, "lora-profiler") for name in asked]
    for name, times, distribution in RIVALS:
        program, *arguments = name.split()
        if path := found(program, folders):
            every.append(Case(name, (str(path), *arguments), times, distribution))
    return every


def version_of(case: Case) -> str | None:
    """Of the distribution, as the interpreter beside the program sees it."""
    if case.distribution is None:
        return platform.python_version()
    python = Path(case.command[0]).parent / "python"
    code = f"from importlib.metadata import version; print(version({case.distribution!r}))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True)
    return done.stdout.strip() or None


def seconds(command: tuple[str, ...], **variables: str) -> float:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    env |= {"HF_HUB_OFFLINE": "1", **variables}
    nowhere: Any = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
    start = time.perf_counter()
    done = subprocess.run(command, env=env, **nowhere)
    taken = time.perf_counter() - start
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command[1:])} ended with exit code {done.returncode}")
    return taken


def measured(also: str, rounds: int) -> dict[str, Any]:
    folders = map(Path, filter(None, also.split(os.pathsep)))
    every = cases([Path(sys.executable).parent, *folders])
    times: dict[str, list[float]] = {case.name: [] for case in every}
    for case in every:
        seconds(case.command)  # byte code and file cache
    for number in range(rounds):
        for case in every:
            if number % case.every == 0:
                times[case.name].append(seconds(case.command))
    ours = median(times[OURS])
    results = [
        {
            "name": case.name,
            "version": version_of(case),
            "rounds": len(times[case.name]),
            "median_seconds": round(median(times[case.name]), 4),
            "least_seconds": round(min(times[case.name]), 4),
            "times_ours": round(median(times[case.name]) / ours, 3),
        }
        for case in every
    ]
    about = {"python": platform.python_version(), "cores": os.cpu_count()}
    return {**about, "machine": platform.machine(), "results": results}


def page(document: Mapping[str, Any]) -> str:
    has_fitcheck = any(r["name"].startswith("fitcheck") for r in document["results"])
    return page_of(
        "Start-up",
        f"Whole processes, CPython {document['python']} on {document['cores']} cores"
        f" ({document['machine']}), interleaved. Written by `benchmarks/speed/startup.py`.",
        table(
            "command | version | >rounds | >median s | >least s | >times ours",
            map(_cells, document["results"]),
        ),
        "`fitcheck` needs the network for an answer, so that only its `--help` is timed."
        if has_fitcheck
        else "",
    )


def _cells(r: Mapping[str, Any]) -> tuple[object, ...]:
    name = f"**`{r['name']}`**" if r["name"] == OURS else f"`{r['name']}`"
    times = (f"{r['median_seconds']:.3f}", f"{r['least_seconds']:.3f}", f"{r['times_ours']:.2f}")
    return name, r["version"] or "?", r["rounds"], *times


if __name__ == "__main__":
    once(__doc__, "startup", measured, page, also="", rounds=20)
