"""LLaMA-Factory's YAML that trains what a question asks."""

from lora_profiler.question.workload import TrainSetup, Workload
from lora_profiler.trainer_files.writing import (
    Keys,
    Launch,
    by_accelerate,
    cannot,
    is_int8,
    is_pure_bf16,
    short,
    training_arguments,
)

TRAINER = "llamafactory"


def keys(workload: Workload) -> Keys:
    setup = workload.setup
    lora, base = setup.lora, setup.quantization
    keys: Keys = {
        "model_name_or_path": workload.model.id,
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "full" if lora is None else "lora",
    }
    if lora is not None:
        names = lora.target_modules
        if names == ():
            raise cannot("LLaMA-Factory", "targets", [])
        keys |= {
            "quantization_bit": None if base is None else 8 if is_int8(base) else 4,
            "quantization_method": None if base is None else "bnb",
            "double_quantization": None if base is None else base.double_quant,
            "lora_rank": lora.r,
            "lora_alpha": short(lora.alpha),
            "lora_dropout": lora.lora_dropout,
            "lora_target": ",".join(names) if isinstance(names, tuple) else "all",
            "additional_target": ",".join(lora.modules_to_save) or None,
            "use_rslora": lora.use_rslora or None,
            "use_dora": lora.use_dora or None,
        }
    flash = {"auto": "sdpa", "flash_attention_2": "fa2", "eager": "disabled"}
    return keys | {
        "dataset": "alpaca_en_demo",
        "template": "default",
        "cutoff_len": setup.seq_len,
        "packing": False,
        "flash_attn": flash.get(setup.attention),
        "disable_gradient_checkpointing": not setup.checkpointing,
        "use_reentrant_gc": setup.use_reentrant,
        "enable_liger_kernel": setup.kernels == "liger",
        **training_arguments(setup),
        "pure_bf16": is_pure_bf16(setup) or None,
        "val_size": None if setup.eval_batch_size is None else 0.05,
    }


def launch(setup: TrainSetup, file: str) -> Launch:
    if not setup.is_shared:
        return Launch({}, {}, {}, f"llamafactory-cli train {file}")
    return by_accelerate(setup, file, f"accelerate launch --config_file {{}} src/train.py {file}")
