from dataclasses import replace

from protocol import GIB, Question, answer, folder, llama_shaped, one_card


def estimate(question: Question) -> float:
    from fitscout.memory.estimator import estimate_memory
    from fitscout.model.introspect import inspect_model

    one_card(question)
    llama_shaped(question)
    width = {"bf16": 2, "fp32": 4}[question["weights"]]
    profile = replace(
        inspect_model(folder(question), dtype_bytes=width), params=question["parameters"]
    )
    found = estimate_memory(
        profile,
        method=question["method"],
        micro_batch=question["batch_size"],
        seq_len=question["seq_len"],
        grad_ckpt=question["checkpointing"],
        opt_8bit=question["optimizer"] == "adamw_8bit",
        **({"lora_rank": question["rank"]} if question["rank"] else {}),
        grad_dtype_bytes=width if question["method"] == "full" else 4,
    )
    return (found.total_gb - found.overhead_gb) * GIB


answer(estimate)
