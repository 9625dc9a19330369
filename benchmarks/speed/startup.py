"""How long a user waits for `lora-profile meta-llama/Llama-3.1-8B --rank 16`, as ratios in one run.

    python -m benchmarks.speed.startup [--also FOLDER ...] [--rounds N] [--write]

Compared with a bare interpreter, with `accelerate estimate-memory --help`, and with the rivals
`fitcheck` (fitcheck-llm) and `canifinetune`, wherever one is found in this environment's folder of
programs or in a folder given by --also. A rival that cannot answer without a network is asked for
its --help, which is less work than an answer; the table says what was asked. Rounds are
interleaved, so that a slow moment of the machine meets all alike. Prints Markdown and JSON; --write
also puts both into `results/startup.md` and `results/startup.json`.
"""

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from benchmarks.pages import page_of, parser_of, table, tell

OURS = "lora-profile meta-llama/Llama-3.1-8B --rank 16"


@dataclass(frozen=True)
class Case:
    """A command as the table names it, how it is run, how often, and of which distribution."""

    name: str
    command: tuple[str, ...]
    every: int
    distribution: str | None = None


@dataclass(frozen=True)
class Result:
    name: str
    version: str | None
    rounds: int
    median_seconds: float
    least_seconds: float
    times_ours: float
    """Its median over ours."""


def found(program: str, folders: list[Path]) -> Path | None:
    return next((folder / program for folder in folders if (folder / program).exists()), None)


def cases(folders: list[Path]) -> list[Case]:
    installed = found("lora-profile", folders)
    ours = (str(installed),) if installed else (sys.executable, "-m", "lora_profiler")
    all_cases = [
        Case("python -c pass", (sys.executable, "-c", "pass"), 1),
        Case(OURS, (*ours, *OURS.split()[1:]), 1, "lora-profiler"),
    ]
    for engine in ("compiled", "analytic"):
        all_cases.append(
            Case(
                f"{OURS} --engine {engine}",
                (*ours, *OURS.split()[1:], "--engine", engine),
                1,
                "lora-profiler",
            )
        )
    all_cases.append(Case("lora-profile --help", (*ours, "--help"), 1, "lora-profiler"))
    rivals = [
        (
            "canifinetune",
            "estimate --model Qwen/Qwen2.5-1.5B-Instruct --method lora --gpu-vram-gb 24 --offline",
            1,
            "canifinetune",
        ),
        ("canifinetune", "--help", 1, "canifinetune"),
        ("fitcheck", "--help", 1, "fitcheck-llm"),
        ("accelerate", "estimate-memory --help", 4, "accelerate"),
    ]
    for program, arguments, every, distribution in rivals:
        path = found(program, folders)
        if path:
            all_cases.append(
                Case(f"{program} {arguments}", (str(path), *arguments.split()), every, distribution)
            )
    return all_cases


def version_of(case: Case) -> str | None:
    """Of the distribution, as the interpreter beside the program sees it."""
    if case.distribution is None:
        return platform.python_version()
    python = Path(case.command[0]).parent / "python"
    code = f"from importlib.metadata import version; print(version({case.distribution!r}))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True)
    return done.stdout.strip() or None


def seconds(command: tuple[str, ...]) -> float:
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {
        "HF_HUB_OFFLINE": "1"
    }
    start = time.perf_counter()
    done = subprocess.run(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
        env=env,
    )
    taken = time.perf_counter() - start
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command[1:])} ended with exit code {done.returncode}")
    return taken


def measure(all_cases: list[Case], rounds: int) -> list[Result]:
    times: dict[str, list[float]] = {case.name: [] for case in all_cases}
    for case in all_cases:
        seconds(case.command)  # byte code and file cache
    for number in range(rounds):
        for case in all_cases:
            if number % case.every == 0:
                times[case.name].append(seconds(case.command))
    ours = median(times[OURS])
    return [
        Result(
            name=case.name,
            version=version_of(case),
            rounds=len(times[case.name]),
            median_seconds=round(median(times[case.name]), 4),
            least_seconds=round(min(times[case.name]), 4),
            times_ours=round(median(times[case.name]) / ours, 3),
        )
        for case in all_cases
    ]


def markdown(results: list[Result]) -> str:
    has_fitcheck = any(r.name.startswith("fitcheck") for r in results)
    return page_of(
        "Start-up",
        f"Whole processes, {platform.python_implementation()} {platform.python_version()} on"
        f" {os.cpu_count()} cores ({platform.machine()}), interleaved. Written by"
        " `benchmarks/speed/startup.py`.",
        table(
            "command | version | >rounds | >median s | >least s | >times ours", map(_cells, results)
        ),
        "`fitcheck` needs the network for an answer, so that only its `--help` is timed."
        if has_fitcheck
        else "",
    )


def _cells(r: Result) -> tuple[object, ...]:
    name = f"**`{r.name}`**" if r.name == OURS else f"`{r.name}`"
    times = (f"{r.median_seconds:.3f}", f"{r.least_seconds:.3f}", f"{r.times_ours:.2f}")
    return name, r.version or "?", r.rounds, *times


def main() -> None:
    parser = parser_of(__doc__, rounds=20, write=False)
    parser.add_argument("--also", action="append", default=[])
    options = parser.parse_args()
    results = measure(
        cases([Path(sys.executable).parent, *map(Path, options.also)]), options.rounds
    )
    document = {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "results": [asdict(r) for r in results],
    }
    print(json.dumps(document, indent=1))
    tell("startup", markdown(results), document, writes=options.write)


if __name__ == "__main__":
    main()
