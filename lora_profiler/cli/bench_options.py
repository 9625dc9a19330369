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
from lora_profiler.option import GROUP_TITLES, flag

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


F = TypeVar("F", bound=Callable[..., Any])

WITH_CASE = (
    "case", "records", "resume", "rerun", "deadline", "timeout", "progress", "report", "form",
    "output", "force",
)  # fmt: skip
"""Options that have a meaning beside --case, which fixes everything else."""
WITH_SUITE = ("suite", "device", "ray", "cpus_per_case", "emit", *WITH_CASE[1:])
WITH_EMIT = ("suite", "device", "cpus_per_case", "emit", "timeout", "output", "force")
EMITTED = ("sbatch",)
TIMING_OPTIONS = ("steps", "timing_seconds")
NOT_REHEARSED = ("ray", "emit", "largest_batch", "budget", "report", "no_timing", *TIMING_OPTIONS)
"""Options that have no meaning where nothing is measured."""


def _complete_status(ctx: click.Context, param: Any, incomplete: str) -> list["CompletionItem"]:
    from lora_profiler.records.record import STATUSES

    return items(status for status in STATUSES if status.startswith(incomplete))


def _complete_suite(ctx: click.Context, param: Any, incomplete: str) -> list["CompletionItem"]:
    from lora_profiler.campaign.suites import suites

    try:
        return items(name for name in sorted(suites()) if name.startswith(incomplete))
    except UsageError:
        return []


_SECONDS = FiniteRange(min=0, min_open=True)
# fmt: off
bench_options = together(
    grouped(CASES)("--records", "PATH", "The store of records. [default: in the user's data folder]", type=Path),
    grouped(CASES)("--resume", help="Leave out what is stored for this environment already."),
    rare(CASES)("--rerun", "STATUS", "With --resume: run these again, as in --rerun oom. Repeat for several.",
        multiple=True, shell_complete=_complete_status),
    rare(CASES)("--suite", "NAME", "The cases of a suite in benchmarks/suites.py.", shell_complete=_complete_suite),
    rare(CASES)("--case", "FILE", "The case in a file that --emit wrote.", type=Path),
    rare(CASES)("--ray", "auto|local|HOST:PORT",
        "Spread the suite over a Ray cluster: the one at an address, one of this machine's own (local), or the one"
        " that this machine is part of, else its own (auto)."),
    rare(CASES)("--emit", "sbatch",
        "Run nothing: write the suite as an array job of Slurm into the new folder of -o.",
        type=NearestChoice(EMITTED)),
    rare(CASES)("--cpus-per-case", "N",
        "With --ray or --emit: processors and threads of each. [default: OMP_NUM_THREADS, else 1]",
        type=WholeRange(1)),
    rare(CASES)("--deadline", "SECONDS", "Start no case that would not end in this time.", type=_SECONDS),
    rare(CASES)("--timeout", "SECONDS", "End a case that takes longer. [default: 1800]", type=_SECONDS,
        default=1800.0),
    rare(CASES)("--repeats", "N", "Run each case in so many processes, forth and back. [default: 1]",
        type=WholeRange(1, 1000), default=1),
    rare(GROUP_TITLES["ranks"])("--nproc", "N",
        "Train in so many processes at once, as torchrun starts them: the same as --world-size, with --sharding.",
        type=WholeRange(1)),
    rare(MEASURING)("--largest-batch", help="Search the largest batch that trains, beginning at the predicted one."),
    grouped(MEASURING)("--budget", "SIZE",
        "Emulate a device with so much memory, as in 24GiB. [default: the device's own]"),
    rare(MEASURING)("--weights", "random|hub|PATH", "What the weights hold; PATH is a folder or a .gguf file.",
        default="random", show_default=True),
    rare(MEASURING)("--text", "FILE", "Train on a text instead of random tokens.", type=Path),
    rare(MEASURING)("--seed", "N", "Of tokens and dropout. [default: 0]", type=WholeRange(0, 2**31 - 1),
        default=0),
    rare(MEASURING)("--steps", "N", "Time at least so many steps. [default: 10]", type=WholeRange(1)),
    rare(MEASURING)("--timing-seconds", "SECONDS", "Time no longer than so. [default: 60]", type=_SECONDS),
    rare(MEASURING)("--own-loop",
        help="With --trainer: its defaults in the harness' own loop, not the trainer itself."),
    rare(MEASURING)("--no-timing", help="Measure memory alone."),
    rare(REHEARSING)("--rehearse",
        help="On a card that is not there (Linux): memory alone, kept apart from what is measured."),
    rare(REHEARSING)("--gpu", "KEY", "With --rehearse: the card to pretend.", shell_complete=complete_gpu),
    rare(REHEARSING)("--python", "PYTHON",
        "With --rehearse: of an environment with a CUDA build of torch. [default: $LORA_PROFILER_CUDA_PYTHON, else"
        " this one]"),
    grouped(OUTPUT)("--report", "FILE", "Write these runs and their predictions as an HTML page too: a new file."),
    rare(OUTPUT)("--progress", help="On stderr; json: one object a line, at every step, for other programs.",
        type=NearestChoice(("auto", "json")), default="auto", show_default=True),
)
# fmt: on
"""Adds what `bench` has beside the options of a setup."""


def check_options(ctx: click.Context, models: tuple[str, ...]) -> None:
    """Raises UsageError for options that contradict each other or that nothing would read, before
    anything is looked up."""
    from lora_profiler.records.store import finished

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
            _refuse(ctx, idle, f"--{source}, whose cases fix it")
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
            f"{flag(idle[0])} has no meaning with --no-timing; leave out one of the two."
        )
    if o["largest_batch"]:
        names = (*TIMING_OPTIONS, "repeats", "no_timing")
        _refuse(ctx, names, "--largest-batch, which times nothing")


def _refuse(ctx: click.Context, names: Iterable[str], where: str) -> None:
    """Raises UsageError for the first of these options that is given."""
    for name in names:
        if given(ctx, name):
            raise UsageError(f"{_option(ctx, name)} has no meaning with {where}; leave it out.")


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
    _refuse(ctx, NOT_REHEARSED, "--rehearse, which measures nothing")
    if not o["gpu"] or o["gpu"].lower() == "auto":
        raise UsageError("--rehearse pretends a card that is not there; name it with --gpu KEY.")
    if o["device"] not in (None, "cuda"):
        raise UsageError(f"--rehearse pretends a CUDA card; leave out --device {o['device']}.")


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
        _refuse(ctx, idle, "--emit, which measures nothing")
        if o["output"] is None:
            raise UsageError("--emit writes a folder; name a new one with -o DIR.")
    elif given(ctx, "cpus_per_case") and not o["ray"]:
        raise UsageError(
            "--cpus-per-case says what a case is given of machines that run many; add --ray or"
            " --emit."
        )
