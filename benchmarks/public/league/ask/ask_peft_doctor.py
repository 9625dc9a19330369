from protocol import GIB, Question, RefusedError, answer, llama_shaped, one_card


def estimate(question: Question) -> float:
    from peft_doctor.estimator import estimate_vram_gb

    one_card(question)
    llama_shaped(question)
    if question["weights"] == "fp32":
        raise RefusedError("no option for float32 weights")
    report = estimate_vram_gb(
        question["model"],
        seq_len=question["seq_len"],
        batch_size=question["batch_size"],
        qlora=question["method"] == "qlora",
        lora=question["method"] != "full",
        gradient_checkpointing=question["checkpointing"],
        params_billion=question["parameters"] / 1e9,
        hidden_size=question["config"]["hidden_size"],
        num_layers=question["config"]["num_hidden_layers"],
    )
    total = report.metadata["estimated_total_gb"]
    if question["quantity"] == "allocated":
        (said,) = (issue for issue in report.issues if issue.code == "estimate.total_vram")
        total -= said.details["overhead_gb"]
    return total * GIB


answer(estimate)
