"""What full, LoRA and QLoRA fine-tuning of a model cost in memory and compute, from the model's
name alone.

    from lora_profiler import LoraConfig, TrainSetup, Workload, find_model, predict
    prediction = predict(Workload(model=find_model("gpt2"), setup=TrainSetup(lora=LoraConfig(r=8))))
    prediction.peak.total_bytes
"""

from lora_profiler._common.packages import attach_stub

__getattr__, __dir__, __all__ = attach_stub(__name__, __file__)
