"""What full, LoRA and QLoRA fine-tuning of a model cost in memory and compute, from the model's
name alone.

    from lora_profiler import predict
    predict("meta-llama/Llama-3.1-8B", method="qlora", gpu="t4", trainer="trl-sft")
"""

from lora_profiler._common.packages import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
