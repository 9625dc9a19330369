from dataclasses import replace

from protocol import ALL_LINEAR, ATTENTION, GIB, QUERY_VALUE, Question, answer, smallest

TARGETS = {"attention": QUERY_VALUE, "attention_all": ATTENTION, "all_linear": ALL_LINEAR}


def estimate(question: Question) -> float:
    from ftuneai import hub
    from ftuneai.core.memory import CUDA_OVERHEAD_FRACTION, MemoryEstimator
    from ftuneai.core.models import (
        FineTuneMethod,
        LoRATarget,
        OptimizerType,
        Quantization,
        ShardingStrategy,
        TrainingConfig,
    )

    hub.fetch_model_config = lambda _name: question["config"]
    model = replace(
        hub.resolve_model_from_hub(question["model"]), parameters=question["parameters"]
    )
    model = replace(
        model, default_dtype={"bf16": "bfloat16", "fp32": "float32"}[question["weights"]]
    )
    adapters = {}
    if question["method"] != "full":
        target = LoRATarget(smallest(question, TARGETS))
        adapters = {"lora_rank": question["rank"], "lora_target": target}
    found = MemoryEstimator(
        model,
        TrainingConfig(
            model=question["model"],
            method=FineTuneMethod(question["method"]),
            quantization=Quantization("4bit" if question["method"] == "qlora" else "none"),
            batch_size=question["batch_size"],
            seq_length=question["seq_len"],
            gradient_checkpointing=question["checkpointing"],
            optimizer=OptimizerType("adamw" if question["optimizer"] == "adamw" else "adam_8bit"),
            flash_attention=question["attention"] != "eager",
            sharding=ShardingStrategy("fsdp" if question["sharding"] == "fsdp" else "none"),
            num_gpus=question["cards"],
            **adapters,
        ),
    ).estimate()
    total = found.total_gb * GIB
    return total / (1 + CUDA_OVERHEAD_FRACTION) if question["quantity"] == "allocated" else total


answer(estimate)
