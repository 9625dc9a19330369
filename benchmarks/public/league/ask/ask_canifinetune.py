from protocol import ALL_LINEAR, ATTENTION, GIB, QUERY_VALUE, Question, answer, one_card, smallest

SCOPES = {"conservative": QUERY_VALUE, "attention": ATTENTION, "all_linear": ALL_LINEAR}


def estimate(question: Question) -> float:
    from canifinetune.estimator import memory, model_metadata

    one_card(question)
    model_metadata.fetch_model_config = lambda *_more, **_options: question["config"]
    model_metadata.fetch_model_parameter_count = lambda *_more, **_o: question["parameters"]
    adapters = {}
    if question["method"] != "full":
        scope = smallest(question, SCOPES)
        adapters = {"lora_rank": question["rank"], "lora_target_scope": scope}
    if question["method"] == "qlora":
        adapters["quantization"] = "nf4_double_quant" if question["double_quant"] else "nf4"
    flash = question["attention"] == "flash_attention_2"
    found = memory.estimate(
        memory.EstimateRequest(
            model_id=question["model"],
            method=question["method"],
            seq_len=question["seq_len"],
            micro_batch_size=question["batch_size"],
            base_dtype=question["weights"],
            optimizer="adamw_torch" if question["optimizer"] == "adamw" else "adamw_8bit",
            gradient_checkpointing=question["checkpointing"],
            attention_implementation="flash_attention_2" if flash else "sdpa",
            loss_backend="liger" if question["loss"] == "liger" else "stock",
            gpu_vram_gb=question["card_gib"],
            **adapters,
        )
    ).memory
    total = found.total_estimated_gb - found.safety_margin_gb
    if question["quantity"] == "allocated":
        total -= found.cuda_overhead_gb
    return total * GIB


answer(estimate)
