"""The options of `bench` beside those of a setup, and which of them go together."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lora_profiler.cli.click_support import (
    FiniteRange,
    NearestChoice,
    WholeRange,
    complete_gpu,
    items,
    warn,
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
from lora_profiler.cli.options import given, model_called, stack_of, workloads
from lora_profiler.errors import UsageError, did_you_mean
from lora_profiler.facts.stacks import Stack
from lora_profiler.planning.setups import CPU_DEFAULTS
from lora_profiler.question.gpu_platform import Platform
from lora_profiler.question.model_spec import ModelSpec
from lora_profiler.question.option import GROUP_TITLES, flag
from lora_profiler.question.workload import Device
from lora_profiler.units import parse_memory

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from lora_profiler.measuring.harness import Case
    from lora_profiler.measuring.harness.pretended import Pretended
    from lora_profiler.measuring.records.record import Conditions
    from lora_profiler.measuring.records.store import Store
    from lora_profiler.runs.campaign.interrupts import Interrupt
    from lora_profiler.runs.campaign.planned import Planned
    from lora_profiler.runs.campaign.progress import Progress
    from lora_profiler.runs.campaign.runs import Schedule
    from lora_profiler.runs.cluster.ray import RayCluster
    from lora_profiler.runs.cluster.scheduler import ClusterOutcome


# --- options --------------------------------------------------------------------------------------

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
    requested = ["MODEL"] * bool(models) + [f"--{n}" for n in ("suite", "case") if o[n]]
    if len(requested) != 1:
        todo = "name a MODEL, or a --suite."
        if requested:
            todo = f"{' and '.join(requested[:2])} each bring their own; name one of the two."
        raise UsageError(f"what to train is not clear: {todo}")
    for source, meant in (("suite", WITH_SUITE), ("case", WITH_CASE)):
        if o[source]:
            _refuse(ctx, [n for n in o if n not in (*meant, "models")], f"--{source}")
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
        _refuse(ctx, (*TIMING_OPTIONS, "repeats", "no_timing"), "--largest-batch")


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
        _refuse(ctx, [name for name in o if name not in WITH_EMIT], "--emit")
        if o["output"] is None:
            raise UsageError("--emit writes a folder; name a new one with -o DIR.")
    elif given(ctx, "cpus_per_case") and not o["ray"]:
        raise UsageError(
            "--cpus-per-case says what a case is given of machines that run many; add --ray or"
            " --emit."
        )


# --- cases ----------------------------------------------------------------------------------------

# The cases that the options of `bench` mean: here, spread over a Ray cluster, or written as an
# array job of Slurm.


def rehearsed_on(o: dict[str, Any]) -> "Pretended":
    """The card and the environment that --rehearse names, with its stub libraries. Raises
    UsageError and RehearsalError."""
    from lora_profiler.facts.catalog import find_gpu
    from lora_profiler.facts.catalog.gpus import context_of
    from lora_profiler.planning.rehearsed import pretended_on
    from lora_profiler.rehearsal.launch import pretended

    gpu = find_gpu(o["gpu"])
    card = pretended(gpu, context_of(gpu.key).most_bytes)
    return pretended_on(card, o["nproc"] or o["world_size"], o["python"])


def model_cases(
    ctx: click.Context, models: tuple[str, ...], device: Device, platform: Platform | None = None
) -> list["Case"]:
    """One case for each model, method and repeat: odd repeats run backwards (A, B, B, A), so that a
    drift hits all alike. `platform` is that of a pretended card, else the device's here.

    On a CPU some defaults are others, which is said.

    Raises UsageError, and what `find_model` raises.
    """
    from lora_profiler.measuring.harness import make_case
    from lora_profiler.measuring.harness.capabilities import present_platform

    o = ctx.params
    if o["nproc"] is not None:
        o["world_size"] = o["nproc"]
    stack = stack_of(ctx)
    if device == "cpu":
        own = stack.options if stack else ()
        usual = {n: v for n, v in CPU_DEFAULTS.items() if n not in own and not given(ctx, n)}
        o |= usual
        for name, value in usual.items():
            click.echo(
                f"{flag(name)} is {value}, since this is a CPU, unless you give another.", err=True
            )
    conditions = replace(_conditions(o), trained_by=_trainer_itself(stack, o))
    weights, text = _weights(o, models), _text(o)
    specs = [model_called(name, o) for name in models]
    if text is not None and weights is None:
        _check_tokenizer(specs)
    platform = platform or present_platform(device)
    requested = [workload for spec in specs for workload in workloads(spec, ctx, platform, device)]
    if stack:
        who = f"the harness' own loop, with the defaults of {stack.title}"
        if conditions.trained_by:
            who = f"{stack.title} itself"
        click.echo(f"Trained by {who}.", err=True)
    return [
        make_case(workload, conditions, weights=weights, text=text, repeat=repeat)
        for repeat in range(o["repeats"])
        for workload in (reversed(requested) if repeat % 2 else requested)
    ]


def _trainer_itself(stack: Stack | None, o: dict[str, Any]) -> str:
    """The trainer whose own code is to run, "" for the harness' loop."""
    from lora_profiler.measuring.harness.preflight import OWN_LOOPS

    if stack is None or o["own_loop"] or stack.name in OWN_LOOPS:
        return ""
    return stack.key


def _conditions(o: dict[str, Any]) -> "Conditions":
    from lora_profiler.measuring.records.record import Conditions

    changes: dict[str, Any] = {"seed": o["seed"]}
    if o["budget"]:
        changes["budget_bytes"] = parse_memory(o["budget"])
    if o["steps"] is not None:
        changes["min_timed_steps"] = o["steps"]
    if o["timing_seconds"] is not None:
        changes["max_timing_seconds"] = o["timing_seconds"]
    if o["no_timing"] or o["rehearse"]:
        changes["min_timed_steps"] = 0
    if o["largest_batch"]:  # two whole optimizer steps are what "fits" means
        changes |= {"memory_steps": 2, "min_timed_steps": 0}
    return Conditions(**changes)


def _weights(o: dict[str, Any], models: tuple[str, ...]) -> str | None:
    """None for random weights, "hub", or the path."""
    requested: str = o["weights"]
    if requested == "random":
        return None
    if requested == "hub":
        if o["offline"]:
            raise UsageError(
                "--weights hub asks the hub; leave out --offline, and set HF_HUB_OFFLINE=1 to take"
                " what is cached."
            )
        if o["revision"] != "main":
            raise UsageError(
                "--weights hub loads the main revision; fetch another one yourself, and give its"
                " folder."
            )
        return "hub"
    path = Path(requested).expanduser()
    if not path.is_dir() and not (path.is_file() and path.suffix == ".gguf"):
        raise UsageError(
            f"weights are {requested!r}; give random, hub, a folder with a model's files, or a .gguf"
            f" file.{did_you_mean(requested, ('random', 'hub'))}"
        )
    if len(models) > 1:
        raise UsageError(
            f"{requested} can hold the weights of one model, not of {len(models)}; name one MODEL."
        )
    return str(path)


def _text(o: dict[str, Any]) -> str | None:
    if o["text"] is None:
        return None
    path: Path = o["text"].expanduser()
    if not path.is_file():
        raise UsageError(f"--text {o['text']}: there is no such file.")
    return str(path)


def _check_tokenizer(specs: list[ModelSpec]) -> None:
    """A text is read with the tokenizer of the weights; without weights, with that of the hub id in
    the local cache."""
    for spec in specs:
        if spec.source not in ("bundled", "hub"):
            raise UsageError(
                f"--text needs the tokenizer of {spec.id}; give the folder that holds it with"
                " --weights PATH."
            )


# --- Ray ------------------------------------------------------------------------------------------


@contextmanager
def cluster_of(o: dict[str, Any]) -> "Iterator[RayCluster | None]":
    """The cluster that --ray names, while the block runs; None without --ray. Raises UsageError."""
    if not o["ray"]:
        yield None
        return
    from lora_profiler.runs.campaign.suites import suite
    from lora_profiler.runs.cluster.ray import default_cpus, opened

    suite(o["suite"])
    with opened(o["ray"], o["cpus_per_case"] or default_cpus()) as cluster:
        yield cluster


def cluster_cases(cluster: "RayCluster", o: dict[str, Any]) -> "tuple[list[Planned], int]":
    """The suite's cases that a machine of the cluster has room for, and how many it has none for;
    a warning names each of those.

    Without --device they are for CUDA where any machine has GPUs, else for the CPU. Raises
    UsageError where none has room.
    """
    from lora_profiler.measuring.harness.environment import public_command
    from lora_profiler.runs.campaign.planned import planned_for_cluster
    from lora_profiler.runs.campaign.suites import suite_cases
    from lora_profiler.runs.cluster.ray import needs

    device: Device = o["device"] or ("cuda" if cluster.has_gpus else "cpu")
    command = public_command(sys.argv)
    able: list[Planned] = []
    cases = suite_cases(o["suite"], device)
    for case in cases:
        planned = planned_for_cluster(replace(case, command=command))
        refusal = cluster.refusal(needs(planned, cluster.cpus))
        if refusal is None:
            able.append(planned)
        else:
            warn(f"left out {case.key}: {refusal}.")
    if not able:
        raise UsageError(
            f"none of the {len(cases)} cases of {o['suite']} for {device} can run on this cluster;"
            " see above."
        )
    return able, len(cases) - len(able)


def spread_text(cluster: "RayCluster | None") -> str:
    """' on 2 machines by Ray, 4 processors a case'; nothing without a cluster."""
    if cluster is None:
        return ""
    machines, cpus = len(cluster.nodes), cluster.cpus
    return (
        f" on {machines} machine{'s'[: machines > 1]} by Ray, {cpus} processor{'s'[: cpus > 1]} a"
        " case"
    )


def schedule_of(o: dict[str, Any]) -> "Schedule":
    """Of the options that say which cases run, and until when."""
    from lora_profiler.runs.campaign.runs import Schedule

    return Schedule(
        resume=o["resume"],
        rerun=o["rerun"],
        deadline_seconds=o["deadline"],
        timeout_seconds=o["timeout"],
    )


def spread(
    cluster: "RayCluster",
    cases: "Sequence[Planned]",
    store: "Store",
    progress: "Progress",
    interrupt: "Interrupt",
    o: dict[str, Any],
) -> "ClusterOutcome":
    from lora_profiler.runs.cluster.ray import needs, together
    from lora_profiler.runs.cluster.scheduler import spread_cases

    progress.at_once = cluster.at_once(together(needs(each, cluster.cpus) for each in cases))
    for each in cases:
        progress.add(each)
    result = spread_cases(cases, store, progress, cluster, schedule_of(o))
    interrupt.requested |= result.interrupted
    progress.interrupt(None)
    return result


def print_lost_cases(result: "ClusterOutcome") -> None:
    """On stderr: what became of cases that have no record, and how many began anew."""
    for refused in result.refused:
        warn(f"left out {refused.case.key}: {refused.reason}")
    for lost in result.lost:
        warn(
            f"{lost.case.key} has no record, since Ray lost two workers over it: {lost.reason}. Run"
            " again with --resume."
        )
    if result.num_rescheduled:
        click.echo(
            f"Begun anew on another worker, since theirs was lost: {result.num_rescheduled} of the"
            " cases.",
            err=True,
        )


# --- Slurm ----------------------------------------------------------------------------------------


def emit(o: dict[str, Any]) -> None:
    """Writes the suite as a job; on stderr how to submit it and how to read its results.

    Without --device it is for the one that is here, as everywhere; the cases are refused by the
    machines that they come to. Raises UsageError.
    """
    import shlex

    from lora_profiler.measuring.harness.capabilities import present_device
    from lora_profiler.runs.campaign.planned import planned_for_cluster
    from lora_profiler.runs.campaign.suites import suite_cases
    from lora_profiler.runs.cluster import slurm
    from lora_profiler.runs.cluster.ray import default_cpus, needs

    folder = Path(o["output"])
    slurm.check_folder(folder, o["force"])
    device = o["device"] or present_device()
    cases = suite_cases(o["suite"], device)
    requested = [
        needs(planned_for_cluster(case), o["cpus_per_case"] or default_cpus()) for case in cases
    ]
    slurm.emit(
        cases, requested, folder, suite=o["suite"], timeout_seconds=o["timeout"], force=o["force"]
    )
    if len(cases) > slurm.USUAL_ARRAY_SIZE:
        warn(
            f"{len(cases):,} tasks are more than Slurm allows in one array by default"
            " (MaxArraySize); ask yours."
        )
    here = shlex.quote(str(folder))
    click.echo(
        f"Wrote {folder}: {len(cases)} cases for {device}, and the job that measures them.",
        err=True,
    )
    click.echo(f"Submit it: cd {here} && sbatch {slurm.SCRIPT}", err=True)
    click.echo(f"Then: lora-profile compare {shlex.quote(str(folder / slurm.RESULTS))}", err=True)
