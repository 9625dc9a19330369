"""Setups whose layers no rule describes: their activations take a trace. No torch."""

OUTLIERS = (
    "Columns of a layer's input beyond llm_int8_threshold (6.0) are the data's, and none are counted:"
    " each is kept apart until backward, so that at most the inputs of the layers in int8 are there"
    " twice."
)
"""What a trace of LLM.int8 on a card leaves out."""


def has_outliers(setup: TrainSetup) -> bool:
    """Whether memory depends on the data's outliers; a CPU multiplies without looking for any."""
    base = setup.quantization
    is_int8 = base is not None and base.quant_type == "int8"
    return is_int8 and setup.device not in ("cpu", "xpu")


from lora_profiler.workload import TrainSetup


def why_unruled(setup: TrainSetup) -> str | None:
    """Whose activations the rules do not know, None where they may."""
    if setup.lora is not None and setup.lora.use_dora:
        return "DoRA's layers"
    if setup.quantization is not None and setup.quantization.quant_type == "int8":
        return "layers in LLM.int8"
    return None
