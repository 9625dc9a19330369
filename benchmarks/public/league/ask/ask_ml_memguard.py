from protocol import MIB, Question, answer, heads, llama_shaped, one_card


def estimate(question: Question) -> float:
    from memory_guard.estimator import (
        FinetuneMethod,
        ModelArch,
        ModelSpec,
        TrainSpec,
        estimate_training_memory,
    )

    one_card(question)
    llama_shaped(question)
    config = question["config"]
    attention, keys = heads(question)
    experts = config.get("num_local_experts") or 1
    model = ModelSpec(
        params=question["parameters"],
        hidden_dim=config["hidden_size"],
        num_heads=attention,
        num_kv_heads=keys,
        num_layers=config["num_hidden_layers"],
        intermediate_dim=config["intermediate_size"],
        bits=4 if question["method"] == "qlora" else {"bf16": 16, "fp32": 32}[question["weights"]],
        arch=ModelArch.MOE if experts > 1 else ModelArch.DENSE,
        num_experts=experts,
        num_active_experts=config.get("num_experts_per_tok") or 1,
    )
    adapters = {}
    if question["method"] != "full":
        adapters = {"lora_rank": question["rank"], "lora_targets": len(question["targets"])}
    found = estimate_training_memory(
        model,
        TrainSpec(
            method=FinetuneMethod(question["method"]),
            batch_size=question["batch_size"],
            seq_length=question["seq_len"],
            lora_layers=model.num_layers,
            optimizer="adamw",
            grad_checkpoint=question["checkpointing"],
            qlora_double_quant=question["double_quant"],
            flash_attention=question["attention"] != "eager",
            **adapters,
        ),
    )
    total = found.total_mb
    return (total - found.overhead_mb if question["quantity"] == "allocated" else total) * MIB


answer(estimate)
