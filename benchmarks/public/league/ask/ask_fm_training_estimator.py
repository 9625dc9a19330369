import sys
from types import ModuleType, SimpleNamespace

from protocol import Question, RefusedError, answer, folder

REGRESSOR = ModuleType("fm_training_estimator.regressor")
REGRESSOR.LookupRegressor = REGRESSOR.GetRegressor = None
sys.modules[REGRESSOR.__name__] = REGRESSOR
"""What looks measured runs up, and fits them: there are none here, and it needs a framework."""


def estimate(question: Question) -> float:
    from fm_training_estimator.config import (
        FMArguments,
        HFTrainingArguments,
        PeftLoraConfig,
        PeftQLoraConfig,
    )
    from fm_training_estimator.memory.fsdp import FSDPEstimator
    from fm_training_estimator.memory.full import FullParameterTuningEstimator
    from fm_training_estimator.memory.full import full as full_module
    from fm_training_estimator.memory.lora import LoraEstimator
    from fm_training_estimator.memory.qlora import QLoraEstimator

    if question["optimizer"] != "adamw":
        raise RefusedError("no option for 8-bit states")

    class Tokenizer:
        @staticmethod
        def from_pretrained(_path: str) -> SimpleNamespace:
            return SimpleNamespace(model_max_length=question["seq_len"])

    full_module.AutoTokenizer = Tokenizer
    model = FMArguments(
        base_model_path=folder(question),
        flash_attention_v2=question["attention"] != "eager",
        max_seq_length=question["seq_len"],
        block_size=question["seq_len"],
        torch_dtype={"bf16": "bfloat16", "fp32": "float32"}[question["weights"]],
        technique=question["method"],
    )
    training = HFTrainingArguments(
        per_device_train_batch_size=question["batch_size"],
        gradient_checkpointing=question["checkpointing"],
        use_cpu=True,
    )
    if question["method"] == "full":
        found = FullParameterTuningEstimator(model, training)
    else:
        lora = PeftLoraConfig(r=question["rank"], target_modules=list(question["targets"]))
        if question["method"] == "lora":
            found = LoraEstimator(model, training, lora)
        else:
            quant = PeftQLoraConfig(quant_type="nf4", use_double_quant=question["double_quant"])
            found = QLoraEstimator(model, training, lora, quant)
    if question["sharding"] == "fsdp":
        found = FSDPEstimator(model, training, found, 0)
        found.set_number_of_gpus(question["cards"])
    return found.get_total_mem_estimate()


answer(estimate)
