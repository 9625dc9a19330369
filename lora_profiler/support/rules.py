"""Setups whose layers no rule describes: their activations take a trace. No torch."""

from lora_profiler.workload import TrainSetup


def why_unruled(setup: TrainSetup) -> str | None:
    """Whose activations the rules do not know, None where they may."""
    if setup.lora is not None and setup.lora.use_dora:
        return "DoRA's layers"
    return None
