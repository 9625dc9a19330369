"""What a case needs of the machine that it is sent to, in the words of Ray and Slurm: processors,
GPUs, memory."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lora_profiler.campaign.planned import Planned
from lora_profiler.units import GIB

PROCESS_BYTES = 3 * GIB // 2
"""Of a measured process on the CPU beside its tensors: Python, torch and its libraries held 0.4 to
1.2 GiB in the committed records."""
ON_GPUS = ("cuda", "xpu")
"""Devices that Ray and Slurm count as GPUs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """Of one case. `memory_bytes` is 0 where nobody knows: on a GPU the host holds little but the
    loading of the weights."""

    cpus: int
    gpus: int
    memory_bytes: int


def needs(planned: Planned, cpus: int) -> Needs:
    """On the CPU the memory is the predicted peak, or the budget that ends the run before it, and a
    process without tensors; of several ranks, of each.
    """
    case, setup = planned.case, planned.case.workload.setup
    if setup.device != "cpu":
        return Needs(
            cpus=cpus, gpus=setup.world_size if setup.device in ON_GPUS else 0, memory_bytes=0
        )
    peak, budget = planned.prediction.peak.total_bytes, case.conditions.budget_bytes
    of_a_rank = PROCESS_BYTES + (peak if budget is None else min(peak, budget))
    return Needs(cpus=cpus, gpus=0, memory_bytes=of_a_rank * setup.world_size)


def together(several: Iterable[Needs]) -> Needs:
    """The most of each: what every task of one array asks for."""
    every = list(several)
    return Needs(
        cpus=max(n.cpus for n in every),
        gpus=max(n.gpus for n in every),
        memory_bytes=max(n.memory_bytes for n in every),
    )


def default_cpus(environ: Mapping[str, str] | None = None) -> int:
    """As many processors as OMP_NUM_THREADS allows threads, where it is set; else 1."""
    given = (os.environ if environ is None else environ).get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() and int(given) > 0 else 1
