"""A question as a short script: Unsloth's model, trained by TRL's SFTTrainer as it patches it."""

from typing import Any

from lora_profiler.question.adapters import adapters
from lora_profiler.question.workload import Sharding, TrainSetup, Workload
from lora_profiler.trainer_files.script_text import ROWS, Code, assigned, run_arguments
from lora_profiler.trainer_files.writing import (
    Launch,
    by_accelerate,
    cannot,
    is_bf16,
    is_int8,
    optim_key,
    short,
)

TRAINER = "unsloth"
SHARDINGS: tuple[Sharding, ...] = ("ddp",)


def script(workload: Workload) -> str:
    """The script's text. Its data are rows of random tokens, each as long as was asked, in place of
    one's own. Raises UsageError for options that no such script says."""
    setup = workload.setup
    for option in ("packed", "padding"):
        if value := getattr(setup, option):
            raise cannot("Unsloth", option, value)
    lines = [
        "from unsloth import FastLanguageModel  # before the libraries that it patches",
        "",
        "import torch",
        "from datasets import Dataset",
        "from trl import SFTConfig, SFTTrainer",
        "",
        f"MAX_LENGTH = {setup.seq_len}",
        "",
        *assigned("model, tokenizer", "FastLanguageModel.from_pretrained", _loading(workload)),
    ]
    if setup.lora is not None:
        lines += assigned("model", "FastLanguageModel.get_peft_model", _adapter(workload))
    rows = 4 * setup.batch_size * setup.accumulation
    trained: dict[str, Any] = {
        "model": Code("model"),
        "processing_class": Code("tokenizer"),
        "train_dataset": Code(f"Dataset.from_list(rows({rows}))"),
        "args": Code("arguments"),
    }
    if setup.eval_batch_size is not None:
        evaluated = Code(f"Dataset.from_list(rows({2 * setup.eval_batch_size}))")
        trained["eval_dataset"] = evaluated
    lines += [
        *assigned("arguments", "SFTConfig", _training_arguments(setup)),
        "",
        "",
        *ROWS,
        *assigned("trainer", "SFTTrainer", trained),
        "trainer.train()",
    ]
    return "\n".join(lines) + "\n"


def _checkpointing(setup: TrainSetup) -> str | bool:
    """Offloaded from 512 tokens on; below, they are ordinary ones of the same name."""
    return "unsloth" if setup.offload_checkpoints else setup.checkpointing


def _loading(workload: Workload) -> dict[str, Any]:
    setup, base = workload.setup, workload.setup.quantization
    return {
        "model_name": workload.model.id,
        "max_seq_length": Code("MAX_LENGTH"),
        "dtype": Code(f"torch.{setup.dtype}"),
        "load_in_4bit": base is not None and not is_int8(base),
        "load_in_8bit": is_int8(base) or None,
        "full_finetuning": setup.lora is None or None,
        "use_gradient_checkpointing": None if setup.lora else _checkpointing(setup),
    }


def _targets(workload: Workload) -> list[str]:
    """A list, which is all that it takes: get_peft_model goes through it word by word (Unsloth
    2026.10.9, `models/llama.py`)."""
    lora = workload.setup.lora
    assert lora is not None
    if isinstance(lora.target_modules, tuple):
        return list(lora.target_modules)
    found = adapters(workload.model, lora)
    return list(dict.fromkeys(each.module.rpartition(".")[2] for each in found))


def _adapter(workload: Workload) -> dict[str, Any]:
    setup, lora = workload.setup, workload.setup.lora
    assert lora is not None
    return {
        "": Code("model"),
        "r": lora.r,
        "target_modules": _targets(workload),
        "lora_alpha": short(lora.alpha),
        "lora_dropout": short(lora.lora_dropout),
        "modules_to_save": list(lora.modules_to_save) or None,
        "use_rslora": lora.use_rslora or None,
        "use_gradient_checkpointing": _checkpointing(setup),
        "random_state": 3407,
    }


def _training_arguments(setup: TrainSetup) -> dict[str, Any]:
    return {
        "output_dir": "outputs",
        "max_length": Code("MAX_LENGTH"),
        "packing": False,
        "per_device_train_batch_size": setup.batch_size,
        "gradient_accumulation_steps": setup.accumulation,
        "bf16": is_bf16(setup),
        "fp16": setup.precision == "amp-float16" or None,
        "optim": optim_key(setup),
        **run_arguments(setup),
    }


def launch(setup: TrainSetup, file: str) -> Launch:
    if not setup.is_shared:
        return Launch({}, {}, {}, f"python {file}")
    return by_accelerate(setup, file, f"accelerate launch --config_file {{}} {file}")
