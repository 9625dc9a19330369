"""`bench` on machines that others hand out: a suite spread over a Ray cluster, or written as an
array job of Slurm."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lora_profiler.cli.click_support import warn

if TYPE_CHECKING:
    from lora_profiler.campaign.interrupts import Interrupt
    from lora_profiler.campaign.planned import Planned
    from lora_profiler.campaign.progress import Progress
    from lora_profiler.cluster_runs.ray import Cluster
    from lora_profiler.cluster_runs.scheduler import Spread
    from lora_profiler.records.store import Store
    from lora_profiler.workload import Device

# --- Ray ------------------------------------------------------------------------------------------


@contextmanager
def cluster_of(o: dict[str, Any]) -> "Iterator[Cluster | None]":
    """The cluster that --ray names, while the block runs; None without --ray. Raises UsageError."""
    if not o["ray"]:
        yield None
        return
    from lora_profiler.campaign.suites import suite
    from lora_profiler.cluster_runs.ray import opened
    from lora_profiler.cluster_runs.resources import default_cpus

    suite(o["suite"])
    with opened(o["ray"], o["cpus_per_case"] or default_cpus()) as cluster:
        yield cluster


def cluster_cases(cluster: "Cluster", o: dict[str, Any]) -> "tuple[list[Planned], int]":
    """The suite's cases that a machine of the cluster has room for, and how many it has none for,
    each of which is told of.

    Without --device they are for CUDA where any machine has GPUs, else for the CPU. Raises
    UsageError where none has room.
    """
    from lora_profiler.campaign.planned import planned_elsewhere
    from lora_profiler.campaign.suites import suite_cases
    from lora_profiler.cluster_runs.resources import needs
    from lora_profiler.errors import UsageError
    from lora_profiler.harness.provenance import public_command

    device: Device = o["device"] or ("cuda" if cluster.has_gpus else "cpu")
    command = public_command(sys.argv)
    able: list[Planned] = []
    cases = suite_cases(o["suite"], device)
    for case in cases:
        planned = planned_elsewhere(replace(case, command=command))
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


def spread_text(cluster: "Cluster | None") -> str:
    """' on 2 machines by Ray, 4 processors a case'; nothing without a cluster."""
    if cluster is None:
        return ""
    machines, cpus = len(cluster.nodes), cluster.cpus
    return (
        f" on {machines} machine{'s'[: machines > 1]} by Ray, {cpus} processor{'s'[: cpus > 1]} a"
        " case"
    )


def spread(
    cluster: "Cluster",
    cases: "Sequence[Planned]",
    store: "Store",
    progress: "Progress",
    interrupt: "Interrupt",
    o: dict[str, Any],
) -> "Spread":
    """Runs the cases, each a row of `progress`."""
    from lora_profiler.cluster_runs.resources import needs, together
    from lora_profiler.cluster_runs.scheduler import spread_cases

    progress.at_once = cluster.at_once(together(needs(each, cluster.cpus) for each in cases))
    rows = [progress.add(each) for each in cases]
    found = spread_cases(
        cases,
        store,
        progress.observer(rows[0]),
        cluster,
        resume=o["resume"],
        rerun=o["rerun"],
        deadline_seconds=o["deadline"],
        timeout_seconds=o["timeout"],
    )
    interrupt.asked |= found.interrupted
    progress.interrupt(None)
    return found


def say_what_was_lost(found: "Spread") -> None:
    """On stderr: what became of cases that have no record, and how many began anew."""
    for refused in found.refused:
        warn(f"left out {refused.case.key}: {refused.reason}")
    for lost in found.lost:
        warn(
            f"{lost.case.key} has no record, since Ray lost two workers over it: {lost.reason}. Run"
            " again with --resume."
        )
    if found.num_rescheduled:
        click.echo(
            f"Begun anew on another worker, since theirs was lost: {found.num_rescheduled} of the"
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

    from lora_profiler.campaign.planned import planned_elsewhere
    from lora_profiler.campaign.suites import suite_cases
    from lora_profiler.cluster_runs import slurm
    from lora_profiler.cluster_runs.resources import default_cpus, needs
    from lora_profiler.harness.device_choice import present_device

    folder = Path(o["output"])
    slurm.check_folder(folder, o["force"])
    device = o["device"] or present_device()
    cases = suite_cases(o["suite"], device)
    asked = [needs(planned_elsewhere(case), o["cpus_per_case"] or default_cpus()) for case in cases]
    slurm.emit(
        cases, asked, folder, suite=o["suite"], timeout_seconds=o["timeout"], force=o["force"]
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
