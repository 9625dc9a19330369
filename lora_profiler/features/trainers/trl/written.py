"""TRL's YAML that trains what a question asks."""

from lora_profiler.question.workload import TrainSetup, Workload
from lora_profiler.trainer_files.writing import (
    ATTENTION,
    DATASET,
    Keys,
    Launch,
    by_accelerate,
    is_int8,
    listed,
    short,
    training_arguments,
)

TRAINER = "trl-sft"


def keys(workload: Workload) -> Keys:
    setup = workload.setup
    lora, base = setup.lora, setup.quantization
    keys: Keys = {
        "model_name_or_path": workload.model.id,
        "dtype": setup.dtype,
        "attn_implementation": ATTENTION.get(setup.attention),
        "use_peft": lora is not None,
    }
    if lora is not None:
        names = lora.target_modules
        keys |= {
            "load_in_4bit": base is not None and not is_int8(base),
            "load_in_8bit": is_int8(base) or None,
            "use_bnb_nested_quant": None if base is None else base.double_quant,
            "lora_r": lora.r,
            "lora_alpha": short(lora.alpha),
            "lora_dropout": lora.lora_dropout,
            "lora_target_modules": [names] if isinstance(names, str) else listed(names),
            "lora_target_parameters": listed(lora.target_parameters),
            "lora_modules_to_save": listed(lora.modules_to_save),
            "use_rslora": lora.use_rslora or None,
            "use_dora": lora.use_dora or None,
        }
    return keys | {
        "dataset_name": DATASET,
        "dataset_test_split": "train" if setup.eval_batch_size else None,  # its only one
        "max_length": setup.seq_len,
        "packing": setup.packed is not None,
        "gradient_checkpointing": setup.checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": setup.use_reentrant},
        "use_liger_kernel": setup.kernels == "liger",
        **training_arguments(setup),
    }


def launch(setup: TrainSetup, file: str) -> Launch:
    if not setup.is_shared:
        return Launch({}, {}, {}, f"trl sft --config {file}")
    return by_accelerate(setup, file, f"trl sft --config {file} --accelerate_config {{}}")
