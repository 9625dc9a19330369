from protocol import MIB, Question, answer, folder, one_card

CARDS = {
    "NVIDIA A100 80GB": "a100-80",
    "NVIDIA A100": "a100-80",
    "NVIDIA A100-SXM4-40GB": "a100-40",
    "RTX 3090 (280W)": "3090",
    "RTX 4090 (400W)": "4090",
}


def estimate(question: Question) -> float:
    import fitcheck
    from fitcheck import config_parser
    from fitcheck.gpu_db import gpu_key_for
    from fitcheck.overhead_db import get_overhead_profile

    one_card(question)
    config_parser.hf_hub_download = lambda **_more: folder(question) + "/config.json"
    config_parser._reported_param_count = lambda *_more: question["parameters"]
    flash = question["attention"] != "eager"
    quantization = "nf4" if question["method"] == "qlora" else "none"
    training = fitcheck.TrainingConfig(
        precision=question["weights"],
        quantization=quantization,
        double_quant=question["double_quant"],
        optimizer="adamw" if question["optimizer"] == "adamw" else "adam8bit",
        optimizer_dtype=(
            "bf16" if question["method"] == "full" and question["weights"] == "bf16" else "fp32"
        ),
        batch_size=question["batch_size"],
        seq_len=question["seq_len"],
        lora_rank=question["rank"],
        lora_targets=question["targets"],
        grad_checkpoint=question["checkpointing"],
        flash_attn=flash,
    )
    card = fitcheck.get_gpu(CARDS[question["card"]])
    report = fitcheck.estimate(fitcheck.fetch_model_config(question["model"]), training, card)
    if question["quantity"] == "allocated":
        return (report.total_mib - report.overhead_mib) * MIB
    profile = get_overhead_profile(gpu_key_for(card), flash, quantization)
    return (report.total_mib - profile.base_context_mib) * MIB


answer(estimate)
