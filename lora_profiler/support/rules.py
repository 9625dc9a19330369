"""Setups whose layers no rule describes: their activations take a trace. No torch."""

from lora_profiler.workload import TrainSetup

OUTLIERS = (
    "Columns of a layer's input beyond llm_int8_threshold (6.0) are the data's, and none are"
    " counted: each is kept apart until backward, so that at most the inputs of the layers in int8"
    " are there twice."
)
"""What a trace of LLM.int8 on a card leaves out."""


def why_unruled(setup: TrainSetup) -> str | None:
    """Whose activations the rules do not know, None where they may."""
    if setup.lora is not None and setup.lora.use_dora:
        return "DoRA's layers"
    if _is_int8(setup):
        return "layers in LLM.int8"
    return None


def has_outliers(setup: TrainSetup) -> bool:
    """Whether memory depends on the data's outliers; a CPU multiplies without looking for any."""
    return _is_int8(setup) and setup.device not in ("cpu", "xpu")


def _is_int8(setup: TrainSetup) -> bool:
    return setup.quantization is not None and setup.quantization.quant_type == "int8"
