"""Adapters and bases that no engine follows everywhere, and adapters that PEFT refuses. No
torch."""

from lora_profiler.adapters import adapters
from lora_profiler.errors import UsageError
from lora_profiler.support.rules import why_unruled
from lora_profiler.workload import Workload


def check_adapters(workload: Workload) -> None:
    """Raises UsageError for layers without rules where no trace was held against ranks that share
    them; for Muon on what is no matrix; and for DoRA on bare parameters, such as packed experts,
    which PEFT refuses (`tuners/lora/layer.py`, ParamWrapper)."""
    setup = workload.setup
    if setup.lora is None:
        return
    layers = why_unruled(setup)
    if layers and setup.sharding not in ("none", "ddp"):
        raise UsageError(
            f"{layers} are known by traces alone, and none of sharding {setup.sharding} was held"
            " against them; take --sharding ddp, or ask without."
        )
    if setup.optimizer == "muon":
        kernel = next((a for a in adapters(workload.model, setup.lora) if a.kernel), None)
        if kernel is not None:
            raise UsageError(
                f"torch's Muon updates matrices alone, and the adapter on {kernel.module} is of a"
                " convolution; take another --optimizer."
            )
    if not setup.lora.use_dora:
        return
    packed = next((a for a in adapters(workload.model, setup.lora) if a.parameter), None)
    if packed is not None:
        raise UsageError(
            f"PEFT has no DoRA for parameters that no linear layer holds, and"
            f" {packed.module}.{packed.parameter} is one; take --targets attention, or leave"
            " --use-dora out."
        )
