"""Runs that differ in their method alone: what full fine-tuning and LoRA are held against each
other with."""

from collections.abc import Sequence
from dataclasses import replace

from lora_profiler.report.page.runs import Run
from lora_profiler.workload import Workload


def groups_alike(runs: Sequence[Run]) -> list[list[Run]]:
    """Groups of runs with the same model, sizes, dtype, optimizer and device, one run a workload,
    full fine-tuning first.

    Only groups with several methods or ranks. In order of the largest peak, the largest first.
    """
    groups: dict[tuple[Workload, str], dict[Workload, Run]] = {}
    for run in runs:
        record = run.scored.record
        if record.measurement.went_through:
            key = _without_method(record.workload), record.environment.key
            groups.setdefault(key, {}).setdefault(record.workload, run)
    several = [sorted(found.values(), key=_order) for found in groups.values() if len(found) > 1]
    return sorted(several, key=lambda group: -max(peak_of(run) for run in group))


def full_and_lora(groups: Sequence[Sequence[Run]]) -> list[Run]:
    """Full fine-tuning and the first LoRA of the first group that has both and is predicted, else
    nothing."""
    for group in groups:
        full = [run for run in group if run.scored.record.workload.setup.lora is None]
        lora = [run for run in group if run.scored.record.workload.setup.lora is not None]
        if full and lora and full[0].scored.prediction and lora[0].scored.prediction:
            return [full[0], lora[0]]
    return []


def peak_of(run: Run) -> int:
    """Measured peak in bytes, 0 where it was not measured."""
    return run.scored.record.measurement.peak_requested_bytes or 0


def _without_method(workload: Workload) -> Workload:
    return replace(workload, setup=replace(workload.setup, lora=None, quantization=None))


def _order(run: Run) -> tuple[int, int, int]:
    setup = run.scored.record.workload.setup
    return (
        ("full", "lora", "qlora").index(setup.method),
        setup.lora.r if setup.lora else 0,
        run.number,
    )
