"""Adapters and bases that no engine follows everywhere, and adapters that PEFT refuses. No
torch."""

from lora_profiler.adapters import adapters
from lora_profiler.errors import UsageError
from lora_profiler.workload import Workload


def check_adapters(workload: Workload) -> None:
    """Raises UsageError for DoRA on bare parameters, such as packed experts, which PEFT refuses
    (`tuners/lora/layer.py`, ParamWrapper), and on ranks that share weights, which no trace was held
    against."""
    setup = workload.setup
    base = setup.quantization
    if base is not None and base.quant_type == "int8" and setup.sharding not in ("none", "ddp"):
        raise UsageError(
            f"sharding {setup.sharding} of a base in int8 is not modelled: its scales lie beside"
            " its weights; take --sharding ddp, or --quant-type nf4."
        )
    if setup.lora is None or not setup.lora.use_dora:
        return
    if setup.sharding not in ("none", "ddp"):
        raise UsageError(
            f"DoRA takes norms of whole weights, and under sharding {setup.sharding} no rank has"
            " them until they are gathered, which is not modelled; take --sharding ddp, or leave"
            " --use-dora out."
        )
    packed = next((a for a in adapters(workload.model, setup.lora) if a.parameter), None)
    if packed is not None:
        raise UsageError(
            f"PEFT has no DoRA for parameters that no linear layer holds, and"
            f" {packed.module}.{packed.parameter} is one; take --targets attention, or leave"
            " --use-dora out."
        )
