"""What an answer says of a model whose checkpoint does not store its weights in 16 or 32 bit."""

from lora_profiler.workload import Workload


def checkpoint_words(workload: Workload) -> tuple[str, ...]:
    """A sentence, or none where there is nothing to say."""
    model = workload.model
    if model.nf4 is not None:
        quantised = (
            "with double quantisation" if model.nf4.double_quant else "without double quantisation"
        )
        return (
            f"The checkpoint is stored in NF4 by bitsandbytes, {quantised}: adapters on it are"
            " QLoRA.",
        )
    if model.dequantized_from is None:
        return ()
    return (
        f"The checkpoint is stored in {model.dequantized_from}, on which this training is not"
        f" modelled: the answer is for its weights turned back into {workload.setup.dtype}.",
    )
