"""`bench` on machines that others hand out: a suite as an array job of Slurm."""

from pathlib import Path
from typing import Any

import click

from lora_profiler.click_parts import warn


def emit(o: dict[str, Any]) -> None:
    """Writes the suite as a job; on stderr how to submit it and how to read its results.

    Without --device it is for the one that is here, as everywhere; the cases are refused by the machines that they come to.
    Raises UsageError.
    """
    import shlex

    from lora_profiler.campaign import slurm
    from lora_profiler.campaign.needs import default_cpus, needs
    from lora_profiler.campaign.planned import planned_elsewhere
    from lora_profiler.campaign.suites import suite_cases
    from lora_profiler.harness.device_choice import present_device

    folder = Path(o["output"])
    slurm.check_folder(folder, o["force"])
    device = o["device"] or present_device()
    cases = suite_cases(o["suite"], device)
    asked = [needs(planned_elsewhere(case), o["cpus_per_case"] or default_cpus()) for case in cases]
    slurm.emit(cases, asked, folder, suite=o["suite"], timeout_seconds=o["timeout"], force=o["force"])
    if len(cases) > slurm.USUAL_ARRAY_SIZE:
        warn(f"{len(cases):,} tasks are more than Slurm allows in one array by default (MaxArraySize); ask yours.")
    here = shlex.quote(str(folder))
    click.echo(f"Wrote {folder}: {len(cases)} cases for {device}, and the job that measures them.", err=True)
    click.echo(f"Submit it: cd {here} && sbatch {slurm.SCRIPT}", err=True)
    click.echo(f"Then: lora-profile compare {shlex.quote(str(folder / slurm.RESULTS))}", err=True)
