"""The options of `bench` beside those of a setup, and which of them go together."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lora_profiler.cli.click_support import (
    FiniteRange,
    NearestChoice,
    WholeRange,
    complete_gpu,
    items,
)
from lora_profiler.cli.option_groups import (
    CASES,
    MEASURING,
    OUTPUT,
    REHEARSING,
    grouped,
    rare,
    together,
)
from lora_profiler.cli.options import given
from lora_profiler.errors import UsageError
from lora_profiler.question.option import GROUP_TITLES, flag

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


F = TypeVar("F", bound=Callable[..., Any])

WITH_CASE = (
    "case", "records", "resume", "rerun", "deadline", "timeout", "progress", "report", "detail",
    "form", "output", "force",
)  # fmt: skip
"""Options that have a meaning beside --case, which fixes everything else."""
WITH_SUITE = ("suite", "device", "ray", "cpus_per_case", "emit", *WITH_CASE[1:])
WITH_EMIT = ("suite", "device", "cpus_per_case", "emit", "timeout", "output", "force")
EMITTED = ("sbatch",)
TIMING_OPTIONS = ("steps", "timing_seconds")
NOT_REHEARSED = ("ray", "emit", "largest_batch", "budget", "report", "no_timing", *TIMING_OPTIONS)
"""Options that have no meaning where nothing is measured."""


def _complete_status(ctx: click.Context, param: Any, incomplete: str) -> list["CompletionItem"]:
    from lora_profiler.measuring.records.record import STATUSES

    return items(status for status in STATUSES if status.startswith(incomplete))


def _complete_suite(ctx: click.Context, param: Any, incomplete: str) -> list["CompletionItem"]:
    from lora_profiler.runs.campaign.suites import suites

    try:
        return items(name for name in sorted(suites()) if name.startswith(incomplete))
    except UsageError:
        return []


_SECONDS = FiniteRange(min=0, min_open=True)
# fmt: off
bench_options = together(
    grouped(CASES)("--records", "PATH", "file of records", show_default="your data folder", type=Path),
    grouped(CASES)("--resume", help="skip what is measured already"),
    rare(CASES)("--rerun", "STATUS", "with --resume: run these again; repeatable",
        multiple=True, shell_complete=_complete_status),
    rare(CASES)("--suite", "NAME", "cases of a suite in benchmarks/suites.py", shell_complete=_complete_suite),
    rare(CASES)("--case", "FILE", "case in a file that --emit wrote", type=Path),
    rare(CASES)("--ray", "auto|local|HOST:PORT",
        "run the suite on a Ray cluster; auto: this machine's, else a local one"),
    rare(CASES)("--emit", "sbatch",
        "write a Slurm array job into the folder -o",
        type=NearestChoice(EMITTED)),
    rare(CASES)("--cpus-per-case", "N",
        "CPUs per case, with --ray or --emit", show_default="OMP_NUM_THREADS, else 1",
        type=WholeRange(1)),
    rare(CASES)("--deadline", "SECONDS", "start no case that would end later", type=_SECONDS),
    rare(CASES)("--timeout", "SECONDS", "end a case that takes longer", type=_SECONDS, show_default="1800",
        default=1800.0),
    rare(CASES)("--repeats", "N", "processes per case, in alternating order",
        type=WholeRange(1, 1000), default=1),
    rare(GROUP_TITLES["ranks"])("--nproc", "N",
        "processes at once, as torchrun; same as --world-size",
        type=WholeRange(1)),
    rare(MEASURING)("--largest-batch", help="search the largest batch that trains"),
    grouped(MEASURING)("--budget", "SIZE",
        "emulate a device with this memory: 24GiB", show_default="all of it"),
    rare(MEASURING)("--weights", "random|hub|PATH", "weights to train; PATH: a folder or .gguf file",
        default="random"),
    rare(MEASURING)("--text", "FILE", "train on a text, not on random tokens", type=Path),
    rare(MEASURING)("--seed", "N", "seed for tokens and dropout", type=WholeRange(0, 2**31 - 1),
        default=0),
    rare(MEASURING)("--steps", "N", "steps to time, at least", show_default="10", type=WholeRange(1)),
    rare(MEASURING)("--timing-seconds", "SECONDS", "stop timing after", show_default="60", type=_SECONDS),
    rare(MEASURING)("--own-loop",
        help="with --trainer: its defaults, not its loop"),
    rare(MEASURING)("--no-timing", help="measure memory only"),
    rare(REHEARSING)("--rehearse",
        help="simulate a GPU (Linux): memory only"),
    rare(REHEARSING)("--gpu", "KEY", "GPU to simulate, with --rehearse", shell_complete=complete_gpu),
    rare(REHEARSING)("--python", "PYTHON",
        "Python with a CUDA build of torch", show_default="LORA_PROFILER_CUDA_PYTHON, else this one"),
    grouped(OUTPUT)("--detail", help="every part, phase and time of each run"),
    grouped(OUTPUT)("--report", "FILE", "also write an HTML page of these runs"),
    rare(OUTPUT)("--progress", help="progress on stderr; json: a line per event",
        type=NearestChoice(("auto", "json")), default="auto"),
)
# fmt: on
"""Adds what `bench` has beside the options of a setup."""


def check_options(ctx: click.Context, models: tuple[str, ...]) -> None:
    """Raises UsageError for options that contradict each other or that nothing would read, before
    anything is looked up."""
    from lora_profiler.measuring.records.store import finished

    o = ctx.params
    _check_cluster_options(ctx)
    requested = [
        *(["MODEL"] if models else []),
        *(f"--{name}" for name in ("suite", "case") if o[name]),
    ]
    if len(requested) != 1:
        both = (
            f"{' and '.join(requested[:2])} each bring their own; name one of the two."
            if requested
            else "name a MODEL, or a --suite."
        )
        raise UsageError(f"what to train is not clear: {both}")
    for source, meant in (("suite", WITH_SUITE), ("case", WITH_CASE)):
        if o[source]:
            idle = [name for name in o if name not in (*meant, "models")]
            _refuse(ctx, idle, f"--{source}")
    if o["nproc"] is not None and given(ctx, "world_size") and o["nproc"] != o["world_size"]:
        raise UsageError(
            f"--nproc {o['nproc']} and --world-size {o['world_size']} are not one number; give one"
            " of the two."
        )
    if o["own_loop"] and o["trainer"] is None:
        raise UsageError(
            "--own-loop takes a trainer's defaults without the trainer; name it with --trainer, or"
            " leave it out."
        )
    _check_rehearsal(ctx)
    finished((), o["rerun"])
    if o["rerun"] and not o["resume"]:
        raise UsageError("--rerun says what --resume is not to leave out; add --resume.")
    idle = [name for name in TIMING_OPTIONS if given(ctx, name)]
    if o["no_timing"] and idle:
        raise UsageError(
            f"{flag(idle[0])} and --no-timing exclude each other; leave out one of them."
        )
    if o["largest_batch"]:
        names = (*TIMING_OPTIONS, "repeats", "no_timing")
        _refuse(ctx, names, "--largest-batch")


def _refuse(ctx: click.Context, names: Iterable[str], where: str) -> None:
    """Raises UsageError for the first of these options that is given."""
    for name in names:
        if given(ctx, name):
            raise UsageError(
                f"{_option(ctx, name)} and {where} exclude each other; leave out one of them."
            )


def _check_rehearsal(ctx: click.Context) -> None:
    """Raises UsageError for what a rehearsal does not take, and for its options without one."""
    o = ctx.params
    if not o["rehearse"]:
        for name in ("gpu", "python"):
            if o[name]:
                raise UsageError(
                    f"--{name} says where to rehearse; add --rehearse, or leave it out: bench "
                    "trains on the device that is there."
                )
        return
    _refuse(ctx, NOT_REHEARSED, "--rehearse")
    if not o["gpu"] or o["gpu"].lower() == "auto":
        raise UsageError("--rehearse needs a GPU to simulate. Name it: `--gpu t4`")
    if o["device"] not in (None, "cuda"):
        raise UsageError(f"--rehearse simulates a CUDA GPU; leave out --device {o['device']}.")


def _option(ctx: click.Context, name: str) -> str:
    """How the parameter `name` is written on the command line."""
    return next(max(p.opts, key=len) for p in ctx.command.params if p.name == name)


def _check_cluster_options(ctx: click.Context) -> None:
    """Raises UsageError for options about other machines that do not go together."""
    o = ctx.params
    for name, does in (("ray", "spreads"), ("emit", "writes")):
        if o[name] and not o["suite"]:
            raise UsageError(
                f"--{name} {does} the cases of a suite; add --suite NAME, and name no MODEL or"
                " --case."
            )
    if o["emit"]:
        idle = [name for name in o if name not in WITH_EMIT]
        _refuse(ctx, idle, "--emit")
        if o["output"] is None:
            raise UsageError("--emit writes a folder; name a new one with -o DIR.")
    elif given(ctx, "cpus_per_case") and not o["ray"]:
        raise UsageError(
            "--cpus-per-case says what a case is given of machines that run many; add --ray or"
            " --emit."
        )
