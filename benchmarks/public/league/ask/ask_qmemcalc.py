from protocol import Question, answer, folder, llama_shaped, one_card


def estimate(question: Question) -> float:
    from qmemcalc.memory import estimate_memory

    one_card(question)
    llama_shaped(question)
    found = estimate_memory(
        folder(question),
        batch_size=question["batch_size"],
        seq_len=question["seq_len"],
        lora_r=question["rank"] or 0,
        precision=question["weights"],
        quantization="4bit" if question["method"] == "qlora" else "none",
        optimizer="adamw",
        num_trainable_params=question["trainable"],
        gradient_checkpointing=question["checkpointing"],
    )
    total = found["total_MB"]
    return (total - found["buffers_MB"] if question["quantity"] == "allocated" else total) * 1e6


answer(estimate)
